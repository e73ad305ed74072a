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
import torch
from jaxtyping import Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor

from bnicl.estimators.families import Counts
from bnicl.evaluation.evaluate import AVERAGE
from bnicl.networks.graph import BayesianNetwork
from bnicl.shown import carry_data

_COLORS = sns.color_palette("colorblind").as_hex()
PALETTE = {
    "MLE": _COLORS[0],
    "naive": _COLORS[1],
    "posterior mean": _COLORS[2],
    "model average": _COLORS[4],
    "graph average": _COLORS[4],
    "order average": _COLORS[4],
    "all parents": _COLORS[7],
    "told the graph": _COLORS[2],
    "told a wrong graph": _COLORS[8],
    "hill climbing, bdeu": _COLORS[0],
    "hill climbing, bic": _COLORS[9],
    "PC": _COLORS[1],
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
    "ratio": "total variation over the floor's",
    "regret_bits": "regret (bits)",
    "mode_accuracy": "mode accuracy",
    "undefined": "share of queries without a match",
}
_NODE, _QUERY, _MATCH = "#e8eef4", "#fbe3c8", "#1b6ca8"


def plain(text: str) -> str:
    """A reader's own name in a figure: two dollar signs would make a formula of it."""
    return text.replace("$", r"\$")


def use_style() -> None:
    """White background, a light grid, sizes for a page column; crisp at twice the resolution; with the data as CSV."""
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
    carry_data()


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
    labels = dict(enumerate(map(plain, net.names)))
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
                        for j, name in enumerate(map(plain, net.names))])  # fmt: skip
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


def training(history: Sequence[dict[str, float]], floor: str = "posterior mean") -> Figure:
    """A run's loss, and its total variation to the truth with that of the optimum below it, against the seconds."""
    table = pd.DataFrame(history)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), layout="constrained")
    sns.lineplot(table, x="seconds", y="loss", color=PALETTE["transformer"], ax=left)
    left.set(xlabel="seconds of training", ylabel="loss")
    for column, name in (("tv", "transformer"), ("tv_floor", floor)):
        sns.lineplot(table, x="seconds", y=column, color=PALETTE[name], label=name, ax=right)
    right.set(xlabel="seconds of training", ylabel=MEASURES["tv"], ylim=(0, None))
    right.legend()
    sns.despine(figure)
    return figure


