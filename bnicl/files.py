"""Rows of a network as CSV.

A file has one column for each node, under the node's name and in any order, and a line for each row; a value is the
name of one of the node's states ("yes", "0", "LOW"), with or without blanks around it, and 1.0 is 1. Anything else
is refused, with its line. A file is read a block of lines at a time: counts of a file of any length fit in memory.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from bnicl.estimators.families import Counts
from bnicl.networks.checks import ABSENT, Rows
from bnicl.networks.graph import BayesianNetwork, check_network
from bnicl.networks.writing import whole_file

if TYPE_CHECKING:
    import pandas as pd

_BLOCK, _CELLS = 50_000, 4_000_000  # lines and cells read at once
MISSING = frozenset({"", "NaN", "nan", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None", "?"})
_FEW = 5  # names or lines in a message
WAYS_OUT = (
    "--missing available counts each node over the rows that have it and its parents (right where cells are missing "
    "at random and few); --missing em weighs what the gaps may be (right where they depend on cells that are there)"
)


class RowsFile:
    """A CSV file of rows, whose text is read once; where an edge list takes its states from it, what was read is kept.

    gaps: whether a cell may be without a value (empty, NA, N/A, NaN, NULL, None, ?, unless that is the name of a
    state). The first reading raises ValueError for a file that is not there or has no header.
    """

    def __init__(self, path: str | os.PathLike[str], gaps: bool = False) -> None:
        self.path, self.gaps = Path(path), gaps
        self._kept: list[Block] | None = None

    @cached_property
    def header(self) -> list[str]:
        """The names of the columns."""
        return _header(self.path)

    def blocks(self) -> Iterator[Block]:
        """The file a block of lines at a time, each column as codes and the texts that they stand for."""
        if self._kept is not None:
            return iter(self._kept)
        n = _count_records(self.path, len(self.header)) if self.gaps else None
        return _text_blocks(self.path, self.header, n)

    def keep(self) -> list[Block]:
        """All blocks, which are kept: a byte or two for each cell."""
        self._kept = [*self.blocks()]
        return self._kept


def read_rows(path: RowsPath, net: BayesianNetwork, gaps: bool = False) -> Rows:
    """The rows of a CSV file as states of the network's nodes, int64 [n, M].

    gaps: as for `RowsFile`; a cell without a value is ABSENT.

    Raises ValueError, with the file and its lines, for a file that is not there, is not text in UTF-8 or has no rows;
    for columns that are missing, unknown, without a name or repeated; for cells without a value, unless these are
    allowed; and for states the node lacks.
    """
    return torch.cat(list(_blocks(opened(path, gaps), net)))


def count_rows(path: RowsPath, net: BayesianNetwork, gaps: bool = False) -> Counts:
    """The counts of every family in a CSV file, read once, a block of lines at a time; raises as `read_rows` does."""
    return Counts.of(_blocks(opened(path, gaps), net), net)


def opened(rows: RowsPath, gaps: bool) -> RowsFile:
    return rows if isinstance(rows, RowsFile) else RowsFile(rows, gaps)


def read_queries(path: str | os.PathLike[str], net: BayesianNetwork) -> tuple[list[int], Iterator[tuple[int, Rows]]]:
    """The nodes that a file of queries has columns for, and blocks of incomplete rows with the number of their first.

    ABSENT is an empty cell, or a column that the file lacks. Rows have the numbers 0, 1, ...; `line_of` says where one
    stands. Raises as `read_rows` does otherwise.
    """
    file = RowsFile(path, gaps=True)
    check_header(file.path, file.header, net, whole=False)
    known = [net.names.index(name) for name in file.header]

    def blocks() -> Iterator[tuple[int, Rows]]:
        for first, states in _coded(file, [net.states[m] for m in known]):
            rows = torch.full((len(states), net.n_nodes), ABSENT)
            rows[:, known] = states
            yield first, rows

    return known, blocks()


def _blocks(file: RowsFile, net: BayesianNetwork) -> Iterator[Rows]:
    """The rows of a file, a block of lines at a time, its columns in the order of the nodes."""
    check_network(net)
    check_header(file.path, file.header, net)
    place = {name: i for i, name in enumerate(file.header)}
    order = [place[name] for name in net.names]
    states = dict(zip(net.names, net.states, strict=True))
    for _, block in _coded(file, [states[name] for name in file.header]):
        yield block[:, order]


def _coded(file: RowsFile, states: Sequence[Sequence[object]]) -> Iterator[tuple[int, Rows]]:
    """Blocks of the file as numbers of states, each with the number of its first row; ABSENT where a cell is empty."""
    path, known = file.path, [StateNames([str(state) for state in own]) for own in states]
    for first, block in file.blocks():
        columns = torch.empty(len(block), len(block[0].codes), dtype=torch.int64)
        for j, (name, own, (codes, texts)) in enumerate(zip(file.header, known, block, strict=True)):
            of_text = torch.tensor([own.code(text) for text in texts])
            torch.index_select(of_text, 0, codes.int(), out=columns[j])
            if int(of_text.min()) < ABSENT:
                odd = int((of_text < ABSENT).nonzero()[0, 0])
                lines = _lines(path, first, codes == odd)
                raise ValueError(
                    f"{path}: expected one of {_some(own.names)} for {name}, got {texts[odd].strip()!r} in line {lines}"
                )
        if not file.gaps and bool((columns == ABSENT).any()):
            j = int((columns == ABSENT).any(1).nonzero()[0, 0])
            raise ValueError(
                f"{path}: expected a value in every field, got none for {file.header[j]} in line "
                f"{_lines(path, first, columns[j] == ABSENT)}; {WAYS_OUT}"
            )
        yield first, columns.t()


class StateNames:
    """The states of a node by their names; 1.0 is 1, and what stands for a missing value may be a state's name.

    >>> StateNames(["0", "1"]).code(" 1.0"), StateNames(["0", "1"]).code("NA"), StateNames(["0", "1"]).code("x")
    (1, -1, -2)
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.codes = {as_whole(name): k for k, name in enumerate(names)} | {name: k for k, name in enumerate(names)}

    def code(self, text: str) -> int:
        """The number of the state, ABSENT for a missing value, less for anything else."""
        text = text.strip()
        if text in self.codes:
            return self.codes[text]
        return ABSENT if text in MISSING else self.codes.get(as_whole(text), ABSENT - 1)


