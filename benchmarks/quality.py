"""How good a trained transformer is after a given time: part of `make bench`.

Runs of one thread each, two at a time. Each leaves its checkpoint under runs/quality, so that a benchmark that
was stopped goes on where it was. The table goes to results/quality.csv (one line per run and number of
context rows), the verdicts on its targets to results/quality-targets.csv and into book/benchmarks.md.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from tqdm import tqdm

import bnicl
from bnicl.batch.runs import code_version, digest, environment
from bnicl.training.checkpoint import CHECKPOINT

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
START, END = "<!-- quality: written by make bench -->", "<!-- /quality -->"
GRAPHS = ("chain7", "general7", "tree7", "general5", "tree5", "chain5")
N_CONTEXTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 1000)
SHORT = (3.0, 5.0, 7.0, 10.0, 20.0, 30.0, 45.0)  # seconds, to find how soon the floor is near

FULL = {"mask": "prefix", "batch": 32, "n_queries": 4}  # rows attend to one another; more is asked of each context

JOBS: list[dict[str, Any]] = [
    *({"graph": graph, "seconds": 300.0} for graph in GRAPHS),
    *({"graph": graph, "seconds": 300.0, **FULL} for graph in ("chain7", "general7", "general5")),
    *({"graph": "chain7", "seconds": seconds} for seconds in SHORT),
    *({"graph": graph, "seconds": 60.0} for graph in GRAPHS),
]


def how_far(out: Path) -> tuple[int, float]:
    """Steps and seconds of the last checkpoint."""
    if not (out / CHECKPOINT).exists():
        return 0, 0.0
    with safe_open(out / CHECKPOINT, "pt") as file:
        step, seconds, *_ = json.loads(file.metadata()["state"])
    return step, seconds


def work(job: dict[str, Any]) -> pd.DataFrame:
    """Trains and evaluates on held-out networks; one line a number of context rows."""
    torch.set_num_threads(1)
    out = ROOT / "runs" / "quality" / "-".join([*(str(value) for value in job.values()), code_version()])
    config, n_networks = bnicl.TrainingConfig(**job), 1024
    run = bnicl.train(config, out, progress=False)
    steps, seconds = how_far(out)
    rivals: dict[str, bnicl.Predictor] = {"transformer": run, "floor": bnicl.PosteriorMean(run.net)}
    table = bnicl.evaluate(rivals, config.networks, N_CONTEXTS, n_networks, seed=1000)
    table = table[table["node"] == "average"].set_index(["n_context", "predictor"]).unstack()
    ours = table.xs("transformer", axis=1, level=1)[["regret_bits", "regret_low", "regret_high", "tv"]]
    made = ours.assign(tv_floor=table[("tv", "floor")]).reset_index()
    about = {"recipe": config.recipe, "mask": config.mask, "graph": config.graph, "budget": job["seconds"],
             "steps": steps, "seconds": seconds, "networks": n_networks}  # fmt: skip
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
        graphs = table.loc[chosen, "graph"].nunique()
        return float(millibits[at]), f"{table.loc[at, 'graph']}, N = {table.loc[at, 'n_context']}, of {graphs} graphs"

    main = worst(ours & long & table["n_context"].between(20, 500))
    few = worst(ours & long & table["n_context"].isin([5, 10]))
    minute = worst(ours & (table["budget"] == 60) & (table["n_context"] == 100))
    attentive = worst(full & long & table["n_context"].between(20, 500))
    hundred = (table["n_context"] == 100) & (table["graph"] == "chain7")
    near = table[hundred & ours & (table["tv"] <= 1.1 * table["tv_floor"])]["seconds"].min()
    own = table[hundred & ours & long].iloc[0]
    here = "chain7, N = 100"
    lines = [
        ("largest regret, N = 20 to 500, after 300 s", *main, "millibits", "at most 0.3", main[0] <= 0.3),
        ("largest regret, N = 5 and 10, after 300 s", *few, "millibits", "at most 1", few[0] <= 1),
        ("largest regret, N = 100, after 60 s", *minute, "millibits", "at most 1", minute[0] <= 1),
        ("the first where rows attend to one another", *attentive, "millibits", "", ""),
        ("total variation of the exact optimum", own["tv_floor"], here, "", "", ""),
        ("total variation after 300 s", own["tv"], here, "", "", ""),
        ("shortest time tried that comes within 10 % of the optimum's total variation", near, here, "s", "", ""),
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=["measure", "value", "where", "unit", "target", "met"])


def as_markdown(table: pd.DataFrame) -> str:
    """The verdicts as the README shows them."""
    lines = ["| | measured | where | target |", "|---|---|---|---|"]
    for line in table.fillna({"unit": "", "target": "", "met": ""}).to_dict("records"):
        target = f"{line['target']}: {'met' if line['met'] else 'missed'}" if line["target"] else ""
        number = f"{line['value']:.4g}" if line["value"] < 1000 else f"{line['value']:,.0f}"
        lines.append(f"| {line['measure']} | {number} {line['unit']}".rstrip() + f" | {line['where']} | {target} |")
    return "\n".join(lines)


def publish(tables: dict[str, pd.DataFrame], verdicts: str, marks: tuple[str, str], threads: int) -> None:
    """Writes tables with their provenance to results/, and those of the verdicts between two marks of the README."""
    made = {"made by": "make bench", "threads": threads, **environment()}
    made["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    for name, content in tables.items():
        text = content.to_csv(index=False, float_format="%.6g")
        (RESULTS / f"{name}.csv").write_text(text)
        about = {"table": f"{name}.csv", "sha256": digest(text.encode()), **made}
        (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    start, end = marks
    readme = (ROOT / "book" / "benchmarks.md").read_text()
    before, rest = readme.split(start)
    shown = as_markdown(pd.read_csv(RESULTS / f"{verdicts}.csv"))
    (ROOT / "book" / "benchmarks.md").write_text(f"{before}{start}\n{shown}\n{end}{rest.split(end)[1]}")


def main() -> None:
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        table = pd.concat(list(tqdm(pool.map(work, JOBS), total=len(JOBS))), ignore_index=True)
    found = verdicts(table)
    print(found.to_string(index=False))
    publish({"quality": table, "quality-targets": found}, "quality-targets", (START, END), threads=1)


if __name__ == "__main__":
    main()