def four_panels(table: pd.DataFrame) -> Figure:
    """The paper's figure of one graph: a panel of curves by node for each of three, and the averages with the floor."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.2), sharex=True, sharey=True, layout="constrained")
    nodes = [node for node in table["node"].unique() if node != AVERAGE]
    shades = dict(zip(nodes, sns.color_palette("viridis", len(nodes)).as_hex(), strict=True))
    for ax, name in zip(axes.flat, ("transformer", "MLE", "naive"), strict=False):
        own = table[(table["predictor"] == name) & (table["node"] != AVERAGE)]
        sns.lineplot(own, x="n_context", y="tv", hue="node", palette=shades, errorbar="sd", ax=ax, legend=name == "MLE")
        ax.set(title=name)
    average = table[table["node"] == AVERAGE]
    shown = ["naive", "MLE", "posterior mean", "transformer"]
    sns.lineplot(
        average[average["predictor"].isin(shown)], x="n_context", y="tv", hue="predictor", style="predictor",
        hue_order=shown, style_order=shown, palette=PALETTE, markers=MARKERS, dashes=False, errorbar="sd",
        ax=axes[1, 1],
    )  # fmt: skip
    axes[1, 1].set(title="average over the nodes")
    for ax in axes.flat:
        plain_log_axis(ax)
        ax.set(xlabel="rows in the context", ylabel=MEASURES["tv"], ylim=(0, None))
        if ax.get_legend() is not None:
            ax.legend(title=None, ncols=2 if ax is axes[0, 1] and len(nodes) > 5 else 1, fontsize="small")
    sns.despine(figure)
    return figure


def regret_by_graph(table: pd.DataFrame, columns: str = "graph") -> sns.FacetGrid:
    """Regret in millibits against the rows of the context, a panel for each graph; mean and standard deviation."""
    millibits = table[table["node"] == AVERAGE].assign(millibits=lambda t: 1000 * t["regret_bits"])
    grid = sns.relplot(
        millibits, x="n_context", y="millibits", hue="variant", style="variant", col=columns, col_wrap=3, kind="line",
        markers=True, dashes=False, errorbar="sd", palette="colorblind", height=2.5, aspect=1.1,
    )  # fmt: skip
    grid.set(xscale="log", ylim=(0, None))
    grid.set_titles("{col_name}")
    for ax in grid.axes.flat:
        plain_log_axis(ax)
    grid.set_axis_labels("rows in the context", "regret (millibits)")
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.45, 1.0), ncol=3, title=None)
    return grid


def accuracy(table: pd.DataFrame, columns: str = "panel") -> sns.FacetGrid:
    """Mode accuracy against the rows of the context beside that of someone who knows the tables (dashed)."""
    shown = ["naive", "MLE", "transformer"]
    own = table[table["predictor"].isin(shown)]
    grid = sns.relplot(
        own, x="n_context", y="mode_accuracy", hue="predictor", style="predictor", hue_order=shown, style_order=shown,
        col=columns, col_wrap=3, kind="line", palette={name: PALETTE[name] for name in shown},
        markers={name: MARKERS[name] for name in shown}, dashes=False, errorbar="sd", height=2.7, aspect=1.1,
    )  # fmt: skip
    for name, ax in grid.axes_dict.items():
        optimal = own[own[columns] == name].groupby("n_context")["optimal_accuracy"].mean()
        ax.plot(optimal.index, optimal, color="#444", linestyle="--", linewidth=1.2)
        plain_log_axis(ax)
    grid.set_titles("{col_name}")
    grid.set_axis_labels("rows in the context", MEASURES["mode_accuracy"])
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.45, 1.0), ncol=3, title=None)
    return grid


def five_rows(table: pd.DataFrame) -> Axes:
    """Mean predictions, a column each, against the number k of rows in state 1."""
    names = [name for name in table if name != "k"]
    styles = dict(zip(names, ("P", "X", "v", "D", "o"), strict=False))
    means = table.groupby("k")[names].mean().reset_index().melt("k", var_name="predictor", value_name="p")
    ax = plt.subplots(figsize=(6.4, 3.6))[1]
    sns.lineplot(
        means, x="k", y="p", hue="predictor", style="predictor", markers=styles, dashes=False,
        palette=[PALETTE.get(name, _COLORS[i]) for name, i in zip(names, (3, 9, 4, 2, 0), strict=False)], ax=ax,
    )  # fmt: skip
    ax.set(xlabel="rows in state 1, of five", ylabel="predicted probability of state 1", ylim=(-0.03, 1.03))
    ax.legend(title=None)
    sns.despine(ax=ax)
    return ax


def shares_of_the_gap(table: pd.DataFrame) -> sns.FacetGrid:
    """The share of the gap between MLE (0) and posterior mean (1) against the rows of the context, with intervals."""
    names = list(table["predictor"].unique())
    grid = sns.relplot(
        table, x="n_context", y="share", hue="predictor", style="predictor", col="panel", col_wrap=2, kind="line",
        palette=[_COLORS[i] for i in (3, 9, 4)][: len(names)], markers=True, dashes=False, errorbar="sd",
        height=2.7, aspect=1.4,
    )  # fmt: skip
    for panel, ax in grid.axes_dict.items():
        for i, name in zip((3, 9, 4), names, strict=False):
            own = table[(table["panel"] == panel) & (table["predictor"] == name)]
            ax.fill_between(own["n_context"], own["share_low"], own["share_high"], color=_COLORS[i], alpha=0.2, lw=0)
        for level, name in ((0, "MLE"), (1, "posterior mean")):
            ax.axhline(level, color=PALETTE[name], linewidth=1, linestyle=":")
        plain_log_axis(ax)
        ax.set(ylim=(-0.3, None))
    grid.set_titles("{col_name}")
    grid.set_axis_labels("rows in the context", "share of the gap")
    sns.move_legend(grid, "lower center", bbox_to_anchor=(0.45, 1.0), ncol=3, title=None)
    return grid


def share_curves(table: pd.DataFrame, ends: dict[float, str]) -> Axes:
    """A share between two ends against the rows of the context, one curve a predictor, with its interval."""
    ax = plt.subplots(figsize=(6.4, 3.4))[1]
    for name, own in table.groupby("predictor", sort=False):
        color = PALETTE.get(str(name), _COLORS[7])
        ax.plot(own["n_context"], own["share"], color=color, marker=MARKERS.get(str(name), "X"), label=name)
        ax.fill_between(own["n_context"], own["share_low"], own["share_high"], color=color, alpha=0.2, lw=0)
    for level, name in ends.items():
        ax.axhline(level, color="#444", linewidth=1, linestyle=":")
        ax.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), va="bottom", fontsize="small")
    plain_log_axis(ax)
    ax.set(xlabel="rows in the context", ylabel="share of the gap")
    ax.legend(loc="lower right")
    sns.despine(ax=ax)
    return ax


def marginals(context: Counts, new: Counts) -> Figure:
    """How frequent each state is among new rows, against its frequency in the context; a point for each state."""
    names = [plain(name) for name in context.net.names]
    shares = {
        which: [each.shares(m) for m in range(len(names))] for which, each in (("context", context), ("new", new))
    }
    nodes = [name for name, own in zip(names, shares["new"], strict=True) for _ in own]
    table = pd.DataFrame({"node": nodes, **{which: torch.cat(each) for which, each in shares.items()}})
    figure, ax = plt.subplots(figsize=(5, 4.6), layout="constrained")
    few = len(names) <= 12
    sns.scatterplot(table, x="context", y="new", hue="node" if few else None, ax=ax)
    ax.axline((0, 0), slope=1, color="#444", linewidth=1, linestyle=":")
    ax.set(xlabel="share of the context's rows", ylabel="share of the new rows", aspect="equal")
    return figure


def evidence(table: pd.DataFrame, what: str) -> Figure:
    """A probability as evidence comes in: a line for each `evidence`, `probability` between `low` and `high`."""
    lines = range(len(table))
    figure, ax = plt.subplots(figsize=(6.4, 0.42 * len(table) + 1.1), layout="constrained")
    p = table["probability"]
    color = PALETTE["posterior mean"]
    ax.errorbar(p, lines, xerr=[p - table["low"], table["high"] - p], fmt="o", color=color, capsize=3)
    ax.set_yticks(lines, [plain(text) for text in table["evidence"]])
    ax.set(xlim=(-0.02, 1.02), xlabel=plain(what))
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    return figure
