"""Text that shows on hovering."""

from __future__ import annotations

from collections.abc import Sequence
from string import Formatter
from typing import Any

import pandas as pd
import xarray as xr
from holoviews.core.util import dimension_sanitizer

from layerscope import results, stats
from layerscope.errors import ResultError

# Name and form of each line.
_VALUE_HOVER = {
    "layer": "{layer}",
    "reset to": "{column}",
    "value": "{value:.4g}",
    "95 % interval": "{lower:.4g} to {upper:.4g}, over {interval_kind}",
    "change": "{change}",
    "examples": "{n_examples:,.0f}",
    "draws, seeds": "{n_draws}, {n_seeds}",
}
FINITE_HOVER = {"outputs": "{outputs}"}
DOUBT_HOVER = {"in doubt": "{doubt}"}
SETTLED_HOVER = {"settled": "{verdict}"}
DISTANCE_HOVER = {
    "layer": "{layer}",
    "reset to": "{column}",
    "distance": "{value:.4g}",
    "standard deviation": "{spread:.2g}",
    "draws, seeds": "{n_draws}, {n_seeds}",
}
_LAYER_COORDINATES = ("module_type", "parameters")
_LAYER_HOVER = {"module": "{module_type}", "parameters": "{parameters:,.0f}"}


def values_with_hover(ds: xr.Dataset, metric: str) -> pd.DataFrame:
    """Summarise a metric, with a column for each line that shows on hovering over a value."""
    table = stats.summary(ds, metric)
    write = results.metric(ds, metric).write_change
    changes = [None if pd.isna(each) else write(each) for each in table["degradation"]]
    told = table.assign(change=pd.Series(changes, table.index, dtype=object))
    return with_hover(ds, told, _VALUE_HOVER).drop(columns="change")


def with_hover(ds: xr.Dataset, table: pd.DataFrame, forms: dict[str, str]) -> pd.DataFrame:
    """Add a column for each line that shows on hovering, named "hover …".

    The lines are written here, since a number that is unknown should read as "–", not as "NaN".
    """
    if table.empty:
        raise ResultError("every cell of this Dataset is NaN: nothing was computed yet.")
    told = table
    if "verdict" in table:
        forms = forms | SETTLED_HOVER
        told = told.assign(verdict=table["verdict"].replace("", "not yet"))
    if (table.get("not_finite", pd.Series(0)) > 0).any():
        forms = forms | FINITE_HOVER
        told = told.assign(outputs=[_outputs(row) for row in table.itertuples()])
    if (doubts_of(table) != "").any():
        forms = forms | DOUBT_HOVER
        told = told.assign(doubt=doubts_of(table).replace("", "no"))
    if all(name in ds.coords and ds[name].dims == ("layer",) for name in _LAYER_COORDINATES):
        forms = forms | _LAYER_HOVER
        for name in _LAYER_COORDINATES:
            told = told.assign(**{name: told["layer"].map(ds[name].to_series())})
    rows = told.to_dict("records")
    return table.assign(
        **{f"hover {name}": [_fill(form, row) for row in rows] for name, form in forms.items()}
    )


def doubts_of(table: pd.DataFrame) -> pd.Series:
    """Why cells say nothing, in words; empty where they do."""
    return table["doubt"] if "doubt" in table else pd.Series("", table.index)


def _outputs(row: Any) -> str:
    """Say in how many runs a network's outputs, or the metric, were no finite numbers."""
    runs = row.n_draws * row.n_seeds
    if not row.not_finite:
        return "finite"
    return "not finite" if runs == 1 else f"not finite in {row.not_finite} of {runs} runs"


def _fill(form: str, row: dict[Any, Any]) -> str:
    named = [name for _, name, _, _ in Formatter().parse(form) if name]
    return "–" if any(pd.isna(row[name]) for name in named) else form.format(**row)


def tooltips(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Pair each hover line with its column; Bokeh escapes what it puts there."""
    lines = [name for name in texts if name.startswith("hover ")]
    return [(name.removeprefix("hover "), f"@{{{dimension_sanitizer(name)}}}") for name in lines]
