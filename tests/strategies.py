"""Networks with mixed cardinalities, and contexts with a query: by chance, and as Hypothesis strategies."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

import bnicl


def random_dag(
    n_nodes: int, edge_prob: float, cardinalities: int | Sequence[int] = 2, seed: int | torch.Generator = 0
) -> bnicl.BayesianNetwork:
    """A random graph over the order 0..M-1: each edge i -> j, i < j, with probability `edge_prob`."""
    cards = (cardinalities,) * n_nodes if isinstance(cardinalities, int) else tuple(cardinalities)
    adjacency = torch.rand(n_nodes, n_nodes, generator=bnicl.make_generator(seed)) < edge_prob
    parents = tuple(tuple(i for i in range(j) if adjacency[i, j]) for j in range(n_nodes))
    return bnicl.BayesianNetwork(tuple(f"X{m}" for m in range(n_nodes)), parents, cards)


@st.composite
def networks(draw: st.DrawFn, max_nodes: int = 5) -> bnicl.BayesianNetwork:
    n_nodes = draw(st.integers(1, max_nodes))
    cards = draw(st.lists(st.integers(2, 4), min_size=n_nodes, max_size=n_nodes))
    parents = [tuple(draw(st.permutations([i for i in range(m) if draw(st.booleans())]))) for m in range(n_nodes)]
    graph = bnicl.BayesianNetwork(tuple(f"N{m}" for m in range(n_nodes)), tuple(parents), tuple(cards))
    return graph.with_random_cpts(alpha=draw(st.sampled_from([0.2, 1.0])), seed=draw(st.integers(0, 2**32)))


@st.composite
def tasks(draw: st.DrawFn, max_nodes: int = 5) -> tuple[bnicl.BayesianNetwork, Tensor, Tensor, int]:
    """A network, a context, a query and a target."""
    net = draw(networks(max_nodes))
    batch, n = draw(st.integers(1, 3)), draw(st.integers(1, 20))
    rows = bnicl.NetworkPrior(net).sample(batch, n + 1, seed=draw(st.integers(0, 2**32))).rows
    return net, rows[:, :n], rows[:, n], draw(st.integers(0, net.n_nodes - 1))
