"""Tables for reading: one header row, few digits, no NaN, as text and as HTML; nothing is computed here."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import pandas as pd

NONE = "\N{EN DASH}"  # a cell of a table without a number


def plus_minus(mean: pd.Series, sd: pd.Series) -> pd.Series:
    """Mean and standard deviation as text, with the same digits: those to the first that the deviation has.

    >>> plus_minus(pd.Series([0.497, 2.0]), pd.Series([0.12, math.nan])).tolist()
    ['0.5 ± 0.1', '2']
    """
    digits = [max(0, -math.floor(math.log10(s))) if s > 0 else -1 for s in sd]
    each = zip(mean, sd, digits, strict=True)
    return pd.Series([f"{m:.{d}f} ± {s:.{d}f}" if d >= 0 else f"{m:.3g}" for m, s, d in each], mean.index)


def flat(table: pd.DataFrame) -> pd.DataFrame:
    """A table for reading: one header row, row labels as columns, whole numbers without a point, no NaN.

    >>> flat(pd.DataFrame({"MLE": [0.5, None], "rows": [5.0, 20.0]}, index=pd.Index(["a", "b"], name="node")))
      node  MLE rows
    0    a  0.5    5
    1    b    –   20
    """
    named = not isinstance(table.index, pd.RangeIndex)
    own = table.reset_index() if named and not set(table.index.names) & set(table.columns) else table
    names = [", ".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)
             for name in own.columns]  # fmt: skip
    across = ", ".join(str(name) for name in table.columns.names if name is not None)
    shown = {name if name != "index" else across: _written(own.iloc[:, i]) for i, name in enumerate(names)}
    return pd.DataFrame(shown)


def _written(column: pd.Series) -> list[str]:
    """The cells of a column as text, numbers with the same digits."""
    if not pd.api.types.is_float_dtype(column):
        return [NONE if value is None or value != value else "yes" if value is True else "no" if value is False
                else f"{value:,}" if isinstance(value, int) else str(value) for value in column.tolist()]  # fmt: skip
    finite = column[column.abs() < float("inf")]
    digits = next((d for d in range(7) if ((finite.round(d) - finite).abs() < 1e-9).all()), 4)
    return [NONE if value != value else "∞" if value == float("inf") else f"{value:,.{digits}f}" for value in column]


def as_html(table: pd.DataFrame) -> str:
    """`flat` as HTML, numbers right-aligned."""
    shown = flat(table)
    right = [all(not set(cell) - set("0123456789.,∞-+±% " + NONE) for cell in shown[name]) for name in shown]
    sides = ["right" if side else "left" for side in right]

    def row(cells: Sequence[object], tag: str) -> str:
        pairs = zip(cells, sides, strict=True)
        return "".join(f'<{tag} class="text-{side}">{html.escape(str(cell))}</{tag}>' for cell, side in pairs)

    body = "".join(f"<tr>{row(list(cells), 'td')}</tr>" for cells in shown.itertuples(index=False))
    header = row(list(shown.columns), "th")
    return f'<table class="dataframe"><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>'
