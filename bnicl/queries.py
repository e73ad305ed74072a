"""Many questions at once: a file of queries answered line by line in another file, a block at a time.

An empty cell is unknown. The answers hold what was asked, the probability of each state of the target, the interval or
standard error that goes with it, how many rows it rests on, and whether the target's own table was all that mattered.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from bnicl.encoding import ABSENT
from bnicl.inference import FittedNetwork, ImpossibleEvidence
from bnicl.rows import line_of, read_queries
from bnicl.writing import whole_file

_AT_ONCE = 4096  # queries


def answer_file(
    fitted: FittedNetwork, target: int, queries: Path, out: Path, samples: int | None = None, seed: int = 0
) -> tuple[int, int]:
    """Answers every query of a CSV file in the file `out`, which appears when it is whole.

    fitted, target, samples, seed: as for `FittedNetwork.posterior`. queries: a column for each node that any of them
    knows. Returns how many there are, and how many one table answered.

    Raises ValueError with the line for values that cannot be, and for evidence that is impossible under the fit.
    """
    import pandas as pd
    from tqdm import tqdm

    net = fitted.net
    known, blocks = read_queries(queries, net)
    beside = {"low": "low", "high": "high"} if fitted.estimator == "posterior-mean" else {}
    beside |= {"error": "standard error"} if samples is not None else {}
    header = _header(fitted, target, known, list(beside.values()))
    direct = n = 0
    with whole_file(out) as part, tqdm(unit=" queries", disable=None) as progress:
        for _, evidence in blocks:
            if bool((evidence[:, target] != ABSENT).any()):
                raise ValueError(f"{queries}: expected no values of the target {net.names[target]}, got some")
            for asked in evidence.split(_AT_ONCE):
                try:
                    found = fitted.posterior(target, asked, samples, seed)
                except ImpossibleEvidence as error:
                    raise ValueError(f"{queries}, line {line_of(queries, n + error.query)}: {error}") from None
                numbers = torch.cat([found.probabilities, *(getattr(found, name) for name in beside)], dim=1)
                tail = pd.DataFrame({"rows": found.rows.numpy(), "direct": found.direct.numpy()})
                columns = [*_named(fitted, known, asked), pd.DataFrame(numbers.numpy()), tail]
                pd.concat(columns, axis=1).to_csv(
                    part, mode="a", header=header if n == 0 else False, index=False, float_format="%.6g"
                )
                direct, n = direct + int(found.direct.sum()), n + len(asked)
                progress.update(len(asked))
    return n, direct


def _header(fitted: FittedNetwork, target: int, known: list[int], beside: list[str]) -> list[str]:
    """The names of the columns; one that a node has, too, gets another name."""
    names = fitted.net.names
    p = [f"P({names[target]}={state})" for state in fitted.net.states[target]]
    own = [*p, *(f"{name} {what}" for what in beside for name in p), "rows", "direct"]
    return [*(names[m] for m in known), *(f"answer {name}" if name in names else name for name in own)]


def _named(fitted: FittedNetwork, known: list[int], asked: Tensor) -> list[object]:
    """What was asked, a column for each node, by the names of the states."""
    import pandas as pd

    states = fitted.net.states
    return [pd.Series([[*map(str, states[m]), ""][code] for code in asked[:, m].tolist()]) for m in known]
