"""Graphs that nobody is told: how near a transformer comes to the exact average, and how fast, beside pgmpy's searches.

Part of `make bench`. The qualities are those of the swept tables results/unknown-structure.csv and
unknown-searched.csv (`bnicl sweep` makes them); the paces are measured here, all in one go, on the same contexts. The
verdicts go to results/unknown-targets.csv and into book/benchmarks.md, the paces to results/unknown-pace.csv.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from statistics import median

import pandas as pd
import torch

import bnicl
from benchmarks.quality import publish
from bnicl.evaluation import verdicts

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


def targets(swept: pd.DataFrame, searched: pd.DataFrame, pace: pd.DataFrame) -> pd.DataFrame:
    """What each target asks, what was measured, and whether it is met."""
    lines = [*_near_the_average(swept), *_near_the_mle(swept), *_beside_searches(searched, pace)]
    return pd.DataFrame(lines, columns=["measure", "value", "where", "unit", "target", "met"])


def _near_the_average(swept: pd.DataFrame) -> Iterator[Line]:
    """The worst of the seeds and numbers of rows, for random graphs and mixtures alike; naive counting beside."""
    wanted = swept[swept["n_context"].between(20, 500)]
    for (graph, low, high), own in wanted.groupby(["graph", "lowest", "highest"], sort=False):
        points = own.pivot(index=["seed", "n_context"], columns="predictor", values=["tv", "regret_bits"])
        over = points["tv"].div(points["tv"]["model average"], axis=0)
        regret = 1000 * points["regret_bits"]["transformer"]
        edges = f", edges {low:g}" if low == high else f", edges {low:g} to {high:g}"
        spent = " to ".join(dict.fromkeys(own["minutes"].agg(["min", "max"]).map("{:.0f}".format)))
        about = f"{graph}{edges if graph.startswith('random') else ''}, after {spent} min"
        many = over.index.get_level_values("n_context") == 500
        for name, rows, most in (("N = 20 to 200", ~many, 1.05), ("N = 500", many, 1.1)):
            values = over["transformer"][rows]
            seed, n = values.idxmax()
            where = f"N = {n}, seed {seed}; naive {over['naive'][(seed, n)]:.2f}"
            name = f"{about}: total variation over the exact average's, {name}"
            yield name, values.max(), where, "times", f"at most {most:g}", values.max() <= most
        seed, n = regret.idxmax()
        where = f"N = {n}, seed {seed}"
        yield f"{about}: regret, N = 20 to 500", regret.max(), where, "millibits", "at most 1", regret.max() <= 1


def _near_the_mle(swept: pd.DataFrame) -> Iterator[Line]:
    """The paper's own measure, beside what its figures end at: reached only where naive counting does not reach it."""
    for name, of_these, published in (
        ("tree, chain or general of 5 nodes", swept["graph"] == "tree5+chain5+general5", 0.011),
        ("tree, chain or general of 7 nodes", swept["graph"] == "tree7+chain7+general7", 0.015),
        ("random5, edges 0.1 to 0.8", swept["lowest"] == 0.1, 0.025),
    ):
        own = swept[of_these & (swept["n_context"] == 500)]
        to_mle = own.groupby("predictor")["tv_to_mle"].mean()
        where = f"N = 500; naive {to_mle['naive']:.4f}, exact average {to_mle['model average']:.4f}"
        target, holds = f"below {published:g}, and naive not", bool(verdicts.below(own, published, "tv_to_mle"))
        yield f"{name}: total variation to the MLE", to_mle["transformer"], where, "", target, holds


def _beside_searches(searched: pd.DataFrame, pace: pd.DataFrame) -> Iterator[Line]:
    """On the same contexts, at every N and seed; and how much longer a search takes."""
    for graph, own in searched.groupby("graph"):
        nodes = int(graph.removeprefix("random"))
        for name in SEARCHES:
            points = own[own["predictor"] == name].set_index(["seed", "n_context"])
            seed, n = points["tv_more_low"].idxmin()
            low, high = (1000 * points.loc[(seed, n), ["tv_more_low", "tv_more_high"]]).round(1)
            target = "above 0, surely" if name == "hill climbing, bdeu" else ""
            yield (
                f"{nodes} nodes: total variation of {name} less the transformer's, the worst seed and N from 5 to 200",
                1000 * points.loc[(seed, n), "tv_more"],
                f"N = {n}, seed {seed}; 95 %: {low:g} to {high:g}",
                "thousandths",
                target,
                bool(low > 0) if target else "",
            )
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
    found = targets(swept, searched, pace)
    print(found.to_string(index=False))
    publish({"unknown-pace": pace, "unknown-targets": found}, "unknown-targets", (START, END), torch.get_num_threads())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
