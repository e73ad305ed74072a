"""A network and rows of the reader's own: from files to an answer in one call.

`posterior` answers one question, `fit` is its first step, and `answer_file` answers a file of questions: line by
line in another file, a block at a time. There an empty cell is unknown, and the answers hold what was asked, the
probability of each state of the target, the interval or standard error that goes with it, how many rows it rests on,
and whether the target's own table was all that mattered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from bnicl.edges import read_edges
from bnicl.estimators.families import Counts
from bnicl.estimators.incomplete import check_joint_states, counts_by_em
from bnicl.estimators.inference import Estimator, FittedNetwork, ImpossibleEvidence, Posteriors
from bnicl.files import RowsFile, StateNames, count_rows, line_of, read_queries, read_rows
from bnicl.networks.checks import ABSENT, Rows, check_states
from bnicl.networks.graph import BayesianNetwork
from bnicl.networks.sources import is_network_file, load_network
from bnicl.networks.writing import whole_file
from bnicl.transformer.construction import read_family

Missing = Literal["refuse", "available", "em"]
Source = BayesianNetwork | str | os.PathLike[str]


@dataclass(frozen=True)
class Posterior:
    """The answer to one question: P(target | given), and what it rests on.

    probabilities: by the name of the state. low, high: a 95 % credible interval (posterior mean). error: the standard
    error (samples). source: what gave the answer, and on how many rows it rests.
    """

    target: str
    probabilities: dict[str, float]
    source: str
    low: dict[str, float] | None = None
    high: dict[str, float] | None = None
    error: dict[str, float] | None = None

    def __str__(self) -> str:
        lines = []
        for state, p in self.probabilities.items():
            beside = ""
            if self.low and self.high:
                beside = f"  [{self.low[state]:.4f}, {self.high[state]:.4f}]"
            elif self.error:
                beside = f"  ± {self.error[state]:.4f}"
            lines.append(f"{p:8.4f}{beside}  {self.target}={state}")
        return "\n".join([*lines, self.source])


def read_network(network: Source, rows: Rows | RowsFile) -> BayesianNetwork:
    """The graph of a network: as given, by its name, or of a file (BIF, XMLBIF, or a list of edges, whose states are
    those of the file of rows). Tables are not read."""
    if isinstance(network, BayesianNetwork):
        return network
    if not isinstance(network, str | os.PathLike):
        raise ValueError(f"network: expected a BayesianNetwork, a name or a path, got {type(network).__name__}")
    source = os.fspath(network)
    if is_network_file(source) or not Path(source).is_file():
        return load_network(source, tables=False)
    if isinstance(rows, Tensor):
        raise ValueError("rows: expected a file beside a list of edges, which takes its states from it, got a tensor")
    return read_edges(source, rows)


def fit(
    network: Source,
    rows: Rows | str | os.PathLike[str],
    *,
    estimator: Estimator = "mle",
    alpha: float = 0.5,
    missing: Missing = "refuse",
) -> FittedNetwork:
    """The network with tables estimated from rows.

    network: a BayesianNetwork (its tables are not used), a name, or a file: BIF, XMLBIF, or a list of edges.
    rows: int64 [n, M], ABSENT where a cell has no value, or the path of a CSV file.
    estimator: "mle", relative frequencies, or "posterior-mean" under Dirichlet(alpha) rows.
    missing: what to do about cells without a value: "refuse" them; "available" counts each node over the rows that
    have it and its parents; "em" takes expected counts (see `incomplete`), the M step being the estimator's.

    Raises ValueError for files that cannot be read, gaps if they are refused, and networks too large for "em".

    >>> fitted = fit("chain3", torch.tensor([[0, 0, 0], [1, 1, 1], [1, 1, 0]]))
    >>> fitted.posterior(0, torch.tensor([[ABSENT, ABSENT, 1]])).probabilities
    tensor([[0., 1.]], dtype=torch.float64)
    """
    if not isinstance(missing, str) or missing not in get_args(Missing):
        raise ValueError(f"missing: expected one of {', '.join(get_args(Missing))}, got {missing!r}")
    _check_rows(rows)
    given = rows if isinstance(rows, Tensor) else RowsFile(rows, gaps=missing != "refuse")
    net = read_network(network, given)
    if missing == "em":
        check_joint_states(net)
        own = given if isinstance(given, Tensor) else read_rows(given, net)
        counts = counts_by_em(own, net, alpha if estimator == "posterior-mean" else 0.0)
    elif isinstance(given, Tensor):
        check_states("rows", given, net.cardinalities, absent=missing == "available")
        counts = Counts.of([given], net)
    else:
        counts = count_rows(given, net)
    return FittedNetwork(counts, estimator, alpha, read_family)


def _check_rows(rows: Rows | str | os.PathLike[str]) -> None:
    """Raises ValueError unless `rows` is the tensor of one context or a path."""
    if isinstance(rows, Tensor):
        if rows.ndim != 2 or rows.layout != torch.strided or rows.is_meta:
            raise ValueError(f"rows: expected the rows [n, nodes] of one context, got shape {tuple(rows.shape)}")
    elif not isinstance(rows, str | os.PathLike):
        raise ValueError(f"rows: expected a tensor or the path of a CSV file, got {type(rows).__name__}")


def posterior(
    network: Source,
    rows: Rows | str | os.PathLike[str],
    target: str,
    given: Mapping[str, object] | None = None,
    *,
    estimator: Estimator = "mle",
    alpha: float = 0.5,
    missing: Missing = "refuse",
    samples: int | None = None,
    seed: int = 0,
) -> Posterior:
    """P(target | given) under the network fitted to rows, exactly, whatever is given: causes, effects, or nothing.

    network, rows, estimator, alpha, missing: as for `fit`.
    target: the name of a node. given: states by the names of nodes; any set of nodes but the target.
    samples: how many weighted samples replace the exact sum, where one table is not enough. seed: for these, and
    for the tables drawn for the credible interval of the posterior mean.

    Where the evidence holds the target's parents and none of its descendants, the constructed transformer answers.
    Raises ValueError for names and states that do not exist, for evidence that is impossible under the fit, and for a
    sum that is too wide, with its size.

    >>> rows = torch.tensor([[0, 0], [0, 0], [0, 1], [1, 1]])
    >>> net = BayesianNetwork(("flu", "fever"), ((), (0,)), (2, 2), states=(("no", "yes"), ("no", "yes")))
    >>> print(posterior(net, rows, "flu", {"fever": "yes"}))
      0.5000  flu=no
      0.5000  flu=yes
    exact inference in the network fitted to 4 rows
    """
    fitted = fit(network, rows, estimator=estimator, alpha=alpha, missing=missing)
    m, evidence = node_of(fitted.net, target), evidence_of(fitted.net, given or {})
    return answer_one(fitted, m, evidence, samples, seed)


def answer_one(fitted: FittedNetwork, m: int, evidence: Tensor, samples: int | None, seed: int) -> Posterior:
    """The answer to one question, with the names of the states."""
    found = fitted.posterior(m, evidence, samples, seed)
    states = [str(state) for state in fitted.net.states[m]]

    def named(values: Tensor) -> dict[str, float] | None:
        return None if bool(values.isnan().any()) else dict(zip(states, values[0].tolist(), strict=True))

    p = named(found.probabilities)
    assert p is not None
    return Posterior(
        fitted.net.names[m], p, _source(fitted, found), named(found.low), named(found.high), named(found.error)
    )


def _source(fitted: FittedNetwork, found: Posteriors) -> str:
    n = f"{fitted.counts.n:,} rows"
    if bool(found.direct):
        by = "constructed transformer" if fitted.estimator == "mle" else f"posterior mean, alpha = {fitted.alpha:g}"
        return f"{by}: {plain_number(found.rows.item())} of {n} have these parents"
    if not bool(found.error.isnan().any()):
        return f"weighted samples of the network fitted to {n}"
    unseen = found.unseen.item()
    note = "" if not unseen > 1e-9 else (
        f"; {100 * unseen:.3g} % of the evidence's probability runs through states of parents that no row has, where "
        f"the nearest rows stand in"
    )  # fmt: skip
    return f"exact inference in the network fitted to {n}{note}"


def plain_number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"


def node_of(net: BayesianNetwork, name: str, what: str = "target") -> int:
    """The index of a node; a ValueError with the names if there is none of this name."""
    if not isinstance(name, str) or name not in net.names:
        known = ", ".join(net.names[:20]) + (", ..." if net.n_nodes > 20 else "")
        raise ValueError(f"{what}: expected one of {known}, got {name!r}")
    return net.names.index(name)


def evidence_of(net: BayesianNetwork, given: Mapping[str, object], what: str = "given") -> Tensor:
    """States by the names of nodes as evidence [1, M]; `what` is the name of the argument in messages."""
    if not isinstance(given, Mapping):
        raise ValueError(f"{what}: expected states by the names of nodes, got {type(given).__name__}")
    evidence = torch.full((1, net.n_nodes), ABSENT)
    for name, state in given.items():
        m = node_of(net, name, what)
        code = StateNames([str(own) for own in net.states[m]]).code(str(state))
        if code < 0:
            known = ", ".join(str(own) for own in net.states[m])
            raise ValueError(f"{what}: expected one of {known} for {name}, got {str(state)!r}")
        evidence[0, m] = code
    return evidence


# --- files of questions ---------------------------------------------------------------------------

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
