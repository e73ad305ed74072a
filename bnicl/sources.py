"""Where networks come from: the paper's graphs by name, the networks that pgmpy ships, BIF files, and chance."""

from __future__ import annotations

import difflib
import gzip
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch

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


def check_source(source: str) -> str:
    """`source` if `load_network` would find something there; a ValueError with the nearest name if not."""
    if source.endswith(".bif"):
        if not Path(source).is_file():
            raise ValueError(f"network: expected a .bif file, got {source!r}, which does not exist")
    elif source not in (names := network_names()):
        near = difflib.get_close_matches(source.lower(), names, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"network: expected a name of bnicl.network_names() or a path to a .bif file, got {source!r}; "
            f"did you mean {near!r}?"
        )
    return source


def load_network(source: str | os.PathLike[str]) -> BayesianNetwork:
    """A network by name or from a file.

    source: a graph of the paper ("chain7", "tree10", "general5", "wet-grass", ...; two states a node, no
    tables), a network that pgmpy ships ("asia", "sachs", "alarm", ...; with its tables), or the path of a
    .bif file. Raises ValueError for an unknown name, a missing file and a file that cannot be read whole.

    >>> load_network("general5").parents
    ((), (), (0, 1), (0, 2), (3,))
    """
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"network: expected a name or a path, got {source!r}")
    name = check_source(os.fspath(source))
    if name in GRAPHS:
        parents = GRAPHS[name]
        return BayesianNetwork(tuple(f"X{m}" for m in range(len(parents))), parents, (2,) * len(parents))
    if name.endswith(".bif"):
        try:
            return _read_bif(Path(name).read_text(encoding="utf-8"), name)
        except UnicodeDecodeError as error:
            raise ValueError(f"{name}: expected a BIF file in UTF-8, got other bytes ({error})") from error
    return _read_bif(gzip.decompress((example_models() / f"{name}.bif.gz").read_bytes()).decode(), name)


def _read_bif(text: str, source: str) -> BayesianNetwork:
    # The reader skips a block that it cannot match, and lets the last of two tables win, in silence.
    declared, tables = (len(re.findall(rf"^\s*{word}\b", text, re.MULTILINE)) for word in ("variable", "probability"))
    try:
        model = import_pgmpy().readwrite.BIFReader(string=text + "\n").get_model()
    except Exception as error:  # the reader has no error class of its own: any failure means a broken file
        raise ValueError(f"{source}: expected a BIF file, got one that cannot be read ({error})") from error
    if not len(model.nodes) == declared == tables > 0:
        raise ValueError(
            f"{source}: expected a BIF file with one table for each variable, got {declared} variables, "
            f"{tables} tables, {len(model.nodes)} read"
        )
    try:
        return BayesianNetwork.from_pgmpy(model)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error


def write_graph(path: str | os.PathLike[str], net: BayesianNetwork) -> None:
    """Writes the graph alone as a BIF file: nodes and states have numbers for names, tables are uniform.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_graph(folder + "/graph.bif", load_network("general5"))
    ...     load_network(folder + "/graph.bif").parents == load_network("general5").parents
    True
    """
    shapes = [(*net.evidence_card(m), card) for m, card in enumerate(net.cardinalities)]
    uniform = tuple(torch.full(shape, 1 / shape[-1], dtype=torch.float64) for shape in shapes)
    names = tuple(f"N{m:05}" for m in range(net.n_nodes))
    states = tuple(tuple(f"s{k}" for k in range(card)) for card in net.cardinalities)
    model = BayesianNetwork(names, net.parents, net.cardinalities, uniform, states).to_pgmpy()
    import_pgmpy().readwrite.BIFWriter(model).write(str(path))


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
