"""Writes book/_static/live.svg: what the live transformer shows of one question, for pages without JavaScript.

The rows and the query, with the target and its parents marked, and what five predictors answer.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

import bnicl
from bnicl import figures

PICTURE = Path(__file__).resolve().parents[1] / "book" / "_static" / "live.svg"
GRAPH, N_ROWS, TARGET, SEED = "general5", 10, 3, 6


def answers() -> tuple[torch.Tensor, torch.Tensor, float, dict[str, float]]:
    """The rows, the query, the truth and the answers: the probability of state 1 of the target."""
    net = bnicl.load_network(GRAPH)
    batch = bnicl.NetworkPrior(net).sample(batch_size=1, n=N_ROWS + 1, seed=SEED)
    rows, query = batch.rows[:, :N_ROWS], batch.rows[:, N_ROWS]
    predictors = {
        "trained": bnicl.load_trained(GRAPH),
        "constructed": bnicl.construct_mle_transformer(net, epsilon=1e-6, max_context=1000),
        "posterior mean": bnicl.PosteriorMean(net, 0.5),
        "MLE": bnicl.MaximumLikelihood(net),
        "naive": bnicl.NaiveFrequency(net.cardinalities),
    }
    truth = bnicl.conditional(net, batch.cpts, query, TARGET)[0, 1].item()
    found = {name: each.predict_proba(rows, query, TARGET)[0, 1].item() for name, each in predictors.items()}
    return rows[0], query[0], truth, found


def bars(ax: Axes, truth: float, found: dict[str, float]) -> None:
    """A bar for each predictor, and a line at the truth."""
    own = {"trained": "transformer", "constructed": "constructed transformer"}
    places = range(len(found))
    ax.barh(places, list(found.values()), color=[figures.PALETTE[own.get(name, name)] for name in found])
    for at, value in zip(places, found.values(), strict=True):
        ax.text(value + 0.02, at, f"{value:.3f}", va="center")
    ax.axvline(truth, color="#222", linewidth=1.5)
    ax.set(xlim=(0, 1.18), yticks=places, xticks=[0, 0.5, 1], title=f"P(X{TARGET} = 1); line: truth")
    ax.set_yticklabels(found)
    ax.invert_yaxis()
    ax.grid(visible=False)
    ax.spines[["top", "right", "bottom"]].set_visible(False)


if __name__ == "__main__":
    rows, query, truth, found = answers()
    figures.sns.set_theme(style="white", rc={"svg.fonttype": "none", "svg.hashsalt": "bnicl"})
    table = figures.context(bnicl.load_network(GRAPH), rows, query, TARGET)
    figure = plt.gcf()
    figure.set_size_inches(9, 4.2)
    table.set_position((0.0, 0.0, 0.55, 0.95))
    bars(figure.add_axes((0.72, 0.2, 0.33, 0.55)), truth, found)
    figure.savefig(PICTURE, metadata={"Date": None}, bbox_inches="tight")
