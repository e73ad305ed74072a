"""Pictures of networks, contexts and tidy tables, in one style; nothing is computed here, and tables are `readable`.

A figure knows its numbers: `show` shows it with the table that it was drawn from and the committed tables behind that.
A predictor has the same colour and marker in the whole book, and nothing else has one of these colours.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import lazy_loader
import matplotlib.pyplot as plt
import networkx as nx
import pandas as pd
import torch
from jaxtyping import Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter
from torch import Tensor

from bnicl.estimators.families import Counts
from bnicl.networks.graph import BayesianNetwork
from bnicl.readable import as_html, flat

sns = lazy_loader.load("seaborn")  # a second to import, which a figure of the command line does without

PALETTE = {
    "MLE": "#0173b2",
    "naive": "#de8f05",
    "posterior mean": "#029e73",
    "transformer": "#d55e00",
    "constructed transformer": "#ca9161",
    "model average": "#cc78bc",
    "graph average": "#b35ca3",
    "order average": "#8f4a83",
    "told the graph": "#00664b",
    "told a wrong graph": "#9a8c00",
    "all parents": "#949494",
    "hill climbing, bdeu": "#5b2a86",
    "hill climbing, bic": "#56b4e9",
    "PC": "#a31621",
    "transformer, from construction": "#f0905a",
    "transformer, from random": "#8a3d00",
}
OTHERS = ("#34495e", "#7f6000", "#9db1c6", "#7986cb", "#5d4037", "#4e6e58", "#c9b458", "#2f2f2f")  # like no predictor's
MARKERS = {
    "constructed transformer": "X",
    "MLE": "o",
    "naive": "s",
    "posterior mean": "D",
    "model average": "^",
    "transformer": "P",
}
_MORE_MARKERS = ("v", "<", ">", "p", "h", "d", "8", "*")
MEASURES = {
    "tv": "total variation to the truth",
    "ratio": "total variation,\nover the optimum's",
    "regret_bits": "regret (bits)",
    "millibits": "regret (millibits)",
    "mode_accuracy": "mode accuracy",
    "undefined": "share of queries without a match",
    "share": "share of the gap",
    "n_context": "rows in the context",
}
COLUMN = 690  # px: the width of a page's column on a wide screen
_NODE, _QUERY, _MATCH = "#e8eef4", "#fbe3c8", "#1b6ca8"


def plain(text: str) -> str:
    """A reader's own name in a figure: two dollar signs would make a formula of it."""
    return text.replace("$", r"\$")


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name: a predictor's own, and spare ones for all other names."""
    return _own_or_spare(names, PALETTE, OTHERS)


def markers(names: Sequence[str]) -> dict[str, str]:
    """A marker for each name: a predictor's own, and spare ones for all other names."""
    return _own_or_spare(names, MARKERS, _MORE_MARKERS)


def _own_or_spare(names: Sequence[str], own: Mapping[str, str], spare: Sequence[str]) -> dict[str, str]:
    rest = itertools.cycle(spare)
    return {name: own.get(name) or next(rest) for name in names}


def shades(names: Sequence[str], colour: str = OTHERS[0]) -> dict[str, Any]:
    """Shades of one colour for names that have an order, from light to dark."""
    return dict(zip(names, sns.light_palette(colour, len(names) + 1)[1:], strict=True))


def use_style() -> None:
    """White background, a light grid, sizes for a page column; tables as `as_html` shows them."""
    sns.set_theme(
        style="whitegrid",
        palette=list(OTHERS),
        rc={
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.dpi": 100,
            "axes.titlesize": "medium",
            "legend.frameon": False,
        },
    )
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg")
    if (shell := get_ipython()) is not None:
        formatters = shell.display_formatter.formatters
        formatters["text/html"].for_type(pd.DataFrame, as_html)
        formatters["text/plain"].for_type(pd.DataFrame, lambda table, printer, _: printer.text(flat(table).to_string()))


# --- what is shown carries its numbers ------------------------------------------------------------


def show(figure: Any, table: pd.DataFrame | None = None, made_by: str | Sequence[str] = ()) -> None:
    """Shows a figure in a notebook, with the tidy table that it was drawn from.

    figure: of matplotlib, one of its axes, or a grid of seaborn; shown as SVG.
    table: its numbers, which the page offers as CSV.
    made_by: the committed tables of results/ behind them; none where the page itself computed them.
    """
    from IPython.core.pylabtools import print_figure
    from IPython.display import display

    drawn: Figure = figure if isinstance(figure, Figure) else figure.figure
    bundle: dict[str, Any] = {"text/plain": f"<Figure with {len(drawn.axes)} panels>"}
    with plt.rc_context({"svg.hashsalt": "bnicl"}):  # the same figure is the same file
        image = str(print_figure(drawn, "svg", metadata={"Date": None}))
    bundle["image/svg+xml"] = image
    if table is not None:
        numbered = table.index.name is None and pd.api.types.is_integer_dtype(table.index)  # rows, or some of them
        bundle["text/csv"] = table.to_csv(index=not numbered, float_format="%.6g")
    width, height = _size(image)
    names = [made_by] if isinstance(made_by, str) else [*made_by]
    about = {"made_by": names, "smallest_text": smallest_text(drawn, width)}
    display(bundle, raw=True, metadata={"image/svg+xml": {"width": width, "height": height}, "bnicl": about})
    plt.close(drawn)


