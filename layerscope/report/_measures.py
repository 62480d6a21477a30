"""Measures of one pass, and how alike they rank the layers as the exact effects do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from layerscope import plots, results, stats
from layerscope.errors import OptionError, ResultError

__all__ = ["MeasureSection", "measure_section"]

_OVERLAP = "top 5 overlap"

_Table = Mapping[tuple[str, str], Mapping[Any, Any]]
"""What `stats.agreement` says, by measure and statistic."""


class MeasureSection(NamedTuple):
    """A sentence, a table of agreement, a figure of the best, and a table of all values."""

    sentence: str
    columns: list[str]
    rows: list[list[str]]
    figure: Any | None
    values: tuple[list[str], list[list[str]]]


def measure_section(ds: xr.Dataset, metric: str) -> MeasureSection | None:
    """Say how a Dataset's measures rank its layers; None where it has no measures."""
    if "measure_value" not in ds:
        return None
    table = _agreement(ds, metric)
    best = _best(table)
    return MeasureSection(
        _sentence(ds, metric, table, best),
        ["measure", "Spearman", "95 % over layers", "Kendall", _OVERLAP, "layers"],
        [_row(ds, table, name) for name in map(str, ds["measure"].values)],
        None if best is None else plots.agreement(ds, best, metric),
        _values(ds),
    )


def _agreement(ds: xr.Dataset, metric: str) -> _Table:
    try:
        found = stats.agreement(ds, metric=metric, repeats=400)
    except (OptionError, ResultError):
        return {}  # nothing was computed, or at no first checkpoint: the values say so above
    return {(row["measure"], row["statistic"]): row for row in found.to_dict("records")}


def _best(table: _Table) -> str | None:
    """Name the measure whose ranks are most like those of the exact effect."""
    ranks = {name: row["value"] for (name, kind), row in table.items() if kind == "spearman"}
    known = {name: rank for name, rank in ranks.items() if not pd.isna(rank)}
    return max(known, key=known.__getitem__, default=None)


def _sentence(ds: xr.Dataset, metric: str, table: _Table, best: str | None) -> str:
    if best is None:
        return (
            "Measures of one pass stand below; how alike they rank the layers can't be said, since "
            "fewer than three layers have both a measure and an effect that differ."
        )
    row = table[best, "spearman"]
    every = "the one measure" if ds.sizes["measure"] == 1 else f"{ds.sizes['measure']} measures"
    return (
        f"Of {every} of one pass, {results.measure(ds, best).label} ranks the layers most as the "
        f"exact effect on {metric} does: Spearman's correlation {_number(row['value'])}"
        f"{_interval(row, ', 95 % interval ')}, over {int(row['n_layers'])} layers. A "
        "measure does not say what a layer costs; only the exact effect does."
    )


def _row(ds: xr.Dataset, table: _Table, name: str) -> list[str]:
    info = results.measure(ds, name)
    label = info.label + ("" if info.higher_matters else ", low matters")
    if (name, "spearman") not in table:
        return [label, *["–"] * 5]
    first, tau, overlap = (table[name, each] for each in ("spearman", "kendall", _OVERLAP))
    return [
        label,
        _number(first["value"]),
        _interval(first) or "–",
        _number(tau["value"]),
        _number(overlap["value"]),
        str(int(first["n_layers"])),
    ]


def _values(ds: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """List the measures of every layer."""
    names = [str(name) for name in ds["measure"].values]
    held = ds["measure_value"].transpose("layer", "measure")
    rows = [
        [layer, *(_value(each) for each in held.sel(layer=layer).values)]
        for layer in stats.layer_order(ds, network=False)
    ]
    return ["layer", *(results.measure(ds, name).label for name in names)], rows


def _value(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.4g}"


def _number(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def _interval(row: Mapping[Any, Any], before: str = "") -> str:
    low, high = row["lower"], row["upper"]
    return "" if pd.isna(low) or pd.isna(high) else f"{before}{low:.2f} to {high:.2f}"
