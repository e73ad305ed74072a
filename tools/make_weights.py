"""Writes book/_static/weights-GRAPH.js: what the pages need to run a trained transformer of results/weights.

`bnicl.weights.GRAPH`: the graph, the sizes, and each matrix as the base64 of its float32 entries, row by row. The
program of the page (transformer.js) computes what the recipe "fast" trains: rows that attend to themselves, read once
for all targets, with neither layer norm nor biases in the attention.
"""

import base64
import json
from pathlib import Path

import bnicl
from bnicl.training.trained import TrainedTransformer

STATIC = Path(__file__).resolve().parents[1] / "book" / "_static"
GRAPHS = ("chain5", "tree5", "general5")


def in_javascript(run: TrainedTransformer) -> str:
    """The transformer as a line of JavaScript; a ValueError for one that the page's program cannot run."""
    config, shape = run.config, run.model.config
    able = {
        "mask": config.mask == "rows",
        "encoding": config.encoding == "one-hot",
        "per_target": not config.per_target,
        "log_n": config.log_n,
        "layer_norm": not config.layer_norm,
        "gpt2": not config.gpt2,
        "positions": not config.positions,
        "activation": config.activation == "relu",
    }
    if unable := [name for name, fits in able.items() if not fits]:
        raise ValueError(f"{unable[0]}: the page cannot run a transformer with {getattr(config, unable[0])!r}")
    matrices = {
        name: base64.b64encode(value.numpy().astype("<f4").tobytes()).decode()
        for name, value in run.model.state_dict().items()
    }
    sizes = {name: getattr(shape, name) for name in ("d_model", "n_layers", "n_heads", "d_head", "d_mlp")}
    made = {"parents": run.net.parents, **sizes, "matrices": matrices}
    return f"(window.bnicl.weights ??= {{}}).{config.graph} = {json.dumps(made, separators=(',', ':'))};\n"


if __name__ == "__main__":
    for graph in GRAPHS:
        path = STATIC / f"weights-{graph}.js"
        partial = path.with_suffix(".part")
        partial.write_text(in_javascript(bnicl.load_trained(graph)))
        partial.rename(path)