def as_whole(text: str) -> str:
    """1.0 as 1, anything else as it is."""
    whole = text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text
    return "0" if whole == "-0" else whole


class Column(NamedTuple):
    """Which of a column's different texts each line of a block has, and the texts."""

    codes: Tensor
    texts: list[str]


Block = tuple[int, list[Column]]  # the number of its first row, and the columns
RowsPath = RowsFile | str | os.PathLike[str]


def _columns(block: pd.DataFrame) -> list[Column]:
    """Columns of text as codes."""
    import pandas as pd

    found = (pd.factorize(block.iloc[:, j].to_numpy()) for j in range(block.shape[1]))
    return [Column(torch.from_numpy(codes.astype("int32")), [*texts]) for codes, texts in found]


def _blank(columns: Sequence[Column]) -> Tensor:
    """Which lines are empty, that is have no text in any column."""
    blank = torch.ones(len(columns[0].codes), dtype=torch.bool)
    for codes, texts in columns:
        if "" not in texts:
            return torch.zeros_like(blank)
        blank &= codes == texts.index("")
    return blank


def records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The fields of each record, the header's too, with the line it begins in; none for an empty line."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        line = 1
        try:
            for fields in reader:
                yield line, fields
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error
        except csv.Error as error:
            raise ValueError(f"{path}: expected CSV, got something else in line {line} ({error})") from error


def _count_records(path: Path, width: int) -> int:
    """How many rows a file with empty cells has: a line that ends too early must not pass for a row."""
    n = empty = 0
    for line, fields in records(path):
        if not fields:
            empty = empty or line
        elif empty:
            raise ValueError(f"{path}: expected a row in line {empty}, got an empty line")
        elif len(fields) != width:
            raise ValueError(f"{path}: expected {width} fields, got {len(fields)} in line {line}")
        else:
            n += 1
    return n - 1


def line_of(path: str | os.PathLike[str], row: int) -> int:
    """The line in which a row, counted from 0, begins."""
    return next(line for i, (line, _) in enumerate(records(Path(path))) if i == row + 1)


