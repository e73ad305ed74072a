"""How good a trained transformer is after a given time, beside the paper's recipe: part of `make bench`.

Runs of one thread each, two at a time. Each leaves its checkpoint under runs/quality, so that a benchmark that
was stopped goes on where it was. The table goes to results/quality.csv (one line per run and number of
context rows), the verdicts on its targets to results/quality-targets.csv and into the README.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import bnicl
from bnicl.runs import code_version, digest, environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
START, END = "<!-- quality: written by make bench -->", "<!-- /quality -->"
GRAPHS = ("chain7", "general7", "tree7", "general5", "tree5", "chain5")
N_CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000)
SHORT = (10.0, 20.0, 30.0, 45.0)  # seconds, to find how soon the floor is near
SCHEDULE = 100_000  # steps of the paper's recipe
WARM_UP = 2_000  # of these

FULL = {"mask": "prefix", "batch": 32, "n_queries": 4}  # rows attend to one another; more is asked of each context

JOBS: list[dict[str, Any]] = [
    *({"graph": graph, "seconds": 300.0} for graph in GRAPHS),
    {"graph": "chain7", "seconds": 300.0, "recipe": "paper"},
    *({"graph": graph, "seconds": 300.0, **FULL} for graph in ("chain7", "general7", "general5")),
    *({"graph": "chain7", "seconds": seconds} for seconds in SHORT),
    *({"graph": graph, "seconds": 60.0} for graph in GRAPHS),
]


def work(job: dict[str, Any]) -> pd.DataFrame:
    """Trains and evaluates on held-out networks; one line a number of context rows."""
    torch.set_num_threads(1)
    config = bnicl.TrainingConfig(**job)
    name = "-".join([*(str(value) for value in job.values()), code_version()])
    run = bnicl.train(config, ROOT / "runs" / "quality" / name, progress=False)
    last = run.history[-1]
    n_networks = 1024
    if config.recipe == "paper":  # counts give the same numbers faster, and fewer networks will do
        run = bnicl.TrainedTransformer(run.model, config.model_copy(update={"multiset": True}))
        n_networks = 128
    rivals: dict[str, bnicl.Predictor] = {"transformer": run, "floor": bnicl.PosteriorMean(run.net)}
    table = bnicl.evaluate(rivals, config.networks, N_CONTEXTS, n_networks, seed=1000)
    table = table[table["node"] == "average"].set_index(["n_context", "predictor"]).unstack()
    ours = table.xs("transformer", axis=1, level=1)[["regret_bits", "regret_low", "regret_high", "tv"]]
    made = ours.assign(tv_floor=table[("tv", "floor")]).reset_index()
    about = {"recipe": config.recipe, "mask": config.mask, "graph": config.graph, "budget": config.seconds,
             "steps": last["step"], "seconds": last["seconds"], "networks": n_networks}  # fmt: skip
    for place, (key, value) in enumerate(about.items()):
        made.insert(place, key, value)
    return made


def verdicts(table: pd.DataFrame) -> pd.DataFrame:
    """What each target asks, what was measured, and whether it is met."""
    millibits = 1000 * table["regret_bits"]
    long, fast = table["budget"] == 300, table["recipe"] == "fast"
    full = fast & (table["mask"] == FULL["mask"])
    ours = fast & ~full

    def worst(chosen: pd.Series) -> tuple[float, str]:
        at = millibits[chosen].idxmax()
        return float(millibits[at]), f"{table.loc[at, 'graph']}, N = {table.loc[at, 'n_context']}"

    main = worst(ours & long & table["n_context"].between(20, 500))
    few = worst(ours & long & table["n_context"].isin([5, 10]))
    minute = worst(ours & (table["budget"] == 60) & (table["n_context"] == 100))
    attentive = worst(full & long & table["n_context"].between(20, 500))
    hundred = (table["n_context"] == 100) & (table["graph"] == "chain7")
    near = table[hundred & ours & (table["tv"] <= 1.1 * table["tv_floor"])]["seconds"].min()
    peer = table[hundred & (table["recipe"] == "paper")].iloc[0]
    own = table[hundred & ours & long].iloc[0]
    step = peer["seconds"] / peer["steps"]
    lines = [
        ("largest regret, N = 20 to 500, after 300 s", *main, "millibits", "at most 0.3", main[0] <= 0.3),
        ("largest regret, N = 5 and 10, after 300 s", *few, "millibits", "at most 1", few[0] <= 1),
        ("largest regret, N = 100, after 60 s", *minute, "millibits", "at most 1", minute[0] <= 1),
        ("the same from 20 on where rows attend to one another, after 300 s", *attentive, "millibits", "", ""),
        ("regret after 300 s", 1000 * own["regret_bits"], "chain7, N = 100", "millibits", "", ""),
        ("the paper's recipe after 300 s", 1000 * peer["regret_bits"], "chain7, N = 100", "millibits", "", ""),
        ("seconds to a total variation within 10 % of the floor", near, "chain7, N = 100", "s", "", ""),
        ("seconds of the paper's recipe for its warm-up alone", WARM_UP * step, "chain7, extrapolated", "s", "", ""),
        ("the same for its whole schedule", SCHEDULE * step, "chain7, extrapolated", "s", "", ""),
        ("that schedule over our seconds to the floor", SCHEDULE * step / near, "chain7, extrapolated", "times",
         "at least 100", SCHEDULE * step / near >= 100),
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=["measure", "value", "where", "unit", "target", "met"])


def as_markdown(table: pd.DataFrame) -> str:
    """The verdicts as the README shows them."""
    lines = ["| | measured | where | target |", "|---|---|---|---|"]
    for line in table.fillna({"target": "", "met": ""}).to_dict("records"):
        target = f"{line['target']}: {'met' if line['met'] else 'missed'}" if line["target"] else ""
        number = f"{line['value']:.3g}" if line["value"] < 1000 else f"{line['value']:,.0f}"
        lines.append(f"| {line['measure']} | {number} {line['unit']} | {line['where']} | {target} |")
    return "\n".join(lines)


def main() -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        table = pd.concat(list(tqdm(pool.map(work, JOBS), total=len(JOBS))), ignore_index=True)
    made = {"made by": "make bench", "threads": 1, **environment()}
    made["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    found = verdicts(table)
    print(found.to_string(index=False))
    for name, content in (("quality", table), ("quality-targets", found)):
        text = content.to_csv(index=False, float_format="%.6g")
        (RESULTS / f"{name}.csv").write_text(text)
        about = {"table": f"{name}.csv", "sha256": digest(text.encode()), **made}
        (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(START)
    shown = as_markdown(pd.read_csv(RESULTS / "quality-targets.csv"))
    (ROOT / "README.md").write_text(f"{before}{START}\n{shown}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
