"""The published recipe at its own scale: what a step costs, and what a part of the schedule reaches on a GPU.

    python benchmarks/published.py pace out.csv --device cuda
    python benchmarks/published.py train out.csv --device cuda --steps 5000

`pace` times steps of each experiment, alone; `train` runs them side by side, each with its schedule of step sizes
brought down to --steps, and evaluates them beside naive counting, the MLE that is told the graph and the optimum.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import bnicl

# As published; and the same function without dropout, so that equal rows may be read once.
MERGED: dict[str, Any] = {"dropout": 0.0, "drop_everywhere": False, "multiset": True}
DENSE: dict[str, Any] = {
    "graph": "random10", "edge_prob": (0.7, 1.0), "shared_graph": True, "joined": True, "n_tables": None,
    "n_layers": 12, "batch": 16, "min_context": 500, "max_context": 500,
}  # fmt: skip
PACED: dict[str, dict[str, Any]] = {
    "chain5": {"graph": "chain5"},
    "chain5, merged": {"graph": "chain5", **MERGED},
    "general7, merged": {"graph": "general7", **MERGED},
    "random5, merged": {**DENSE, **MERGED, "graph": "random5"},
    "random10": DENSE,
    "random10, merged": {**DENSE, **MERGED},
}
TRAINED: dict[str, dict[str, Any]] = {
    **{f"random10, {seed}": {**DENSE, "seed": seed} for seed in (10, 11, 12)},
    "chain5": {"graph": "chain5", "seed": 10},
    "chain5, merged": {"graph": "chain5", "seed": 10, **MERGED},
    "general5, merged": {"graph": "general5", "seed": 10, **MERGED},
}
N_CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500)


def pace(config: bnicl.TrainingConfig, half: int = 100) -> float:
    """Seconds a step, over the second half of a short run: examples, loss, gradient and update."""
    steps = {"steps": 2 * half, "records": 2}
    run = bnicl.train(config.model_copy(update=steps), progress=False)
    begin, end = (record["seconds"] for record in run.history)
    return (end - begin) / half


def trained(job: tuple[str, dict[str, Any]]) -> pd.DataFrame:
    """One run, evaluated; a line for each predictor, number of rows and node."""
    name, fields = job
    torch.set_num_threads(1)
    config = bnicl.TrainingConfig(recipe="published", **fields)
    begin = time.perf_counter()
    run = bnicl.train(config, progress=False)
    seconds = time.perf_counter() - begin
    cards = run.net.cardinalities
    rivals: dict[str, Any] = {"transformer": run, "naive": bnicl.NaiveFrequency(cards, "marginal")}
    if config.networks.graph_is_known:
        rivals |= {"MLE": bnicl.MaximumLikelihood(run.net, "marginal"), "optimum": config.networks.optimum()}
    else:
        rivals |= {"MLE": lambda batch: bnicl.GivenGraphs(batch.adjacency, cards)}
    table = bnicl.evaluate(rivals, config.networks, N_CONTEXTS, 256, seed=1000 + config.seed)
    about = {"run": name, "steps": config.steps, "seconds": seconds, "loss": run.history[-1]["loss"]}
    return table.assign(**about)[[*about, "predictor", "n_context", "node", "tv", "tv_to_mle", "regret_bits"]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["pace", "train"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--steps", type=int, default=5000)
    given = parser.parse_args()
    own = {"device": given.device, "precision": given.precision}
    if given.what == "pace":
        lines = []
        for name, fields in PACED.items():
            config = bnicl.TrainingConfig(recipe="published", **fields, **own)
            lines.append({"run": name, **own, "seconds a step": pace(config)})
            print(lines[-1], flush=True)
            pd.DataFrame(lines).to_csv(given.out, index=False)
        return
    schedule = {"steps": given.steps, "warmup": given.steps // 50}
    jobs = [(name, {**fields, **own, **schedule}) for name, fields in TRAINED.items()]
    with ProcessPoolExecutor(len(jobs), multiprocessing.get_context("spawn")) as pool:
        tables: list[pd.DataFrame] = []
        for run in as_completed([pool.submit(trained, job) for job in jobs]):
            tables.append(run.result())
            print(tables[-1]["run"].iloc[0], f"{tables[-1]['seconds'].iloc[0]:.0f} s", flush=True)
            pd.concat(tables).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
