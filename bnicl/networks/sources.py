"""Where networks come from: the paper's graphs by name, the networks that pgmpy ships, and files."""

from __future__ import annotations

import gzip
import importlib.util
import os
import zlib
from dataclasses import replace
from pathlib import Path

from bnicl.networks.bif import read_bif
from bnicl.networks.checks import did_you_mean
from bnicl.networks.graph import BayesianNetwork, import_pgmpy


def _chain(m: int) -> tuple[tuple[int, ...], ...]:
    return ((), *((i,) for i in range(m - 1)))


_TREE7 = ((), (0,), (0,), (1,), (1,), (2,), (2,))
_GENERAL7 = ((), (), (0, 1), (0, 2), (3,), (3, 4), (2, 4))
PAPER_GRAPHS: dict[str, tuple[tuple[int, ...], ...]] = {
    **{f"chain{m}": _chain(m) for m in (5, 7, 10)},
    "tree5": _TREE7[:5],
    "tree7": _TREE7,
    "tree10": (*_TREE7, (3,), (3,), (8,)),
    "general5": _GENERAL7[:5],
    "general7": _GENERAL7,
    "general10": (*_GENERAL7, (5, 6), (4, 7), (6, 8)),
    "wet-grass": ((), (0,), (0,), (1, 2)),
}
GRAPHS = {**PAPER_GRAPHS, "chain3": _chain(3), "chain20": _chain(20)}
_XML = (".xml", ".xmlbif")


def example_models() -> Path:
    """The folder of BIF files in the pgmpy wheel, found without importing pgmpy (seconds)."""
    spec = importlib.util.find_spec("pgmpy")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("pgmpy: expected to be installed for the networks that it ships, got nothing")
    return Path(spec.submodule_search_locations[0]) / "utils" / "example_models"


def network_names() -> tuple[str, ...]:
    """Every name that `load_network` knows: the paper's graphs, two more chains, and the networks that pgmpy ships."""
    shipped = sorted(path.name.removesuffix(".bif.gz") for path in example_models().glob("*.bif.gz"))
    return (*GRAPHS, *shipped)


def is_network_file(source: str) -> bool:
    """Whether `source` is named as a file of a network: .bif, .bif.gz, .xml or .xmlbif, in upper or lower case."""
    return source.lower().endswith((".bif", ".bif.gz", *_XML))


def check_source(source: str) -> str:
    """`source` if `load_network` would find something there; a ValueError with the nearest name if not."""
    if is_network_file(source):
        if not Path(source).is_file():
            raise ValueError(f"network: expected a file of a network, got {source!r}, which does not exist")
    elif source not in GRAPHS and source not in (names := network_names()):
        hint = did_you_mean(source.lower(), names)
        raise ValueError(
            f"network: expected a name of bnicl.network_names() or a path to a .bif file, got {source!r}{hint}"
        )
    return source


def load_network(source: str | os.PathLike[str], tables: bool = True) -> BayesianNetwork:
    """A network by name or from a file.

    source: a graph of the paper ("chain7", "tree10", "general5", "wet-grass", ...; two states a node, no
    tables), a network that pgmpy ships ("asia", "sachs", "alarm", ...; with its tables), or the path of a
    file: BIF (.bif, .bif.gz; see `bif`) or XMLBIF (.xml, .xmlbif).
    tables: whether the tables of a BIF file are read. If not, they need not be there or be right: only the graph
    and the names of the states are taken, and `cpts` is None.

    Raises ValueError for an unknown name, a missing file and a file that cannot be read whole, with its line.

    >>> load_network("general5").parents
    ((), (), (0, 1), (0, 2), (3,))
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"network: expected a name or a path, got {source!r}")
    name = check_source(os.fspath(source))
    if name in GRAPHS:
        parents = GRAPHS[name]
        return BayesianNetwork(tuple(f"X{m}" for m in range(len(parents))), parents, (2,) * len(parents))
    path = Path(name) if is_network_file(name) else example_models() / f"{name}.bif.gz"
    text = _text(path)
    net = _read_xml(text, name) if name.lower().endswith(_XML) else read_bif(text, name, tables)
    return net if tables else replace(net, cpts=None)


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
        return content.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: expected a file that gzip can unpack, got another ({error})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, got other bytes ({error})") from error


def _read_xml(text: str, source: str) -> BayesianNetwork:
    try:
        model = import_pgmpy().readwrite.XMLBIFReader(string=text).get_model()
    except Exception as error:  # the reader has no error class of its own: any failure means a broken file
        raise ValueError(f"{source}: expected an XMLBIF file, got one that cannot be read ({error!r})") from error
    try:
        return BayesianNetwork.from_pgmpy(model)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
