"""Files that appear whole or not at all, and networks as BIF."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bnicl.networks.graph import BayesianNetwork, check_network


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A new file next to `path` to write to; it replaces `path` if all goes well, and is removed if not."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}-")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def whole_bytes(path: Path, content: bytes) -> None:
    """Writes a file that is on the disk and whole when it takes its place."""
    with whole_file(path) as part, part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_bif(path: str | os.PathLike[str], net: BayesianNetwork) -> None:
    """Writes a network as a BIF file; where only the graph is known its tables are uniform.

    The file appears when it is whole. Raises ValueError for a name that the format cannot hold: one with a quotation
    mark or a line end, and for states whose names are the same as text.

    >>> import tempfile
    >>> net = BayesianNetwork(("rain", "wet"), ((), (0,)), (2, 2), states=(("no", "yes"), ("no", "yes")))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bif(folder + "/net.bif", net)
    ...     "type discrete [ 2 ] { no, yes };" in Path(folder, "net.bif").read_text()
    True
    """
    check_network(net)
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path: expected the name of a file, got {path!r}")
    lines = ["network unknown {", "}"]
    for name, own in zip(net.names, net.states, strict=True):
        if len(set(map(str, own))) < len(own):
            raise ValueError(f"states of {name}: expected different names, got {', '.join(map(repr, own))}")
        states = ", ".join(map(_quoted, own))
        lines += [f"variable {_quoted(name)} {{", f"  type discrete [ {len(own)} ] {{ {states} }};", "}"]
    for m, name in enumerate(net.names):
        given = ", ".join(_quoted(net.names[p]) for p in net.parents[m])
        lines.append(f"probability ( {_quoted(name)}" + (f" | {given}" if given else "") + " ) {")
        if net.cpts is None:
            lines.append("  default " + ", ".join([repr(1 / net.cardinalities[m])] * net.cardinalities[m]) + ";")
        else:
            rows = net.cpts[m].reshape(-1, net.cardinalities[m]).tolist()
            keys = itertools.product(*(net.states[p] for p in net.parents[m]))
            for own, row in zip(keys, rows, strict=True):
                key = f"({', '.join(map(_quoted, own))})" if own else "table"
                lines.append(f"  {key} {', '.join(map(repr, row))};")
        lines.append("}")
    with whole_file(Path(path)) as part:
        part.write_bytes("\n".join([*lines, ""]).encode())


def _quoted(name: object) -> str:
    text = str(name)
    if re.fullmatch(r"[\w.+<>=-]+", text):
        return text
    if not text or set(text) & {'"', "\n", "\r"} or not text.isprintable():
        raise ValueError(f"name: expected one without quotation marks and line ends, got {text!r}")
    return f'"{text}"'
