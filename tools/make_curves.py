"""Writes book/_static/curves.js: what the interactive curves of the trained transformers show, from results/.

For each graph, measure and predictor a list of [rows, mean, standard deviation] over the seeds of the sweep.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from bnicl import load_results

SHOWN = ("naive", "MLE", "posterior mean", "transformer")
MEASURES = {  # the name on the page, and its unit in those of the table
    "tv": ("total variation", 1),
    "regret_bits": ("regret (millibits)", 1000),
    "mode_accuracy": ("mode accuracy", 1),
}
FILE = Path(__file__).resolve().parents[1] / "book" / "_static" / "curves.js"


def curves(swept: pd.DataFrame) -> dict[str, dict[str, dict[str, list[list[float]]]]]:
    """Averages over the nodes; points where a measure is infinite are left out."""
    average = swept[swept["node"] == "average"]
    return {
        graph: {
            label: {
                name: [
                    [int(n), round(unit * float(each.mean()), 6), round(unit * float(each.std()), 6)]
                    for n, each in of_graph[of_graph["predictor"] == name].groupby("n_context")[measure]
                    if np.isfinite(each).all()
                ]
                for name in SHOWN
            }
            for measure, (label, unit) in MEASURES.items()
        }
        for graph, of_graph in average.groupby("graph", sort=False)
    }


if __name__ == "__main__":
    partial = FILE.with_suffix(".part")
    partial.write_text(f"window.bnicl.curves = {json.dumps(curves(load_results('single-structure')))};\n")
    partial.rename(FILE)
