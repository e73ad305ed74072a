"""Graphs that nobody is told: how near a transformer comes to the exact average, and how fast, beside pgmpy's searches.

Part of `make bench`. The qualities are those of the swept tables results/unknown-structure.csv and unknown-searched.csv
(`bnicl sweep` makes them); the paces are measured here, all in one go, on the same contexts. The verdicts go to
results/unknown-targets.csv and into the README, the paces to results/unknown-pace.csv.
"""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from statistics import median

import pandas as pd
import torch

import bnicl
from benchmarks.quality import RESULTS, ROOT, as_markdown
from bnicl.runs import digest, environment

START, END = "<!-- structure: written by make bench -->", "<!-- /structure -->"
SEARCHES = {"hill climbing, bdeu": "bdeu", "hill climbing, bic": "bic", "PC": "pc"}
FEW = 20  # contexts for those who take one at a time
Line = tuple[str, float, str, str, str, bool | str]


# --- paces ----------------------------------------------------------------------------------------


def paces(n_nodes: int, n_contexts: int = 2048, n_rows: int = 100, repetitions: int = 5) -> pd.DataFrame:
    """Contexts a second in which all targets of one query are predicted: the median over repetitions, in turn."""
    config = bnicl.TrainingConfig(graph=f"random{n_nodes}", recipe="structure")
    cards = (2,) * n_nodes
    batch = bnicl.StructurePrior(bnicl.RandomGraphs(cards)).sample(n_contexts, n_rows + 1, seed=0)
    context, query = batch.rows[:, :n_rows], batch.rows[:, n_rows]
    run = bnicl.TrainedTransformer(config.build(), config)  # its pace does not depend on what it has learnt

    def predicts(predictor: bnicl.Predictor, n: int) -> Callable[[], None]:
        def all_targets() -> None:
            for target in range(n_nodes):
                predictor.predict_proba(context[:n], query[:n], target)

        return all_targets

    calls: dict[str, tuple[Callable[[], object], int]] = {
        "transformer": (lambda: run.predict_all(context, query), n_contexts),
        "model average": (predicts(bnicl.ModelAverage(cards), n_contexts), n_contexts),
        "naive": (predicts(bnicl.NaiveFrequency(cards, "marginal"), n_contexts), n_contexts),
        "MLE, told the graph": (predicts(bnicl.GivenGraphs(batch.adjacency, cards), n_contexts), n_contexts),
        "MLE, told a wrong graph": (
            predicts(bnicl.GivenGraphs(batch.adjacency.roll(1, 0), cards), n_contexts),
            n_contexts,
        ),
    }
    for name, search in SEARCHES.items():
        calls[name] = (lambda search=search: predicts(bnicl.SearchedGraph(cards, search), FEW)(), FEW)  # type: ignore[misc]
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 1):
        for name, (call, n) in calls.items():
            begin = time.perf_counter()
            call()
            if repetition:  # the first is to warm up
                spent[name].append((time.perf_counter() - begin) / n)
    seconds = pd.Series({name: median(each) for name, each in spent.items()})
    table = pd.DataFrame({"seconds_per_context": seconds, "contexts_per_second": 1 / seconds})
    table["times_hill_climbing"] = seconds["hill climbing, bdeu"] / seconds
    return table.rename_axis("predictor").reset_index().assign(nodes=n_nodes)


# --- qualities ---------------------------------------------------------------------------------------


def verdicts(swept: pd.DataFrame, searched: pd.DataFrame, pace: pd.DataFrame) -> pd.DataFrame:
    """What each target asks, what was measured, and whether it is met."""
    lines = [*_near_the_floor(swept), *_near_the_mle(swept), *_beside_searches(searched, pace)]
    return pd.DataFrame(lines, columns=["measure", "value", "where", "unit", "target", "met"])


def _near_the_floor(swept: pd.DataFrame) -> Iterator[Line]:
    first = swept[(swept["seed"] == 0) & swept["n_context"].between(20, 500)]
    for (graph, low, high), own in first[first["graph"].str.startswith("random")].groupby(
        ["graph", "lowest", "highest"]
    ):
        if (low, high) == (0.1, 0.8):
            continue
        tv = own.pivot(index="n_context", columns="predictor", values="tv")
        ratio = tv["transformer"] / tv["model average"]
        regret = 1000 * own[own["predictor"] == "transformer"].set_index("n_context")["regret_bits"]
        about = f"{graph.removeprefix('random')} nodes, edges " + (
            f"{low:g}" if low == high else f"{low:g} to {high:g}"
        )
        most = ratio[ratio.index <= 200]
        yield (f"{about}: largest total variation over the floor's, N = 20 to 200", most.max(), f"N = {most.idxmax()}",
               "times", "at most 1.05", bool(most.max() <= 1.05))  # fmt: skip
        yield f"{about}: the same, N = 500", ratio[500], "N = 500", "times", "at most 1.10", bool(ratio[500] <= 1.1)
        yield (f"{about}: largest regret", regret.max(), f"N = {regret.idxmax()}", "millibits", "at most 1",
               bool(regret.max() <= 1))  # fmt: skip


def _near_the_mle(swept: pd.DataFrame) -> Iterator[Line]:
    own = swept[(swept["lowest"] == 0.1) & (swept["n_context"] == 500) & (swept["predictor"] == "transformer")].iloc[0]
    value, where = float(own["tv_to_mle"]), f"N = 500, after {own['seconds'] / 60:.0f} min"
    name = "5 nodes, edges 0.1 to 0.8: total variation to the MLE"
    yield name, value, where, "", "below the published 0.025", value < 0.025


def _beside_searches(searched: pd.DataFrame, pace: pd.DataFrame) -> Iterator[Line]:
    for graph, own in searched[searched["n_context"].between(20, 200)].groupby("graph"):
        nodes = int(graph.removeprefix("random"))
        tv = own.pivot(index="n_context", columns="predictor", values="tv")
        for name in SEARCHES:
            ratio = tv[name] / tv["transformer"]
            target = "above 1" if name == "hill climbing, bdeu" else ""
            least, at = ratio.min(), f"smallest of N = 20 to 200: {ratio.idxmin()}"
            met = bool(least > 1) if target else ""
            yield f"{nodes} nodes: total variation of {name} over the transformer's", least, at, "times", target, met
        here = pace[pace["nodes"] == nodes].set_index("predictor")
        times = float(here.loc["transformer", "times_hill_climbing"])
        yield (f"{nodes} nodes: contexts a second, transformer over hill climbing (bdeu)", times, "N = 100", "times",
               "at least 1000", times >= 1000)  # fmt: skip


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pgmpy's, of its own parts
        pace = pd.concat([paces(5), paces(7)], ignore_index=True)
    print(pace.round(6).to_string(index=False))
    swept, searched = (bnicl.load_results(f"unknown-{name}") for name in ("structure", "searched"))
    found = verdicts(swept, searched, pace)
    print(found.to_string(index=False))
    made = {"made by": "make bench", **environment(), "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    for name, content in (("unknown-pace", pace), ("unknown-targets", found)):
        text = content.to_csv(index=False, float_format="%.6g")
        (RESULTS / f"{name}.csv").write_text(text)
        about = {"table": f"{name}.csv", "sha256": digest(text.encode()), **made}
        (RESULTS / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    readme = (ROOT / "README.md").read_text()
    before, rest = readme.split(START)
    shown = as_markdown(pd.read_csv(RESULTS / "unknown-targets.csv"))
    (ROOT / "README.md").write_text(f"{before}{START}\n{shown}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
