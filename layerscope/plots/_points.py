"""Numbers of several runs against a setting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import holoviews as hv
import numpy as np
from pandas.api.types import is_numeric_dtype

from layerscope.base.validate import describe
from layerscope.errors import OptionError, choose
from layerscope.plots._backends import both, with_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["points"]

_ABREAST = 48  # characters that fit beside one another below the axis


def points(
    table: pd.DataFrame,
    x: str,
    y: str,
    title: str = "",
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> hv.Overlay:
    """Draw one point per run, and the mean of every setting.

    Means over numbers are joined by a line; names have nothing between them.

    Parameters
    ----------
    table : DataFrame
        One row per run.
    x, y : str
        Columns: the setting, a number or a name, and what was measured.
    title : str
    xlabel, ylabel : str, optional
        The names of the columns if not given.

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    OptionError
        If there is no such column.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"width": [8, 8, 16], "robust": [1, 2, 3]})
    >>> len(points(table, "width", "robust"))
    2
    """
    if not hasattr(table, "columns"):
        raise OptionError(f"table is {describe(table)}; give a DataFrame with one row per run.")
    for name in (x, y):
        choose(name, map(str, table.columns), "column")
    if not is_numeric_dtype(table[y]):
        raise OptionError(f"the column {y!r} holds no numbers; choose one that was measured.")
    # Names along the axis keep their order, and numbers stand at equal distances like names do.
    shown = table.assign(**{x: table[x].astype(str)})
    mean = shown.groupby(x, sort=False, as_index=False)[y].mean()
    numbers = shown[y].astype(float)
    known = np.isfinite(numbers)
    axes = {"kdims": [(x, xlabel or x)], "vdims": [(y, ylabel or y)]}
    runs = hv.Scatter(shown[known], **axes, label="runs")
    # Kept without a number where one run is infinite: the line breaks, the axis keeps its order.
    mean[y] = mean[y].astype(float).where(np.isfinite(mean[y].astype(float)))
    colour = {"color": "#4477aa"}
    if is_numeric_dtype(table[x]):
        means = both(hv.Curve(mean, **axes, label="mean"), colour, {}, {})
    else:
        marks = hv.Scatter(mean, **axes, label="mean")
        means = both(marks, colour, {"marker": "diamond", "size": 14}, {"marker": "D", "s": 60})
    runs = both(runs, {"color": "#222222"}, {"size": 6}, {"s": 20})
    drawn = means * runs
    if np.isinf(numbers).any():
        top, low = numbers[known].max(), numbers[known].min()
        beyond = top + 0.06 * (top - low) if known.any() else 0.0
        crosses = hv.Scatter(shown[np.isinf(numbers)].assign(**{y: beyond}), **axes)
        crosses = crosses.relabel("infinite")
        drawn *= both(crosses, {"color": "#222222"}, {"marker": "x", "size": 9}, {"marker": "X"})
    # Names that would run into each other stand aslant.
    names = shown[x].drop_duplicates()
    turned = 35 if len(names) * (names.str.len().max() + 2) > _ABREAST else 0
    return with_frame(drawn, title, {"xrotation": turned})
