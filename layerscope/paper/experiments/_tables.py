"""Tables for notebooks: as wide as the page, and never cut off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerscope.base.templates import render
from layerscope.paper.experiments._words import network_words

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["Table", "table", "verdicts"]

_TEMPLATE = "paper/experiments/templates/table.html.jinja"


@dataclass(frozen=True)
class Table:
    """Rows of texts, shown in full."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[at]) for line in lines) for at in range(len(self.columns))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        return str(render(_TEMPLATE, columns=self.columns, rows=self.rows))


def table(frame: pd.DataFrame, digits: int = 3) -> Table:
    """Set out a DataFrame for a notebook.

    Parameters
    ----------
    frame : DataFrame
        An index of labels becomes columns; one of plain numbers is left out.
    digits : int
        Significant digits of numbers.

    Examples
    --------
    >>> import pandas as pd
    >>> table(pd.DataFrame({"layer": ["fc1"], "rise": [0.123456]}))
    layer  rise
    fc1    0.123
    """
    named = any(name is not None for name in frame.index.names) or frame.index.dtype == object
    plain = frame.reset_index() if named else frame
    columns = ["" if str(c) in ("index", "level_0", "level_1") else str(c) for c in plain]
    rows = plain.to_numpy(dtype=object).tolist()
    return Table(tuple(columns), tuple(tuple(_text(cell, digits) for cell in row) for row in rows))


def verdicts(runs: Mapping[str, xr.Dataset], metric: str = "error", **limits: Any) -> Table:
    """Verdict on every row of every network, back at the initial values.

    Parameters
    ----------
    runs : mapping of str to Dataset
        By network.
    metric : str
    **limits
        Of `stats.classify`; by default those of `analyses.limits`.

    Returns
    -------
    Table
        How far the metric rises, the interval by which all rows are judged at once, the verdict.

    Examples
    --------
    >>> from layerscope import testing
    >>> verdicts({"net": testing.dataset(layers=1)})
    layer   rise of error  95 % of all rows at once  verdict
    layer1  0.88           0.873 to 0.886            critical
    """
    from layerscope import stats
    from layerscope.paper import analyses

    rows = []
    for name, ds in runs.items():
        found = stats.classify(ds, **{**analyses.limits(ds, metric), **limits})
        for row in found.to_dict("records"):
            first = (network_words(name),) if len(runs) > 1 else ()
            lower, upper = row["verdict_lower"], row["verdict_upper"]
            between = "one run" if math.isnan(lower) else f"{lower:.3g} to {upper:.3g}"
            rise = f"{row['degradation']:.3g}"
            rows.append((*first, row["layer"], rise, between, row["verdict"]))
    head = ("network",) if len(runs) > 1 else ()
    columns = (*head, "layer", f"rise of {metric}", "95 % of all rows at once", "verdict")
    return Table(columns, tuple(rows))


def _text(cell: Any, digits: int) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return ""
    return f"{cell:.{digits}g}" if isinstance(cell, float) else str(cell)