_PX = 96 / 72  # a point in px


def smallest_text(figure: Figure, width: int) -> float:
    """The size in px of a figure's smallest text, where the figure, `width` px wide, stands in a page's column."""
    sizes = [
        float(text.get_fontsize()) for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()
    ]
    return round(min(sizes, default=100.0) * _PX * min(1.0, COLUMN / width), 1)


def _size(image: str) -> tuple[int, int]:
    """Width and height in px of an SVG that states them in points."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', image)
    assert found is not None
    return round(_PX * float(found[1])), round(_PX * float(found[2]))


# --- networks and contexts ------------------------------------------------------------------------


def network(
    net: BayesianNetwork,
    ax: Axes | None = None,
    title: str = "",
    position: Mapping[str, tuple[float, float]] | None = None,
) -> Axes:
    """The graph, parents above their children.

    position: where each node stands, by its name, instead.
    """
    ax = ax or plt.subplots(figsize=(4, 3))[1]
    graph = nx.DiGraph()
    graph.add_nodes_from(range(net.n_nodes))
    graph.add_edges_from(net.edges)
    places = _layers(graph) if position is None else {m: position[name] for m, name in enumerate(net.names)}
    labels = dict(enumerate(map(plain, net.names)))
    size = min(1600.0, max(400.0, (5.4 * max(map(len, net.names)) + 6) ** 2))  # as wide as the longest name, in pt
    style: dict[str, Any] = {"node_color": _NODE, "edgecolors": "#34495e", "node_size": size, "ax": ax}
    nx.draw_networkx_nodes(graph, places, **style)
    nx.draw_networkx_labels(graph, places, labels, font_size=8.8, ax=ax)
    nx.draw_networkx_edges(graph, places, node_size=size, edge_color="#34495e", width=1.1, arrowsize=11, ax=ax)
    ax.margins(0.12)
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def _layers(graph: nx.DiGraph) -> dict[int, tuple[float, float]]:
    """Where each node stands if parents are above their children."""
    generations = list(nx.topological_generations(graph))
    for layer, nodes in enumerate(generations):
        for node in nodes:
            graph.nodes[node]["layer"] = -layer
    place = nx.multipartite_layout(graph, subset_key="layer", align="horizontal")
    # Every other node of a layer a little lower: an edge over two layers is then seen past the node between.
    lower = {node: 0.06 * (i % 2) for nodes in generations for i, node in enumerate(nodes)}
    return {node: (x, y - lower[node]) for node, (x, y) in place.items()}


def networks(nets: dict[str, BayesianNetwork], columns: int = 3) -> Figure:
    """Several graphs side by side, each under its name."""
    rows = -(-len(nets) // columns)
    deep = [len(list(nx.topological_generations(nx.DiGraph(net.edges)))) for net in nets.values()]
    heights = [0.7 + 0.6 * max(deep[columns * i : columns * (i + 1)]) for i in range(rows)]
    figure, axes = plt.subplots(
        rows, columns, figsize=(7.6, sum(heights)), squeeze=False, gridspec_kw={"height_ratios": heights}
    )
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
    ax.spines[:].set_visible(False)
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
    ax.tick_params(labelsize=8.5, length=0)
    ax.tick_params(axis="x", labelrotation=90)
    ax.tick_params(axis="y", labelrotation=0)
    ax.set_title(title)
    return ax


# --- tables of measures ---------------------------------------------------------------------------


def curves(
    table: pd.DataFrame,
    y: str = "tv",
    hue: str = "predictor",
    panel: str | None = None,
    band: tuple[str, str] | None = None,
    reference: str | None = None,
    levels: Mapping[float, str] | None = None,
    columns: int = 2,
) -> Any:
    """A measure against the number of context rows: a curve for each `hue`, a panel for each value of `panel`.

    Where the table has several rows for a point, such as those of several seeds, it shows mean and standard deviation.
    Infinite values have no place on an axis and are left out.

    y: the column of the measure. band: the columns that bound its interval, in place of the standard deviation.
    reference: a column whose mean is drawn dashed in each panel. levels: names of horizontal lines, by height.
    Returns seaborn's FacetGrid.
    """
    shown = table[table[y].abs() < float("inf")]
    names = [str(name) for name in shown[hue].unique()]
    own = colours(names)
    grid = sns.relplot(
        data=shown.assign(**{hue: shown[hue].astype(str)}), x="n_context", y=y, hue=hue, style=hue, col=panel,
        col_wrap=columns if panel else None, kind="line", palette=own, hue_order=names, style_order=names,
        markers=markers(names), dashes=False, errorbar=None if band else "sd",
        height=2.9 if columns < 3 else 2.5, aspect=1.45 if columns < 3 else 1.1,
    )  # fmt: skip
    for key, ax in grid.axes_dict.items() if panel else [(None, grid.ax)]:
        here = shown if panel is None else shown[shown[panel] == key]
        for name, lines in here.groupby(here[hue].astype(str), sort=False) if band else []:
            ax.fill_between(lines["n_context"], *(lines[end] for end in band or ()), color=own[name], alpha=0.2, lw=0)
        if reference:
            means = here.groupby("n_context")[reference].mean()
            ax.plot(means.index, means, color="#444", linestyle="--", linewidth=1.2)
        for height, name in (levels or {}).items():
            ax.axhline(height, color=PALETTE.get(name, "#444"), linewidth=1, linestyle=":")
            where: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            ax.annotate(name, (0.01, height), (0, 4), **where, va="bottom", fontsize="small")
        plain_log_axis(ax)
    if not levels and not reference:
        grid.set(ylim=(0, None))
    grid.set_axis_labels(MEASURES["n_context"], MEASURES.get(y, y))
    if panel:
        grid.set_titles("{col_name}")
    if grid.legend is not None:
        sns.move_legend(grid, "lower center", bbox_to_anchor=(0.45, 1.0), ncol=min(4, len(names)), title=None)
    return grid


def four_panels(table: pd.DataFrame) -> Figure:
    """The paper's figure of one graph: total variation of three predictors by node, and the averages over the nodes.

    table: of one graph, as `evaluate` gives it; where a point has several rows, mean and standard deviation.
    """
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 6.2), sharex=True, sharey=True, layout="constrained")
    nodes = table[table["node"] != "average"]
    names = list(nodes["node"].unique())
    shades = dict(zip(names, sns.color_palette("viridis", len(names)).as_hex(), strict=True))
    style: dict[str, Any] = {"x": "n_context", "y": "tv", "errorbar": "sd"}
    for ax, name in zip(axes.flat, ("transformer", "MLE", "naive"), strict=False):
        own = nodes[nodes["predictor"] == name]
        sns.lineplot(own, **style, hue="node", palette=shades, ax=ax, legend=name == "MLE")
        ax.set(title=name)
    order = ["naive", "MLE", "posterior mean", "transformer"]
    average = table[(table["node"] == "average") & table["predictor"].isin(order)]
    named: dict[str, Any] = {"hue": "predictor", "style": "predictor", "hue_order": order, "style_order": order}
    sns.lineplot(average, **style, **named, dashes=False, palette=PALETTE, markers=MARKERS, ax=axes[1, 1])
    axes[1, 1].set(title="average over the nodes")
    for ax in axes.flat:
        plain_log_axis(ax)
        ax.set(xlabel=MEASURES["n_context"], ylabel="total variation", ylim=(0, None))
        if ax.get_legend() is not None:
            ax.legend(title=None, ncols=2 if ax is axes[0, 1] and len(names) > 5 else 1, fontsize="small")
    return figure


def plain_log_axis(ax: Axes) -> None:
    """Ticks 1, 10, 100 instead of powers of ten."""
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def training(
    history: Sequence[dict[str, float]], optimum: str = "posterior mean", loss: str = "cross-entropy (nats)"
) -> Figure:
    """A run's loss, and by how much its total variation to the truth is above the optimum's, against its steps.

    Values that are less than 0.1 % above it, or below it, are drawn at 0.1 %.
    """
    table = pd.DataFrame(history)
    table["above"] = (100 * (table["tv"] / table["tv_floor"] - 1)).clip(lower=0.1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.1), layout="constrained")
    sns.lineplot(table, x="step", y="loss", color=PALETTE["transformer"], ax=left)
    left.set(xlabel="steps of training", ylabel=loss)
    sns.lineplot(table, x="step", y="above", color=PALETTE["transformer"], ax=right)
    right.set(xlabel="steps of training", yscale="log")
    right.set_ylabel(f"total variation above\nthe {optimum}'s (%)")
    right.yaxis.set_major_formatter("{x:g}")
    sns.despine(figure)
    return figure


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
    for i, (name, own) in enumerate(table.groupby("node", sort=False)):
        color = OTHERS[i % len(OTHERS)] if few else OTHERS[0]
        ax.scatter(own["context"], own["new"], s=24, color=color, label=name if few else None)
    if few:
        ax.legend()
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
