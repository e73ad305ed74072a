"""A network and rows of the reader's own: from files to an answer in one call, and the two commands.

`posterior` is `bnicl predict` in Python, and `fit` what it does first; `predict` and `generate` are the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bnicl.construction import construct_mle_transformer
from bnicl.counts import Counts, Rows
from bnicl.elimination import split
from bnicl.encoding import ABSENT, check_states
from bnicl.generation import generate_from, one_thread
from bnicl.incomplete import check_joint_states, counts_by_em
from bnicl.inference import Estimator, FittedNetwork, Posteriors
from bnicl.networks import BayesianNetwork
from bnicl.queries import answer_file
from bnicl.rows import StateNames, count_rows, read_edges, read_rows
from bnicl.sources import is_network_file, load_network
from bnicl.writing import write_bif, write_rows

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


def read_network(network: Source, rows: Rows | str | os.PathLike[str], gaps: bool = False) -> BayesianNetwork:
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
    return read_edges(source, rows, gaps)


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
    net = read_network(network, rows, gaps=missing != "refuse")
    if missing == "em":
        check_joint_states(net)
        own = rows if isinstance(rows, Tensor) else read_rows(rows, net, gaps=True)
        counts = counts_by_em(own, net, alpha if estimator == "posterior-mean" else 0.0)
    elif isinstance(rows, Tensor):
        check_states("rows", rows, net.cardinalities, absent=missing == "available")
        counts = Counts.of([rows], net)
    else:
        counts = count_rows(rows, net, gaps=missing == "available")
    return FittedNetwork(counts, estimator, alpha)


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
    samples: so many weighted samples instead of the exact sum, where one table does not answer. seed: of those, and
    of the tables drawn for the credible interval of the posterior mean.

    Where the evidence holds the target's parents and none of its descendants, the constructed transformer answers.
    Raises ValueError for names and states that there are not, for evidence that is impossible under the fit, and for a
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
    return _answer(fitted, m, evidence, samples, seed)


def _answer(fitted: FittedNetwork, m: int, evidence: Tensor, samples: int | None, seed: int) -> Posterior:
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
        return f"{by}: {_number(found.rows.item())} of {n} have these parents"
    if not bool(found.error.isnan().any()):
        return f"weighted samples of the network fitted to {n}"
    unseen = found.unseen.item()
    note = "" if not unseen > 1e-9 else (
        f"; {100 * unseen:.3g} % of the evidence's probability runs through states of parents that no row has, where "
        f"the nearest rows stand in"
    )  # fmt: skip
    return f"exact inference in the network fitted to {n}{note}"


def _number(value: float) -> str:
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


# --- the commands ---------------------------------------------------------------------------------


def predict(arguments: argparse.Namespace) -> None:
    """`bnicl predict`: one answer on the screen, or those to a file of queries in another file."""
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
        print(_answer(fitted, target, evidence, arguments.samples, arguments.seed))
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
    print(f"trained transformer: {_number(matching)} of {fitted.counts.n:,} rows have these parents")


def generate(arguments: argparse.Namespace) -> None:
    """`bnicl generate`: new rows, the figure that sets their marginals beside the context's, and a manifest."""
    import matplotlib.pyplot as plt

    from bnicl import figures, runs

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
            "sha256": {**{str(path): runs.file_digest(path) for path in inputs}, str(out): runs.file_digest(parts[0])},
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
    from bnicl.recipes import TrainingConfig
    from bnicl.training import train

    with tempfile.TemporaryDirectory(prefix="bnicl-") as folder:
        graph = str(Path(folder) / "graph.bif")
        write_bif(graph, replace(net, cpts=None))
        run = train(TrainingConfig(graph=graph, seconds=arguments.train))
    return run.conditioned(read_rows(arguments.context, net))


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
