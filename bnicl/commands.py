"""The commands `bnicl predict` and `bnicl generate`: a network and rows of the reader's own, from files to files."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bnicl.estimators.elimination import split
from bnicl.estimators.families import Counts
from bnicl.estimators.inference import FittedNetwork
from bnicl.evaluation.evaluate import one_thread
from bnicl.evaluation.generation import generate_from
from bnicl.files import read_rows, write_rows
from bnicl.networks.checks import ABSENT
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.writing import write_bif
from bnicl.own import answer_file, answer_one, evidence_of, fit, node_of, plain_number
from bnicl.transformer.construction import construct_mle_transformer


def predict(arguments: argparse.Namespace) -> None:
    """`bnicl predict`: one answer on the screen, or the answers to a file of queries, written to another file."""
    if (arguments.queries is None) != (arguments.out is None):
        raise ValueError("--queries: expected together with --out, a file for the answers, got one of the two")
    if arguments.queries is not None and (arguments.given or arguments.train):
        raise ValueError("--queries: expected neither --given nor --train beside it, got one of them")
    if arguments.out is not None:
        check_new([arguments.out], arguments, arguments.force)
    if arguments.train is not None:
        _check_plain(arguments)
    with one_thread():
        fitted = _fit(arguments)
        if arguments.queries is not None:
            target = node_of(fitted.net, arguments.target, "--target")
            n, direct = answer_file(fitted, target, arguments.queries, arguments.out, arguments.samples, arguments.seed)
            other = "exact inference" if arguments.samples is None else "weighted samples"
            by = "the constructed transformer" if fitted.estimator == "mle" else "the posterior mean of one table"
            print(
                f"finished: {n:,} queries in {arguments.out}, {direct:,} by {by}, {n - direct:,} by {other}, from "
                f"{fitted.counts.n:,} rows"
            )
            return
    target = node_of(fitted.net, arguments.target, "--target")
    evidence = evidence_of(fitted.net, _parsed(arguments.given, fitted.net), "--given")
    if arguments.train is None:
        print(answer_one(fitted, target, evidence, arguments.samples, arguments.seed))
        return
    known = {int(m) for m in (evidence[0] != ABSENT).nonzero()[:, 0]}
    if split(fitted.net, target, known | set(fitted.net.parents[target])).factors != [target]:
        raise ValueError("--train: expected evidence without descendants of the target, which a transformer reads left "
                         "to right, got some")  # fmt: skip
    if unknown := [fitted.net.names[p] for p in fitted.net.parents[target] if p not in known]:
        raise ValueError(f"--train: expected a state for every parent of the target, got none for {', '.join(unknown)}")
    p = _trained(arguments, fitted.net)(evidence, target)[0].tolist()
    for state, value in zip(fitted.net.states[target], p, strict=True):
        print(f"{value:8.4f}  {arguments.target}={state}")
    matching = fitted.counts.matching(evidence, target).item()
    print(f"trained transformer: {plain_number(matching)} of {fitted.counts.n:,} rows have these parents")


def generate(arguments: argparse.Namespace) -> None:
    """`bnicl generate`: new rows, the figure that compares their marginals with the context's, and a manifest."""
    import matplotlib.pyplot as plt

    from bnicl import figures
    from bnicl.batch import runs, staleness

    out = arguments.out
    if out.suffix != ".csv":
        raise ValueError(f"out: expected a file that ends in .csv, got {str(out)!r}")
    files = [out.with_suffix(suffix) for suffix in (".csv", ".png", ".json")]
    check_new(files, arguments, arguments.force)
    if arguments.train is not None:
        _check_plain(arguments)
    fitted = _fit(arguments)
    counts, net = fitted.counts, fitted.net
    if arguments.train is not None:
        conditionals = _trained(arguments, net)
    elif fitted.estimator == "mle":
        wide = sum(net.cardinalities) > 64
        built = construct_mle_transformer(net, max_context=max(1, counts.n), variant="causal", sparse=wide)
        conditionals = built.counted(counts)
    else:
        conditionals = fitted.conditionals
    with one_thread():
        new = generate_from(conditionals, net.n_nodes, arguments.n, arguments.seed)
    figure = figures.marginals(counts, Counts.of([new], net))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bnicl-") as folder:
        parts = [Path(folder) / path.name for path in files]
        write_rows(parts[0], net, new)
        figure.savefig(parts[1], dpi=150)
        plt.close(figure)
        inputs = [Path(name) for name in (arguments.network, arguments.context) if Path(name).is_file()]
        manifest: dict[str, Any] = {
            "call": {name: str(value) for name, value in vars(arguments).items() if name != "command"},
            "rows in the context": counts.n,
            "sha256": {
                **{str(path): staleness.file_digest(path) for path in inputs},
                str(out): staleness.file_digest(parts[0]),
            },
            **runs.environment(),
        }
        parts[2].write_text(json.dumps(manifest, indent=1) + "\n")
        for part, path in zip(parts, files, strict=True):
            part.replace(path)
    print(f"finished: {arguments.n:,} rows in {out}, from {counts.n:,}; figure and manifest beside it")


