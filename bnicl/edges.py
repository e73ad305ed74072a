"""A graph as a list of edges, which takes its states from a file of rows.

It has a line `parent,child` for each edge, with or without a header such as `from,to`, and a line with one name for a
node without any. Anything that does not fit is refused, with its line.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from bnicl.files import MISSING, RowsPath, as_whole, check_header, opened, records
from bnicl.networks.graph import BayesianNetwork

_HEADERS = (("from", "to"), ("parent", "child"), ("source", "target"))
MAX_STATES = 1000  # of a column whose states are found in the file: more look like a measurement


def read_edges(path: str | os.PathLike[str], rows: RowsPath, gaps: bool = False) -> BayesianNetwork:
    """The graph of an edge list, its states being those that occur in a CSV file of rows (sorted, numbers as numbers).

    gaps: as for `RowsFile`.

    Warns of states that differ in capitals alone. Raises ValueError with the line for a line that is no edge, for an
    edge given twice, a cycle, nodes that are not the columns of the file, a column with a single state, and one with
    more than 1,000.
    """
    file = opened(rows, gaps)
    header = file.header
    edges, alone = _edges(Path(path), header)
    nodes = list(dict.fromkeys([*(name for edge in edges for name in edge), *alone]))
    try:
        graph = BayesianNetwork.from_edges(edges, nodes=nodes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    check_header(file.path, header, graph)
    states: dict[str, set[str]] = {name: set() for name in header}
    for _, block in file.keep():
        for name, column in zip(header, block, strict=True):
            states[name] |= {as_whole(text.strip()) for text in column.texts} - MISSING
            if len(states[name]) > MAX_STATES:
                raise ValueError(
                    f"{file.path}: expected at most {MAX_STATES:,} states of {name}, got more; is it a number?"
                )
    for name in nodes:
        if len(states[name]) < 2:
            seen = repr(min(states[name])) + " in every row" if states[name] else "no value in any row"
            raise ValueError(f"{file.path}: expected two states of {name} or more, got {seen}")
        _warn_of_capitals(str(file.path), name, states[name])
    ordered = {name: sorted(own, key=_as_number) for name, own in states.items()}
    return BayesianNetwork.from_edges(edges, {name: len(own) for name, own in ordered.items()}, nodes, ordered)


def _warn_of_capitals(rows: str, name: str, states: set[str]) -> None:
    """Two states of one column that differ in capitals alone are probably one."""
    seen: dict[str, str] = {}
    for state in sorted(states):
        if (other := seen.setdefault(state.lower(), state)) != state:
            warnings.warn(f"{rows}: {name!r} has the states {other!r} and {state!r}, read as two", stacklevel=3)


def _edges(path: Path, columns: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The edges of a list, and the nodes that stand alone in it; `columns` tell a header from an edge."""
    if not path.is_file():
        raise ValueError(f"network: expected a file, got {str(path)!r}")
    lines = [(line, [field.strip() for field in fields]) for line, fields in records(path) if any(fields)]
    edges: dict[tuple[str, str], int] = {}
    alone: list[str] = []
    places = _header_of_edges(lines[0][1], columns) if lines else None
    for i, fields in lines[1:] if places else lines:
        names = [fields[j] for j in places if j < len(fields)] if places else fields
        if len(names) > 2 or not all(names) or len(set(names)) < len(names) or not names:
            raise ValueError(f"{path}, line {i}: expected parent,child or a node's name, got {','.join(fields)[:80]!r}")
        if len(names) == 1:
            alone.append(names[0])
        elif (edge := (names[0], names[1])) in edges:
            raise ValueError(f"{path}, line {i}: expected each edge once, got {','.join(names)!r} again")
        else:
            edges[edge] = i
    if not edges and not alone:
        raise ValueError(f"{path}: expected a line parent,child for each edge, got none")
    return list(edges), alone


def _header_of_edges(fields: Sequence[str], columns: Sequence[str]) -> tuple[int, int] | None:
    """Where parent and child stand in each line, if the first line is a header and no edge between such nodes."""
    lower = [field.lower() for field in fields]
    for pair in _HEADERS:
        if set(pair) <= set(lower) and not {fields[lower.index(word)] for word in pair} <= set(columns):
            return lower.index(pair[0]), lower.index(pair[1])
    return None


def _as_number(state: str) -> tuple[float, str]:
    try:
        return float(state), state
    except ValueError:
        return float("inf"), state
