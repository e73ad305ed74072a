"""Graphs that nobody is told: how near a transformer comes to the exact average, and how fast, beside pgmpy's searches.

Part of `make bench`. The qualities are those of the swept tables results/unknown-structure.csv and unknown-searched.csv (`bnicl sweep` makes them); the paces are measured here, all in one go, on
the same contexts. The verdicts go to results/unknown-targets.csv and into book/benchmarks.md, the paces to
results/unknown-pace.csv.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from statistics import median

import pandas as pd
import torch

import bnicl
from benchmarks.quality import publish

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
            answer = predictor.given(context[:n])
            for target in range(n_nodes):
                answer(query[:n], target)

        return all_targets

    calls: dict[str, tuple[Callable[[], object], int]] = {
        "transformer": (predicts(run, n_contexts), n_contexts),
        "model average": (predicts(bnicl.ModelAverage(cards), n_contexts), n_contexts),
        "naive": (predicts(bnicl.NaiveFrequency(cards, "marginal"), n_contexts), n_contexts),
        "MLE, told the graph": (predicts(bnicl.GivenGraphs(batch.graphs, cards), n_contexts), n_contexts),
        "MLE, told a wrong graph": (
            predicts(bnicl.GivenGraphs(batch.graphs.roll(1, 0), cards), n_contexts),
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
    """The worst of the seeds, wherever there are several."""
    wanted = swept["n_context"].between(20, 500) & (swept["lowest"] != 0.1) & swept["graph"].str.startswith("random")
    for (graph, low, high), own in swept[wanted].groupby(["graph", "lowest", "highest"]):
        points = own.pivot(index=["seed", "n_context"], columns="predictor", values=["tv", "regret_bits"])
        ratio = points["tv"]["transformer"] / points["tv"]["model average"]
        regret = 1000 * points["regret_bits"]["transformer"]
        edges = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        spent = " to ".join(dict.fromkeys(own["minutes"].agg(["min", "max"]).map("{:.0f}".format)))
        about = f"{graph.removeprefix('random')} nodes, edges {edges}, after {spent} min"
        many = ratio.index.get_level_values("n_context") == 500
        for name, values, unit, most in (
            ("total variation over the floor's, N = 20 to 200", ratio[~many], "times", 1.05),
            ("the same, N = 500", ratio[many], "times", 1.1),
            ("regret", regret, "millibits", 1.0),
        ):
            seed, n = values.idxmax()
            yield (
                f"{about}: {name}",
                values.max(),
                f"N = {n}, seed {seed}",
                unit,
                f"at most {most:g}",
                values.max() <= most,
            )


def _near_the_mle(swept: pd.DataFrame) -> Iterator[Line]:
    """The paper's own measure, beside what its figures end at."""
    own = swept[(swept["n_context"] == 500) & (swept["predictor"] == "transformer")]
    for name, of_these, published in (
        ("5 nodes, tree, chain or general", own["graph"] == "tree5+chain5+general5", 0.011),
        ("7 nodes, tree, chain or general", own["graph"] == "tree7+chain7+general7", 0.015),
        ("5 nodes, edges 0.1 to 0.8", own["lowest"] == 0.1, 0.025),
    ):
        value, minutes = own[of_these][["tv_to_mle", "minutes"]].max()
        where = f"N = 500, after {minutes:.0f} min"
        yield f"{name}: total variation to the MLE", value, where, "", f"below {published:g}", bool(value < published)


def _beside_searches(searched: pd.DataFrame, pace: pd.DataFrame) -> Iterator[Line]:
    """At every N up to 200; with five rows, apart from the others, a search may be lucky: see the chapter."""
    for graph, own in searched[searched["n_context"] <= 200].groupby("graph"):
        nodes = int(graph.removeprefix("random"))
        tv = own.pivot(index="n_context", columns="predictor", values="tv")
        for name in SEARCHES:
            for many, ratio in (tv[name] / tv["transformer"]).groupby(tv.index >= 20):
                least, at = ratio.min(), f"N = {ratio.idxmin()}"
                target = "above 1" if name == "hill climbing, bdeu" else ""
                about = f"{nodes} nodes: total variation of {name} over the transformer's"
                rows = "N = 20 to 200" if many else "N = 5"
                yield f"{about}, {rows}", least, at, "times", target, bool(least > 1) if target else ""
        here = pace[pace["nodes"] == nodes].set_index("predictor")
        times = float(here.loc["transformer", "times_hill_climbing"])
        yield (f"{nodes} nodes: contexts a second, transformer over hill climbing (bdeu)", times, "N = 100", "times",
               "at least 1000", times >= 1000)  # fmt: skip


def main() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pgmpy's, of its own parts
        pace = pd.concat([paces(5), paces(7)], ignore_index=True)
    print(pace.round(6).to_string(index=False))
    swept, searched = bnicl.load_results("unknown-structure"), bnicl.load_results("unknown-searched")
    found = verdicts(swept, searched, pace)
    print(found.to_string(index=False))
    publish({"unknown-pace": pace, "unknown-targets": found}, "unknown-targets", (START, END), torch.get_num_threads())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
