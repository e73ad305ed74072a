"""Pictures of networks, contexts and tables of measures, in one style; nothing is computed here.

The same estimator has the same colour and marker in the whole book. The palette is seaborn's
"colorblind".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import networkx as nx
import pandas as pd
import seaborn as sns
from jaxtyping import Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from bnicl.evaluation import AVERAGE
from bnicl.networks import BayesianNetwork

_COLORS = sns.color_palette("colorblind").as_hex()
PALETTE = {
    "MLE": _COLORS[0],
    "naive": _COLORS[1],
    "posterior mean": _COLORS[2],
    "model average": _COLORS[4],
    "transformer": _COLORS[3],
    "constructed transformer": _COLORS[5],
}
MARKERS = {
    "constructed transformer": "X",
    "MLE": "o",
    "naive": "s",
    "posterior mean": "D",
    "model average": "^",
    "transformer": "P",
}
MEASURES = {
    "tv": "total variation to the truth",
    "regret_bits": "regret (bits)",
    "mode_accuracy": "mode accuracy",
    "undefined": "share of queries without a match",
}
_NODE, _QUERY, _MATCH = "#e8eef4", "#fbe3c8", "#1b6ca8"


def use_style() -> None:
    """White background, a light grid, sizes for a page column; crisp at twice the resolution."""
    sns.set_theme(
        style="whitegrid",
        palette="colorblind",
        rc={
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 100,
            "axes.titlesize": "medium",
            "legend.frameon": False,
        },
    )
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("retina")


def network(net: BayesianNetwork, ax: Axes | None = None, title: str = "") -> Axes:
    """The graph, parents above their children."""
    ax = ax or plt.subplots(figsize=(4, 3))[1]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(net.n_nodes))
    graph.add_edges_from(net.edges)
    for layer, nodes in enumerate(nx.topological_generations(graph)):
        for node in nodes:
            graph.nodes[node]["layer"] = -layer
    position = nx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    # Every other node of a layer a little lower: an edge over two layers is then seen past the node between.
    for layer in nx.topological_generations(graph):
        for i, node in enumerate(layer):
            position[node] = position[node] + [0.0, -0.06 * (i % 2)]
    labels = dict(enumerate(net.names))
    style: dict[str, Any] = {"node_color": _NODE, "edgecolors": "#34495e", "node_size": 400, "ax": ax}
    nx.draw_networkx_nodes(graph, position, **style)
    nx.draw_networkx_labels(graph, position, labels, font_size=7, ax=ax)
    nx.draw_networkx_edges(graph, position, node_size=400, edge_color="#34495e", width=1.1, arrowsize=11, ax=ax)
    ax.margins(0.15)
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def networks(nets: dict[str, BayesianNetwork], columns: int = 3) -> Figure:
    """Several graphs side by side, each under its name."""
    rows = -(-len(nets) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(9, 3.5 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, (name, net) in zip(axes.flat, nets.items(), strict=False):
        network(net, ax, title=name)
    figure.tight_layout()
    return figure


def context(net: BayesianNetwork, rows: Int64[Tensor, "n nodes"], query: Int64[Tensor, " nodes"], target: int) -> Axes:
    """The context's rows and, below, the query; rows that agree on the target's parents are framed."""
    n, m = rows.shape
    ax = plt.subplots(figsize=(0.78 * m + 1.4, 0.3 * n + 1.6))[1]
    parents = list(net.parents[target])
    matching = (rows[:, parents] == query[parents]).all(-1).tolist()
    for i in range(n + 1):
        y, states = (n - i, rows[i]) if i < n else (-0.6, query)
        for j in range(m):
            read = i < n or j < target
            face = (_QUERY if i == n else "white") if read else "#f2f2f2"
            bold = j in parents or (j == target and i < n and matching[i])
            ax.add_patch(plt.Rectangle((j, y), 1, 1, facecolor=face, edgecolor="#c8ccd0", linewidth=0.8))
            text = str(states[j].item()) if read else ("?" if j == target else "")
            ax.text(j + 0.5, y + 0.5, text, ha="center", va="center", fontweight="bold" if bold else "normal")
        if i < n and matching[i]:
            ax.add_patch(plt.Rectangle((0, y), m, 1, fill=False, edgecolor=_MATCH, linewidth=2.2, zorder=3))
    ax.text(-0.2, n / 2 + 1, f"context\n{n} rows", ha="right", va="center")
    ax.text(-0.2, -0.1, "query", ha="right", va="center")
    ax.set(xlim=(-1.9, m + 0.1), ylim=(-0.8, n + 1.2), xticks=[j + 0.5 for j in range(m)], yticks=[])
    ax.set_xticklabels([f"{name}\nparent" if j in parents else f"{name}\ntarget" if j == target else name
                        for j, name in enumerate(net.names)])  # fmt: skip
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.grid(visible=False)
    sns.despine(ax=ax, left=True, bottom=True)
    return ax


def heatmap(
    values: Tensor, rows: Sequence[str], columns: Sequence[str], ax: Axes | None = None, title: str = ""
) -> Axes:
    """A matrix with a name for every row and column; blue is positive, red negative, white zero."""
    ax = ax or plt.subplots(figsize=(0.28 * len(columns) + 2, 0.22 * len(rows) + 1))[1]
    most = float(values.abs().max()) or 1.0
    sns.heatmap(
        values.detach().numpy(), ax=ax, cmap="vlag_r", center=0, vmin=-most, vmax=most, cbar=False,
        xticklabels=list(columns), yticklabels=list(rows), linewidths=0.4, linecolor="#e3e6e8",
    )  # fmt: skip
    ax.tick_params(labelsize=8, length=0)
    ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(axis="y", labelrotation=0)
    ax.set_title(title)
    return ax


def learning_curves(
    table: pd.DataFrame, measure: str = "tv", facet: str | None = None, columns: int = 2
) -> sns.FacetGrid:
    """A measure against the number of context rows, averaged over the nodes; a panel for each `facet`.

    Where the table has several rows for a point, such as those of several seeds: mean and standard deviation.
    Infinite values are left out (a regret of infinity has no place on an axis).
    """
    average = table[(table["node"] == AVERAGE) & (table[measure].abs() < float("inf"))]
    names = list(average["predictor"].unique())
    grid = sns.relplot(
        data=average,
        x="n_context",
        y=measure,
        hue="predictor",
        style="predictor",
        col=facet,
        col_wrap=columns if facet else None,
        kind="line",
        palette={name: PALETTE.get(name, _COLORS[7]) for name in names},
        markers={name: MARKERS.get(name, "X") for name in names},
        dashes=False,
        errorbar="sd",
        height=2.9,
        aspect=1.45,
        facet_kws={"sharey": True},
    )
    grid.set(xscale="log", ylim=(0, None))
    for ax in grid.axes.flat:
        plain_log_axis(ax)
    grid.set_axis_labels("rows in the context", MEASURES.get(measure, measure))
    if facet:
        grid.set_titles("{col_name}")
    if grid.legend is not None:
        sns.move_legend(grid, "lower center", bbox_to_anchor=(0.45, 1.0), ncol=4, title=None)
    return grid


def plain_log_axis(ax: Axes) -> None:
    """Ticks 1, 10, 100 instead of powers of ten."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def per_node(table: pd.DataFrame, predictors: Sequence[str], measure: str = "tv") -> Figure:
    """A measure as heat maps, one for each predictor: nodes down, context rows across, one scale."""
    nodes = table[table["node"] != AVERAGE]
    height = 0.21 * nodes["node"].nunique() + 1.2
    figure, axes = plt.subplots(
        1, len(predictors), figsize=(9, height), sharey=True, squeeze=False, layout="constrained"
    )
    top = nodes[nodes["predictor"].isin(predictors)][measure].max()
    for ax, name in zip(axes.flat, predictors, strict=True):
        wide = nodes[nodes["predictor"] == name].pivot(index="node", columns="n_context", values=measure)
        ordered = wide.reindex(nodes["node"].unique())
        sns.heatmap(ordered, ax=ax, vmin=0, vmax=top, cmap="rocket_r", cbar=False, yticklabels=True)
        ax.set(title=name, xlabel="rows in the context", ylabel="")
        ax.tick_params(axis="y", labelsize=8, labelrotation=0)
        ax.tick_params(axis="x", labelrotation=0)
    figure.colorbar(axes[0, 0].collections[0], ax=axes, label=MEASURES.get(measure, measure), shrink=0.6)
    return figure
