"""What a notebook shows carries its numbers: beside the picture of a figure, or the HTML of a table, its CSV.

A notebook holds an output in several forms, and whoever reads it takes one. `carry_data` adds the form `text/csv`, so
that an executed chapter has, without another file, the data behind everything that it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.category import StrCategoryFormatter
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter

CSV = "text/csv"


def carry_data() -> None:
    """From here on the running notebook keeps figures and tables with their CSV; does nothing outside a notebook."""
    from IPython import get_ipython
    from IPython.core.formatters import BaseFormatter
    from traitlets import ObjectName, Unicode

    class CSVFormatter(BaseFormatter):
        format_type = Unicode(CSV)
        print_method = ObjectName("_repr_csv_")

    if (shell := get_ipython()) is None:
        return
    formatter = CSVFormatter(parent=shell.display_formatter)
    formatter.for_type(Figure, lambda figure: as_csv(drawn(figure)))
    formatter.for_type(pd.DataFrame, as_csv)
    shell.display_formatter.formatters[CSV] = formatter


def as_csv(table: pd.DataFrame) -> str | None:
    """The table as CSV with six digits, its index only where that says something; None for an empty one."""
    if table.empty:
        return None
    return str(table.to_csv(index=not isinstance(table.index, pd.RangeIndex), float_format="%.6g"))


def drawn(figure: Figure) -> pd.DataFrame:
    """The numbers that a figure shows, a row for each point, bar or cell.

    Columns are `panel` and `series` where there are several, the names of the axes (`x` and `y` where an axis has
    none), `of` for the group of a single point, and `value` for the shade of a cell. Bands and guide lines are left
    out, and so are panels without axes, such as drawings of graphs.

    >>> ax = (figure := Figure()).subplots()
    >>> _ = ax.plot([1, 2], [0.5, 0.25], label="MLE"), ax.plot([1, 2], [0.25, 0.2], label="floor")
    >>> _ = ax.set(xlabel="rows", ylabel="distance")
    >>> drawn(figure)
      series  rows  distance
    0    MLE     1      0.50
    1    MLE     2      0.25
    2  floor     1      0.25
    3  floor     2      0.20
    """
    parts = []
    panels = [ax for ax in figure.axes if ax.axison and ax.get_label() != "<colorbar>"]
    names = {axis: _axis_names(panels, axis) for axis in "xy"}
    for i, ax in enumerate(panels):
        for series, points in _points(figure, ax):
            own = pd.DataFrame(points)
            for axis in "xy":
                own[axis] = _labelled(getattr(ax, f"{axis}axis"), own[axis])
            own = own.dropna(subset="value" if "value" in own else ["x", "y"])
            own = own.rename(columns={axis: names[axis][i] for axis in "xy"})
            parts.append(own.assign(panel=ax.get_title() or str(i + 1), series=series))
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    told = [name for name in ("panel", "series") if table[name].nunique() > 1]
    return table[[*told, *table.columns.difference(["panel", "series"], sort=False)]]


def _axis_names(panels: Sequence[Axes], axis: str) -> list[str]:
    """What each panel has on an axis. Panels that share an axis name it once: the others have that name, too."""
    own = [getattr(ax, f"get_{axis}label")() for ax in panels]
    (common,) = names if len(names := set(own) - {""}) == 1 else {axis}
    return [name or common for name in own]


def _labelled(axis: Axis, values: pd.Series) -> pd.Series:
    """Places on an axis of names, as the nearest name."""
    if not isinstance(formatter := axis.get_major_formatter(), FixedFormatter | StrCategoryFormatter):
        return values
    if not pd.api.types.is_numeric_dtype(values):
        return values
    ticks = np.asarray(axis.get_majorticklocs(), dtype=float)
    labels = formatter.format_ticks(list(ticks))
    return values.map(lambda value: labels[int(np.abs(ticks - value).argmin())])


def _points(figure: Figure, ax: Axes) -> Iterator[tuple[str, dict[str, Any]]]:
    """The series of a panel, with a name and columns."""
    named = _legend(figure, ax)

    def name(artist: Any, color: Any) -> str:
        own = str(artist.get_label())
        marker = str(artist.get_marker()) if hasattr(artist, "get_marker") else ""
        found = named.get((to_hex(color), marker)) or named.get((to_hex(color), ""))
        return own if not own.startswith("_") else found or ""

    for line in ax.lines:
        if line.get_transform() == ax.transData and np.size(line.get_xdata()):  # a guide line is tied to the panel
            yield name(line, line.get_color()), dict(zip("xy", map(np.asarray, line.get_data()), strict=True))
    for marks in ax.collections:
        if isinstance(marks, PathCollection) and (offsets := np.asarray(marks.get_offsets())).size:
            names = [name(marks, color) for color in np.atleast_2d(marks.get_facecolor())]
            points = {"x": offsets[:, 0], "y": offsets[:, 1]}
            yield ("", points | {"of": names}) if len(names) == len(offsets) > 1 else (names[0], points)
        elif isinstance(marks, QuadMesh):
            values = np.asarray(marks.get_array())
            down, across = _names(ax, "y", values.shape[0]), _names(ax, "x", values.shape[1])
            yield "", {"y": np.repeat(down, len(across)), "x": np.tile(across, len(down)), "value": values.ravel()}
    for bars in ax.containers:
        if isinstance(bars, BarContainer) and len(bars):
            corner, size = ("y", "x"), ("height", "width")
            if bars.orientation == "vertical":
                corner, size = corner[::-1], size[::-1]
            middle = [getattr(b, f"get_{corner[0]}")() + getattr(b, f"get_{size[0]}")() / 2 for b in bars]
            length = [getattr(b, f"get_{size[1]}")() for b in bars]
            yield name(bars, bars[0].get_facecolor()), {corner[0]: middle, corner[1]: length}


def _names(ax: Axes, axis: str, size: int) -> list[str]:
    """Names of the rows or columns of cells, of the panel or of one that shares its axis; if none has them, numbers."""
    for each in (ax, *getattr(ax, f"get_shared_{axis}_axes")().get_siblings(ax)):
        labels = [label.get_text() for label in getattr(each, f"{axis}axis").get_ticklabels()]
        if len(labels) == size and all(labels):
            return labels
    return [str(i) for i in range(size)]


def _legend(figure: Figure, ax: Axes) -> dict[tuple[str, str], str]:
    """The labels of the legends by colour and marker, and by colour alone."""
    found: dict[tuple[str, str], str] = {}
    for legend in filter(None, [*figure.legends, ax.get_legend()]):
        handle: Any
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            color = handle.get_color() if hasattr(handle, "get_color") else handle.get_facecolor()
            color = color[0] if isinstance(color, np.ndarray) and color.ndim == 2 and len(color) else color
            marker = str(handle.get_marker()) if hasattr(handle, "get_marker") else ""
            found.setdefault((to_hex(color), marker), text.get_text())
            found.setdefault((to_hex(color), ""), text.get_text())
    return found
