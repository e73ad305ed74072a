"""Where networks come from: the paper's graphs by name, the networks that pgmpy ships, files, and chance."""

from __future__ import annotations

import difflib
import gzip
import importlib.util
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from bnicl.bif import read_bif
from bnicl.networks import BayesianNetwork, import_pgmpy
from bnicl.priors import Seed, check_count, check_number, make_generator


def _graph(*parents: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    return parents


def _chain(m: int) -> tuple[tuple[int, ...], ...]:
    return ((), *((i,) for i in range(m - 1)))


_TREE7 = _graph((), (0,), (0,), (1,), (1,), (2,), (2,))
_GENERAL7 = _graph((), (), (0, 1), (0, 2), (3,), (3, 4), (2, 4))
PAPER_GRAPHS: dict[str, tuple[tuple[int, ...], ...]] = {
    **{f"chain{m}": _chain(m) for m in (5, 7, 10)},
    "tree5": _TREE7[:5],
    "tree7": _TREE7,
    "tree10": (*_TREE7, (3,), (3,), (8,)),
    "general5": _GENERAL7[:5],
    "general7": _GENERAL7,
    "general10": (*_GENERAL7, (5, 6), (4, 7), (6, 8)),
    "wet-grass": _graph((), (0,), (0,), (1, 2)),
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
    """Whether `source` is named as a file of a network: .bif, .bif.gz, .xml or .xmlbif, in letters of any size."""
    return source.lower().endswith((".bif", ".bif.gz", *_XML))


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message: the known name that is nearest to the one given, or nothing where none is near.

    >>> did_you_mean("chian7", ["chain7", "asia"]), did_you_mean("rows", ["chain7", "asia"])
    ("; did you mean 'chain7'?", '')
    """
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_source(source: str) -> str:
    """`source` if `load_network` would find something there; a ValueError with the nearest name if not."""
    if is_network_file(source):
        if not Path(source).is_file():
            raise ValueError(f"network: expected a file of a network, got {source!r}, which does not exist")
    elif source not in (names := network_names()):
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
    tables: whether the tables of a BIF file are read. Without, they need not be there or be right: only the graph
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


def random_dag(
    n_nodes: int,
    edge_prob: float,
    *,
    connected: bool = True,
    cardinalities: int | Sequence[int] = 2,
    seed: Seed = 0,
) -> BayesianNetwork:
    """A random graph over the fixed order 0..M-1: each edge i -> j, i < j, with probability `edge_prob`.

    With `connected`, every part of the graph that hangs on no other gets one edge to a node outside it,
    drawn uniformly, until the graph is one piece: for a lone node that is the paper's rule.

    >>> random_dag(4, 1.0).parents
    ((), (0,), (0, 1), (0, 1, 2))
    """
    import networkx as nx

    check_count("n_nodes", n_nodes)
    check_number("edge_prob", edge_prob, 0, 1)
    cards = (cardinalities,) * n_nodes if isinstance(cardinalities, int) else tuple(cardinalities)
    if len(cards) != n_nodes:
        raise ValueError(f"cardinalities: expected {n_nodes}, got {len(cards)}")
    generator = make_generator(seed)

    def pick(options: Sequence[int]) -> int:
        return options[int(torch.randint(len(options), (), generator=generator))]

    adjacency = torch.rand(n_nodes, n_nodes, generator=generator) < edge_prob
    graph = nx.Graph()
    graph.add_nodes_from(range(n_nodes))
    graph.add_edges_from((i, j) for j in range(n_nodes) for i in range(j) if adjacency[i, j])
    while connected and not nx.is_connected(graph):
        part = min(nx.connected_components(graph), key=lambda nodes: (len(nodes), min(nodes)))
        graph.add_edge(pick(sorted(part)), pick(sorted(set(graph) - part)))
    parents = tuple(tuple(i for i in range(j) if graph.has_edge(i, j)) for j in range(n_nodes))
    return BayesianNetwork(tuple(f"X{m}" for m in range(n_nodes)), parents, cards)
