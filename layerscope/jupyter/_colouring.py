"""How values become colours, in the strip and the heat map alike, and the words that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.plots import scale_of
from layerscope.results import FULL_MODEL, MetricInfo

__all__ = ["COLOURINGS", "Colouring", "act_of", "axis_of", "colouring", "first_column", "title_of"]

COLOURINGS = ("damage", "value")
"""Meanings that colours can have: the share of the way to chance, or the metric as it is."""

# Its scale is that of any fraction of errors: from 0 to 1, whatever was measured.
_DAMAGE = MetricInfo("damage", fraction_of="errors")
_STEPS = 12


class Colouring(NamedTuple):
    """Colours of the cells of one table.

    Attributes
    ----------
    values : Series
        What is coloured, and written into a cell, for each line of the table.
    scale : plots.Scale
    label : str
        Name and unit, as a colour bar has them.
    relative : str or None
        As for `plots.heatmap`.
    """

    values: pd.Series
    scale: Any
    label: str
    relative: str | None

    def entry(self, act: str) -> dict[str, Any]:
        """Say what the colours stand for, with some of them from one end to the other."""
        steps = np.linspace(0, len(self.scale.colours) - 1, _STEPS).astype(int)
        ends = [self.scale.text(end) for end in (self.scale.low, self.scale.high)]
        return {
            "kind": "colour",
            "text": f"colour: {self.label} with that layer alone {act}",
            "colours": [self.scale.colours[step] for step in steps],
            "ends": ends,
        }


def colouring(table: pd.DataFrame, metric: MetricInfo, by: str = "damage") -> Colouring:
    """Choose colours for a table as `stats.summary` gives it.

    By damage where chance is known; else by how much worse than trained, over what single layers
    give, since the whole network would leave few colours for them; else by value.
    """
    damage = table["damage"] if "damage" in table else pd.Series(np.nan, table.index)
    worse = metric.worse * table["degradation"]
    if by == "damage" and damage.notna().any():
        label = "damage (0: as trained, 1: as chance)"
        return Colouring(damage, scale_of(damage, _DAMAGE), label, "damage")
    if by == "damage" and worse.notna().any():
        label = f"{'fall' if metric.higher_is_better else 'rise'} of test {metric.label}"
        single = worse[(table["layer"] != FULL_MODEL) & (table["column"] != results.RAND)]
        scale = scale_of(single if single.notna().any() else worse, None)
        return Colouring(worse, scale._replace(log=False), label, "difference")
    return Colouring(table["value"], scale_of(table["value"], metric), f"test {metric.label}", None)


def first_column(table: pd.DataFrame) -> str:
    """Name the column that colours the strip: the first checkpoint, else what there is."""
    columns = stats.column_order(table)
    return next((column for column in columns if column.isdecimal()), columns[0])


def act_of(column: str) -> str:
    """Say what is done to a layer in a column."""
    return f"reset to {column}" if column.isdecimal() else f"under {column}"


def axis_of(columns: Sequence[str]) -> str:
    """Say what the columns are, as the figures do."""
    if all(name == results.RAND or name.isdecimal() for name in columns):
        return "checkpoint the layer is reset to"
    numbers = any(name.isdecimal() for name in columns)
    more = " (a number: reset to that checkpoint)" if numbers else ""
    return f"what is done to the layer{more}"


def title_of(ds: xr.Dataset, metric: str, label: str) -> str:
    """Name the heat map: what was measured, of what, and the unit of its cells."""
    return f"Test {metric} with one layer {results.act(ds)}: {label}"
