"""What a table says about a claim: at which numbers of rows it holds, for every graph and seed, compared with rivals.

A claim that naive counting would pass too says nothing about training. So each rule here compares a predictor with its
rivals in such a way that naive counting, put in its place, fails it at every number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Verdict:
    """Where a claim holds.

    holds: by the number of context rows N, whether it holds for each graph and seed. runs: how many these are.
    otherwise: what it says where it does not hold.

    >>> str(Verdict({10: True, 100: True, 500: False}, runs=30))
    'agrees at N = 10 to 100, not at 500 (30 runs)'
    """

    holds: dict[int, bool]
    runs: int
    otherwise: str = "disagrees"

    def __bool__(self) -> bool:
        """Whether it holds at every N."""
        return all(self.holds.values())

    def __str__(self) -> str:
        yes, no = ([n for n, holds in self.holds.items() if holds is wanted] for wanted in (True, False))
        runs = f" ({self.runs} runs)" if self.runs > 1 else " (one run)"
        if not yes or not no:
            every = "N =" if len(self.holds) == 1 else "every N,"
            return f"{'agrees' if yes else self.otherwise} at {every} {_spans(yes or no, [*self.holds])}{runs}"
        return f"agrees at N = {_spans(yes, [*self.holds])}, not at {_spans(no, [*self.holds])}{runs}"


def _spans(chosen: Sequence[int], grid: Sequence[int]) -> str:
    """1, 2, 5 of the grid 1, 2, 5, 10 as "1 to 5"."""
    spans: list[list[int]] = []
    for n in chosen:
        if spans and grid.index(n) == grid.index(spans[-1][-1]) + 1:
            spans[-1].append(n)
        else:
            spans.append([n])
    return ", ".join(f"{span[0]:,} to {span[-1]:,}" if len(span) > 1 else f"{span[0]:,}" for span in spans)


def nearer(
    table: pd.DataFrame, measure: str = "tv", than: Sequence[str] = ("naive", "MLE"), who: str = "transformer"
) -> Verdict:
    """Whether a predictor has a smaller measure than each rival, and than naive counting, everywhere.

    table: with the columns predictor, n_context and `measure`, and those that name a run (graph, seed, ...).
    """
    wide = _wide(table, measure)
    return _verdict((wide[[*{*than, "naive"}]].gt(wide[who], axis=0)).all(axis=1))


def of_naives_excess(
    table: pd.DataFrame, optimum: str | None, at_most: float, measure: str = "tv", who: str = "transformer"
) -> Verdict:
    """Whether a predictor's excess over the optimum's measure, or over 0, is at most a share of naive counting's."""
    wide = _wide(table, measure)
    least = 0.0 if optimum is None else wide[optimum]
    return _verdict(wide[who] - least <= at_most * (wide["naive"] - least))


def below(table: pd.DataFrame, value: float, measure: str, who: str = "transformer") -> Verdict:
    """Whether a predictor's measure is below a published value that naive counting, on the same contexts, is not."""
    wide = _wide(table, measure)
    reached = wide["naive"] < value
    return _verdict(
        (wide[who] < value) & ~reached, "decides nothing, for naive counting passes" if any(reached) else "disagrees"
    )


def on_the_line(shares: pd.DataFrame, who: str, end: float, within: float, up_to: int = 20) -> Verdict:
    """Whether a predictor lies at an end of the line from MLE (0) to posterior mean (1), see `share_of_the_gap`.

    Its share of the gap is then within `within` of the end, and it is at most half as far off the line as naive
    counting. With more rows than `up_to` the ends are too near to one another to be told apart.
    """
    few = shares[shares["n_context"] <= up_to]
    share, off = _wide(few, "share"), _wide(few, "off_the_line")
    return _verdict(((share[who] - end).abs() <= within) & (off[who] <= off["naive"] / 2))


def beyond_chance(table: pd.DataFrame, than: str) -> Verdict:
    """Whether a rival's `tv_more` (see `evaluate`) has a 95 % interval above zero."""
    return _verdict(_wide(table, "tv_more_low")[than] > 0)


def _wide(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """The measure by run and n_context, a column for each predictor."""
    about = [name for name in table if name in ("graph", "lowest", "highest", "alpha", "levels", "seed", "n_context")]
    return table.groupby([*about, "predictor"], sort=False)[measure].mean().unstack("predictor")


def _verdict(holds: pd.Series, otherwise: str = "disagrees") -> Verdict:
    by_n = holds.groupby(level="n_context").agg(["all", "size"])
    return Verdict({int(n): bool(own) for n, own in by_n["all"].items()}, int(by_n["size"].max()), otherwise)
