"""pyAgrum, the fastest peer, in a process of its own: it and torch do not live in one.

    python -m benchmarks.agrum fit          NETWORK ROWS REPETITIONS    median seconds to fit the tables
    python -m benchmarks.agrum sample       NETWORK ROWS REPETITIONS    the same, and draw 1,000 rows
    python -m benchmarks.agrum predict      NETWORK ROWS TARGET [NODE=STATE ...]
    python -m benchmarks.agrum generate     NETWORK ROWS N OUT

NETWORK is a BIF file, or a list of edges whose states are 0 and 1.
"""

import csv
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import pyagrum

PRIOR = 1e-6  # a state of the parents that no row has raises an error without


def network(path: str) -> Any:
    if path.endswith(".bif"):
        return pyagrum.loadBN(path)
    with Path(path).open(newline="") as file:
        edges = list(csv.reader(file))
    net = pyagrum.BayesNet()
    for name in dict.fromkeys(name for edge in edges for name in edge):
        net.add(pyagrum.LabelizedVariable(name, name, ["0", "1"]))
    for parent, child in edges:
        net.addArc(parent, child)
    return net


def fitted(net: Any, rows: str) -> Any:
    learner = pyagrum.BNLearner(rows, net)
    learner.useSmoothingPrior(PRIOR)
    return learner.learnParameters(net.dag())


def sampled(net: Any, n: int) -> Any:
    """The generator with its rows; it needs the network for as long as it lives."""
    generator = pyagrum.BNDatabaseGenerator(net)
    generator.drawSamples(n)
    return generator


def main(what: str, path: str, rows: str, *words: str) -> None:
    net = network(path)
    if what in ("fit", "sample"):
        seconds = []
        for _ in range(int(words[0])):
            begin = time.perf_counter()
            new = fitted(net, rows)
            if what == "sample":
                sampled(new, 1000).to_pandas()
            seconds.append(time.perf_counter() - begin)
        print(median(seconds))
    elif what == "predict":
        target, *given = words
        inference = pyagrum.LazyPropagation(fitted(net, rows))
        inference.setEvidence(dict(text.split("=") for text in given))
        print(inference.posterior(target).tolist())
    else:
        new = fitted(net, rows)
        sampled(new, int(words[0])).toCSV(words[1])


if __name__ == "__main__":
    main(*sys.argv[1:])