def _text_blocks(path: Path, header: Sequence[str], n: int | None = None) -> Iterator[Block]:
    """Blocks of the file, each with the number of its first row; empty lines at the end are no rows.

    n: how many rows there are, if that is known.
    """
    import pandas as pd

    row = empty = 0
    try:
        with pd.read_csv(
            path, dtype=object, na_filter=False, chunksize=max(1, min(_BLOCK, _CELLS // len(header))), nrows=n,
            encoding="utf-8-sig", index_col=False, header=0, names=list(range(len(header))), skip_blank_lines=False,
            skipinitialspace=True, low_memory=False,
        ) as reader:  # fmt: skip
            for block in _one_ahead(reader):
                columns = _columns(block)
                full = (~_blank(columns)).nonzero()
                kept = len(block) if n is not None else int(full[-1]) + 1 if len(full) else 0
                if kept:
                    if empty:
                        raise ValueError(f"{path}: expected a row in line {line_of(path, row - empty)}, got none")
                    yield row, [Column(codes[:kept], texts) for codes, texts in columns]
                row, empty = row + len(block), len(block) - kept + (0 if kept else empty)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error
    except pd.errors.ParserError as error:
        raise ValueError(f"{path}: expected a field for each column, got another number ({error})") from error
    if row == empty:
        raise ValueError(f"{path}: expected at least one row below the header, got none")
    if empty and n is None and _count_records(path, len(header)) > row - empty:
        where = f"{header[0]} in line {line_of(path, row - empty)}"
        raise ValueError(f"{path}: expected a value in every field, got none for {where}; {WAYS_OUT}")


def _one_ahead(blocks: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The blocks that are not empty; the next one is parsed while the last one is counted."""
    with ThreadPoolExecutor(1) as parser:
        following = parser.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = parser.submit(next, blocks, None)
            if len(block):
                yield block


def _header(path: Path) -> list[str]:
    """The names of the columns."""
    if not path.is_file():
        raise ValueError(f"rows: expected a file, got {str(path)!r}")
    lines = records(path)
    names, second = ([field.strip() for field in next(lines, (0, []))[1]] for _ in range(2))
    if not any(names) or "\0" in "".join(names):
        raise ValueError(f"{path}: expected a header with the names of the nodes, got none")
    if "" in names:
        raise ValueError(
            f"{path}: expected a name for every column, got none: column {names.index('') + 1} has no name (an index "
            f"that pandas or R wrote? write the file without it)"
        )
    if len(second) > len(names):  # pandas would drop what is too much, if every line has it
        raise ValueError(f"{path}: expected a field for each column, got another number (saw {len(second)} in line 2)")
    return names


def check_header(path: Path, header: list[str], net: BayesianNetwork, whole: bool = True) -> None:
    """Raises ValueError unless the columns are the nodes, all of them if `whole`."""
    if header[0] not in net.names and len(header) == 1:
        for mark, what in ((";", "';'"), ("\t", "a tab")):
            if mark in header[0]:
                raise ValueError(f"{path}: expected commas between the columns, got {what}")
    there, nodes = set(header), set(net.names)
    twice = [name for name in dict.fromkeys(header) if header.count(name) > 1] if len(there) < len(header) else []
    for what, names in (
        ("each column once, got twice", twice),
        ("a column for every node, got none for", [name for name in net.names if whole and name not in there]),
        (f"columns for the {net.n_nodes} nodes alone, got also", [name for name in header if name not in nodes]),
    ):
        if names:
            raise ValueError(f"{path}: expected {what} {_some(names)}")


def _lines(path: Path, first: int, chosen: torch.Tensor) -> str:
    """The first few lines in which the chosen rows of a block begin."""
    rows = [first + i for i in chosen.nonzero()[:, 0].tolist()]
    return _some([str(line_of(path, row)) if i < _FEW else "" for i, row in enumerate(rows)])


def _some(items: Sequence[str]) -> str:
    """The first few items of a list."""
    more = f" and {len(items) - _FEW:,} more" if len(items) > _FEW else ""
    return ", ".join(items[:_FEW]) + more


def write_rows(
    path: str | os.PathLike[str], net: BayesianNetwork, rows: Int64[Tensor, "n nodes"], force: bool = False
) -> None:
    """Writes rows as CSV, with the names of nodes and states; raises FileExistsError unless `force`.

    The file appears when it is whole.

    >>> import tempfile
    >>> import torch
    >>> net = BayesianNetwork(("rain", "wet"), ((), (0,)), (2, 2), states=(("no", "yes"), ("no", "yes")))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_rows(folder + "/new.csv", net, torch.tensor([[0, 1], [1, 1]]))
    ...     Path(folder, "new.csv").read_text().split()
    ['rain,wet', 'no,yes', 'yes,yes']
    """
    import pandas as pd

    path = Path(path)
    if path.exists() and not force:
        raise FileExistsError(f"out: expected a new file, got {path}, which exists; --force replaces it")
    named = {
        name: pd.Categorical.from_codes(rows[:, m].numpy(), [str(state) for state in net.states[m]])
        for m, name in enumerate(net.names)
    }
    with whole_file(path) as part:
        pd.DataFrame(named).to_csv(part, index=False)
