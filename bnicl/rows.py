"""A reader's own files: the rows of a network as CSV, its graph as a list of edges, and their counts in one pass.

A CSV file has one column for each node, under the node's name and in any order, and a line for each row; a value is
the name of one of the node's states ("yes", "0", "LOW"). An edge list has a line `parent,child` for each edge and a
line with one name for a node without any. What does not fit is refused with its line.

`read_rows` and `count_rows` read a block of lines at a time: counts of a file of any length fit in memory.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int64
from torch import Tensor

from bnicl.encoding import ABSENT, Query, check_states, check_target
from bnicl.estimators import count
from bnicl.networks import BayesianNetwork, check_network
from bnicl.sampling import ravel_states

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 50_000  # lines read at once
_MISSING = {"", "NaN", "nan", "NA", "null"}
_FEW = 5  # names or lines in a message
MAX_STATES = 1000  # of a column whose states are found in the file: more look like a measurement
Rows = Int64[Tensor, "n nodes"]


# --- rows -----------------------------------------------------------------------------------------


def read_rows(path: str | os.PathLike[str], net: BayesianNetwork) -> Rows:
    """The rows of a CSV file as states of the network's nodes, int64 [n, M].

    Raises ValueError, with the file and its lines, for a file that is not there, is not text in UTF-8 or has no rows;
    for columns that are missing, unknown or there twice; for fields without a value and for states the node lacks.
    """
    return torch.cat(list(_blocks(Path(path), net)))


def count_rows(path: str | os.PathLike[str], net: BayesianNetwork) -> Counts:
    """The counts of every family in a CSV file, read once, a block of lines at a time; raises as `read_rows` does."""
    return Counts.of(_blocks(Path(path), net), net)


def write_rows(path: str | os.PathLike[str], net: BayesianNetwork, rows: Rows, force: bool = False) -> None:
    """Writes rows as CSV, with the names of nodes and states; raises FileExistsError unless `force`.

    The file appears when it is whole.

    >>> import tempfile
    >>> net = BayesianNetwork(("rain", "wet"), ((), (0,)), (2, 2), states=(("no", "yes"), ("no", "yes")))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rows(folder + "/new.csv", net, torch.tensor([[0, 1], [1, 1]]))
    ...     read_rows(folder + "/new.csv", net).tolist()
    [[0, 1], [1, 1]]
    """
    import pandas as pd

    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"out: expected a new file, got {path}, which exists; --force replaces it")
    named = {
        name: pd.Categorical.from_codes(rows[:, m].numpy(), [str(state) for state in net.states[m]])
        for m, name in enumerate(net.names)
    }
    part = path.with_name(path.name + ".part")
    try:
        pd.DataFrame(named).to_csv(part, index=False)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _blocks(path: Path, net: BayesianNetwork) -> Iterator[Rows]:
    """The rows of a file, a block of lines at a time."""
    import pandas as pd

    check_network(net)
    known = [[str(state) for state in own] for own in net.states]
    _check_header(path, _header(path), net)
    for first, block in _text_blocks(path, dict(zip(net.names, known, strict=True))):
        columns = []
        for m, name in enumerate(net.names):
            codes = pd.Index(known[m]).get_indexer(block[name])
            unknown = codes < 0
            if unknown.any():
                state = block[name][unknown].iloc[0]
                lines = _some([str(first + i) for i in unknown.nonzero()[0] if block[name].iloc[i] == state])
                raise ValueError(f"{path}: expected one of {_some(known[m])} for {name}, got {state!r} in line {lines}")
            columns.append(torch.from_numpy(codes.astype("int64")))
        yield torch.stack(columns, dim=1)


def _text_blocks(path: Path, known: Mapping[str, Sequence[str]] | None = None) -> Iterator[tuple[int, pd.DataFrame]]:
    """Blocks of the file as text, every field filled, each with the number of its first line.

    known: states by node; what stands for a missing value elsewhere ("NA") may be the name of a state.
    """
    import pandas as pd

    line = 2
    try:
        with pd.read_csv(
            path, dtype=str, na_filter=False, chunksize=_BLOCK, encoding="utf-8-sig", index_col=False,
            skip_blank_lines=False, skipinitialspace=True,
        ) as reader:  # fmt: skip
            for block in filter(len, reader):
                states = known or {}
                none = {name: sorted(_MISSING - {*states.get(name, ())}) for name in block}
                empty = block.isna() | block.isin(none)
                if empty.any(axis=None):
                    name = empty.columns[empty.any()][0]
                    lines = _some([str(line + i) for i in empty[name].to_numpy().nonzero()[0]])
                    raise ValueError(f"{path}: expected a value in every field, got none for {name} in line {lines}")
                yield line, block
                line += len(block)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: expected a field for each column, got another number ({error})") from error
    if line == 2:
        raise ValueError(f"{path}: expected at least one row below the header, got none")


def _header(path: Path) -> list[str]:
    """The names of the columns."""
    if not path.is_file():
        raise ValueError(f"rows: expected a file, got {str(path)!r}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            names, second = ([field.strip() for field in next(lines, [])] for _ in range(2))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error
    if not any(names) or "\0" in "".join(names):
        raise ValueError(f"{path}: expected a header with the names of the nodes, got none")
    if len(second) > len(names):  # pandas would drop what is too much, if every line has it
        raise ValueError(f"{path}: expected a field for each column, got another number (saw {len(second)} in line 2)")
    return names


def _check_header(path: Path, header: list[str], net: BayesianNetwork) -> None:
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1] if len(set(header)) < len(header) else []
    for what, names in (
        ("each column once, got twice", twice),
        ("a column for every node, got none for", [name for name in net.names if name not in set(header)]),
        (
            f"columns for the {net.n_nodes} nodes alone, got also",
            [name for name in header if name not in set(net.names)],
        ),
    ):
        if names:
            raise ValueError(f"{path}: expected {what} {_some(names)}")


def _some(items: list[str]) -> str:
    """The first few items of a list."""
    more = f" and {len(items) - _FEW:,} more" if len(items) > _FEW else ""
    return ", ".join(items[:_FEW]) + more


# --- graphs ---------------------------------------------------------------------------------------


def read_edges(path: str | os.PathLike[str], rows: str | os.PathLike[str]) -> BayesianNetwork:
    """The graph of an edge list, its states being those that occur in a CSV file of rows (sorted, numbers as numbers).

    Raises ValueError with the line for a line that is no edge, for an edge given twice, a cycle, nodes that are not the
    columns of the file, a column with a single state, and one with more than 1,000.
    """
    edges, alone = _edges(Path(path))
    states: dict[str, set[str]] = {name: set() for name in _header(Path(rows))}
    nodes = list(dict.fromkeys([*(name for edge in edges for name in edge), *alone]))
    graph = BayesianNetwork.from_edges(edges, nodes=nodes)
    _check_header(Path(rows), _header(Path(rows)), graph)
    for _, block in _text_blocks(Path(rows)):
        for name in nodes:
            states[name].update(block[name].unique())
            if len(states[name]) > MAX_STATES:
                raise ValueError(f"{rows}: expected at most {MAX_STATES:,} states of {name}, got more; is it a number?")
    for name in nodes:
        if len(states[name]) < 2:
            raise ValueError(f"{rows}: expected two states of {name} or more, got {min(states[name])!r} in every row")
    ordered = {name: sorted(own, key=_as_number) for name, own in states.items()}
    return BayesianNetwork.from_edges(edges, {name: len(own) for name, own in ordered.items()}, nodes, ordered)


def _edges(path: Path) -> tuple[list[tuple[str, str]], list[str]]:
    """The edges of a list, and the nodes that stand alone in it."""
    if not path.is_file():
        raise ValueError(f"network: expected a file, got {str(path)!r}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error
    edges, alone = [], []
    for i, line in enumerate(lines, start=1):
        names = [name.strip() for name in line.split(",")]
        if not any(names):
            continue
        if len(names) > 2 or not all(names) or len(set(names)) < len(names):
            raise ValueError(f"{path}, line {i}: expected parent,child or a node's name, got {line[:80]!r}")
        if len(names) == 1:
            alone.append(names[0])
        elif (names[0], names[1]) in edges:
            raise ValueError(f"{path}, line {i}: expected each edge once, got {line!r} again")
        else:
            edges.append((names[0], names[1]))
    if not edges and not alone:
        raise ValueError(f"{path}: expected a line parent,child for each edge, got none")
    return edges, alone


def _as_number(state: str) -> tuple[float, str]:
    try:
        return float(state), state
    except ValueError:
        return float("inf"), state


# --- counts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """How often every family, a node with its parents, was seen in each joint state, among `n` rows.

    tables: int64 ``[*evidence_card, card]`` for each node. That is all that MLE and posterior mean, and so the
    constructed transformer, take from the rows.

    >>> net = BayesianNetwork(("a", "b"), ((), (0,)), (2, 2))
    >>> Counts.of([torch.tensor([[0, 1], [0, 1], [1, 0]])], net).tables[1]
    tensor([[0, 2],
            [1, 0]])
    """

    net: BayesianNetwork
    n: int
    tables: tuple[Tensor, ...]

    @classmethod
    def of(cls, blocks: Iterable[Rows], net: BayesianNetwork) -> Counts:
        """The counts of blocks of rows."""
        n = 0
        tables = [
            torch.zeros(*net.evidence_card(m), card, dtype=torch.int64) for m, card in enumerate(net.cardinalities)
        ]
        for block in blocks:
            n += len(block)
            for m, table in enumerate(tables):
                table += count(block[None], m, net.parents[m], net.cardinalities)[0]
        return cls(net, n, tuple(tables))

    def matching(self, query: Query, target: int) -> Int64[Tensor, " batch"]:
        """How many rows agree with each query on the target's parents."""
        check_target(target, self.net.cardinalities)
        parents = list(self.net.parents[target])
        check_states("query", query[:, parents], [self.net.cardinalities[p] for p in parents])
        rows = self.tables[target].sum(-1).flatten()
        return rows[ravel_states(query, self.net.parents[target], self.net.cardinalities)]

    def family_rows(self, target: int) -> tuple[Rows, Int64[Tensor, " n"]]:
        """The joint states of the target and its parents that were seen, ABSENT elsewhere, and how often each was."""
        flat = self.tables[target].flatten()
        seen = flat.nonzero()[:, 0]
        rows = torch.full((len(seen), self.net.n_nodes), ABSENT)
        family = (*self.net.parents[target], target)
        states = torch.unravel_index(seen, self.tables[target].shape)
        for node, own in zip(family, states, strict=True):
            rows[:, node] = own
        return rows, flat[seen]