def _fit(arguments: argparse.Namespace) -> FittedNetwork:
    if arguments.alpha is not None and arguments.estimator != "posterior-mean":
        raise ValueError(f"--alpha: expected --estimator posterior-mean beside it, got {arguments.estimator}")
    return fit(
        arguments.network,
        arguments.context,
        estimator=arguments.estimator,
        alpha=0.5 if arguments.alpha is None else arguments.alpha,
        missing=arguments.missing,
    )


def _check_plain(arguments: argparse.Namespace) -> None:
    """A transformer that is trained has an estimator of its own, and reads whole rows."""
    for name, default in (("estimator", "mle"), ("missing", "refuse"), ("alpha", None), ("samples", None)):
        if (given := getattr(arguments, name, default)) != default:
            raise ValueError(f"--train: expected no --{name} beside it, got {given}")


def _trained(arguments: argparse.Namespace, net: BayesianNetwork) -> Callable[[Tensor, int], Tensor]:
    """A transformer trained for the graph, as a function of queries and a target, after the context."""
    from bnicl.training.config import TrainingConfig
    from bnicl.training.loop import train

    with tempfile.TemporaryDirectory(prefix="bnicl-") as folder:
        graph = str(Path(folder) / "graph.bif")
        write_bif(graph, replace(net, cpts=None))
        run = train(TrainingConfig(graph=graph, seconds=arguments.train))
    answer = run.given(read_rows(arguments.context, net)[None])
    return lambda query, target: answer(query[None], target)[0]


def check_new(files: list[Path], arguments: argparse.Namespace, force: bool) -> None:
    """Raises before any work for a file that is there already, is an input of the call, or has no folder."""
    inputs = (getattr(arguments, name, None) for name in ("network", "context", "queries"))
    taken = {Path(name).resolve() for name in inputs if name is not None}
    for path in files:
        if not path.parent.is_dir():
            raise ValueError(f"out: expected a folder that is there, got {str(path.parent)!r}")
        if path.exists() and not path.is_file():
            raise ValueError(f"out: expected a file, got {path}, which is something else")
        if path.resolve() in taken:
            raise ValueError(f"out: expected another file than what is read, got {path}")
        if path.exists() and not force:
            raise FileExistsError(f"out: expected a new file, got {path}, which exists; --force replaces it")


def _parsed(texts: list[str], net: BayesianNetwork) -> dict[str, str]:
    """NODE=STATE, each node once; where a name holds a "=" itself, the longest name of a node wins."""
    given: dict[str, str] = {}
    for text in texts:
        name = max((name for name in net.names if text.startswith(f"{name}=")), key=len, default="")
        if not name:
            known = ", ".join(net.names[:20]) + (", ..." if net.n_nodes > 20 else "")
            raise ValueError(f"--given: expected NODE=STATE with a node of {known}, got {text!r}")
        if name in given:
            raise ValueError(f"--given: expected each node once, got {name} twice")
        given[name] = text[len(name) + 1 :]
    return given
