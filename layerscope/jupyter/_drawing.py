"""Content of the strip and the heat map, from a Dataset and the present scene."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.core.layers import Layer
from layerscope.core.session import Change
from layerscope.errors import LayerscopeError, OptionError
from layerscope.plots import ink, scale_of, shorten_layers
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = [
    "blocks",
    "cells",
    "change_of",
    "column_of",
    "legend",
    "preset_rows",
    "presets",
    "refused_rows",
    "verdicts",
]

_UNKNOWN = "#e9ecef"
_LONGEST = 12  # signs of a name below its block, whose end tells blocks apart
_TRAINED, _ALL = "all trained", "reset all layers"
_ROBUST, _UNCRITICAL = "reset all robust layers", "reset all but the critical ones"
_SIGNS = {"critical": "●", "robust": "○", results.NOT_FINITE: "✕", results.REFUSED: "⊘"}


def column_of(change: Change) -> str:
    """Name the column of the heat map that a change stands in."""
    return change.about.column_at(change.epoch)


def change_of(ds: xr.Dataset, metric: str, column: str) -> Change:
    """Say what the cells of a column of a Dataset's heat map do to their layer."""
    table = stats.summary(ds, metric)
    cell = table[table["column"] == column].iloc[0]
    info = results.perturbation(ds, cell["perturbation"])
    return Change(info.name, int(cell["epoch"]), info=info)


def blocks(
    layers: Sequence[Layer],
    state: Mapping[str, Change],
    table: pd.DataFrame | None,
    found: Mapping[str, str],
    metric: results.MetricInfo,
    refused: Mapping[str, str] | None = None,
    measures: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:
    """Draw every layer as a block of the strip.

    Parameters
    ----------
    layers : sequence of Layer
        In execution order.
    state : mapping of str to Change
    table : DataFrame or None
        As `stats.summary` gives.
    found : mapping of str to str
        Verdicts by layer.
    metric : MetricInfo
    refused : mapping of str to str, optional
        As `refused_rows` gives.
    measures : mapping of str to sequence of str, optional
        As `measured_rows` gives.
    """
    refused, measures = refused or {}, measures or {}
    critical = _criticality(table)
    scale = scale_of(table["value"], metric) if table is not None else None
    largest = max((math.log1p(layer.size) for layer in layers), default=1.0) or 1.0
    short = shorten_layers([layer.name for layer in layers], _LONGEST)
    drawn = []
    for layer in layers:
        value, broken = critical.get(layer.name, (None, False))
        colour = _UNKNOWN if value is None or scale is None else scale.colour(value)
        change = state.get(layer.name)
        reset = "" if value is None else f"\nreset: {_format(value, broken)}"
        verdict = results.NOT_FINITE if broken else found.get(layer.name, "")
        if value is None and layer.name in refused:
            verdict = results.REFUSED
        why = f": {refused[layer.name]}" if verdict == results.REFUSED and refused else ""
        line = f"\n{verdict}{why}" if verdict else ""
        tip = f"{layer.name}\n{layer.module_type}, {layer.size:,} parameters{reset}{line}"
        tip = "\n".join([tip, *measures.get(layer.name, ())])
        drawn.append(
            {
                "name": layer.name,
                "short": short[layer.name],
                "stage": layer.stage,
                "block": layer.block,
                "colour": colour,
                "ink": ink(colour),
                "share": math.log1p(layer.size) / largest,
                "state": change.words if change else "trained",
                "badge": _badge(change, verdict),
                "tip": f"{tip}\nnow: {change.words if change else 'trained'}",
            }
        )
    return drawn


def refused_rows(ds: xr.Dataset | None, table: pd.DataFrame | None) -> dict[str, str]:
    """Say why rows can't be computed in the column that colours the strip."""
    if ds is None or table is None or table.empty:
        return {}
    done = str(table.loc[table["column"] == _first(table), "perturbation"].iloc[0])
    return {row: why for (row, name), why in results.refusals(ds).items() if name == done}


def measured_rows(ds: xr.Dataset | None) -> dict[str, list[str]]:
    """Write the measures of one pass of each row, a line for each; none where there are none."""
    if ds is None or "measure_value" not in ds:
        return {}
    labels = [results.measure(ds, str(name)).label for name in ds["measure"].values]
    held = ds["measure_value"].transpose("layer", "measure").values
    lines = [
        [
            f"{label}: {value:.4g}"
            for label, value in zip(labels, row, strict=True)
            if value == value
        ]
        for row in held
    ]
    return dict(zip(map(str, ds["layer"].values), lines, strict=True))


def _badge(change: Change | None, verdict: str) -> str:
    if change is None:
        return _SIGNS.get(verdict, "")
    if change.epoch != NO_EPOCH:
        return f"e{change.epoch}"
    return change.about.sign or "≠"


def _criticality(table: pd.DataFrame | None) -> dict[str, tuple[float, bool]]:
    """Each layer's value when it is put back to the first checkpoint, else to random values.

    And whether the outputs, or the value, were not finite.
    """
    if table is None:
        return {}
    chosen = table[table["column"] == _first(table)].to_dict("records")
    return {row["layer"]: (float(row["value"]), row["not_finite"] > 0) for row in chosen}


def _format(value: float, broken: bool) -> str:
    """Write a value that was computed, and whether outputs or value were not finite."""
    number = "NaN" if math.isnan(value) else f"{value:.4g}"
    return f"{number}, not finite" if broken else number


def _first(table: pd.DataFrame) -> str:
    columns = stats.column_order(table)
    return next((column for column in columns if column.isdecimal()), columns[0])


def legend(
    drawn: Sequence[Mapping[str, Any]], table: pd.DataFrame | None, metric: str
) -> list[str]:
    """Say what colours, signs and heights of the blocks mean that there are.

    Parameters
    ----------
    drawn : sequence of mapping
        As `blocks` gives.
    table : DataFrame or None
        What they were coloured by.
    metric : str
    """
    lines = []
    if table is not None and not table.empty:
        first = _first(table)
        what = f"reset to {first}" if first.isdecimal() else f"under {first}"
        lines.append(f"colour: {metric} with that layer alone {what}")
    signs = {block["badge"] for block in drawn if block["state"] == "trained"}
    lines += [f"{sign} {name}" for name, sign in _SIGNS.items() if sign in signs]
    states = {block["badge"]: block["state"] for block in drawn if block["state"] != "trained"}
    if states:
        signs_said = ", ".join(f"{sign}:\u00a0{state}" for sign, state in states.items())
        lines.append(f"striped: changed ({signs_said})")
    return [*lines, "height: number of parameters, on a logarithmic scale"]


def cells(
    ds: xr.Dataset, table: pd.DataFrame, metric: str, layers: Sequence[str]
) -> tuple[list[str], list[str], list[list[dict[str, str]]]]:
    """Draw the heat map: rows, columns, and cells; empty where nothing is known."""
    scale = scale_of(table["value"], results.metric(ds, metric))
    columns = stats.column_order(table)
    rows = [*layers, *([FULL_MODEL] if FULL_MODEL in set(table["layer"]) else [])]
    known: dict[tuple[str, str], dict[str, str]] = {}
    distance, measures = _distances(ds), measured_rows(ds)
    sizes = (
        dict(zip(ds["layer"].values, ds["parameters"].values, strict=True))
        if ("parameters" in ds.coords)
        else {}
    )
    for cell in table.to_dict("records"):
        value = float(cell["value"])
        colour = scale.colour(value)
        at = str(cell["layer"]), str(cell["column"])
        broken = bool(cell["not_finite"] > 0)
        lines = [f"{at[0]}, {at[1]}: {metric} {_format(value, broken)}"]
        if not math.isnan(cell["lower"]):
            lines.append(f"95 %: {cell['lower']:.4g} to {cell['upper']:.4g}")
        if at in distance:
            lines.append(f"distance from the start: {distance[at]:.4g}")
        if at[0] in sizes:
            lines.append(f"{int(sizes[at[0]]):,} parameters")
        lines += measures.get(at[0], ())
        known[at] = {
            "colour": colour, "ink": ink(colour), "text": scale.text(value),
            "tip": "\n".join(lines), "crossed": "crossed" if broken else "",
        }  # fmt: skip
    done = dict(zip(table["column"], table["perturbation"], strict=True))
    for (row, name), why in results.refusals(ds).items():
        for column in (each for each in columns if done[each] == name):
            tip = f"{row}, {column}: can't be computed: {why}"
            known.setdefault((row, column), {"refused": "refused", "tip": tip})
    return rows, columns, [[known.get((row, column), {}) for column in columns] for row in rows]


def _distances(ds: xr.Dataset) -> dict[tuple[str, str], float]:
    try:
        table = stats.distances(ds)
    except LayerscopeError:
        return {}  # a Dataset made by hand may have none
    pairs = zip(table["layer"], table["column"], strict=True)
    return dict(zip(pairs, table["value"].astype(float), strict=True))


def verdicts(ds: xr.Dataset | None, metric: str) -> dict[str, str]:
    """Which layers are robust and which critical, as far as the Dataset tells."""
    if ds is None:
        return {}
    try:
        epochs = [int(epoch) for epoch in ds["epoch"].values if epoch != NO_EPOCH]
        table = stats.classify(ds, metric, epoch=min(epochs, default=NO_EPOCH))
    except (LayerscopeError, ValueError):
        return {}
    return dict(zip(table["layer"], table["verdict"], strict=True))


def presets(layers: Sequence[Layer]) -> list[str]:
    """Name the states that can be set at once."""
    stages = dict.fromkeys(layer.stage for layer in layers if layer.stage)
    return [
        _TRAINED,
        _ROBUST,
        _UNCRITICAL,
        _ALL,
        *(f"reset {stage}" for stage in stages),
    ]


def preset_rows(preset: str, layers: Sequence[Layer], found: Mapping[str, str]) -> list[str]:
    """Name the rows that a preset resets.

    Parameters
    ----------
    preset : str
        One of `presets`.
    layers : sequence of Layer
    found : mapping of str to str
        Verdicts by layer.

    Raises
    ------
    OptionError
        If it needs verdicts and there are none.
    """
    names = [layer.name for layer in layers]
    if preset in (_ROBUST, _UNCRITICAL) and not found:
        raise OptionError(
            "which layers are robust and which critical is not known yet; start a sweep first."
        )
    known = {
        _TRAINED: [],
        _ROBUST: [name for name in names if found.get(name) == "robust"],
        _UNCRITICAL: [name for name in names if found.get(name) != "critical"],
        _ALL: names,
    }
    stage = preset.removeprefix("reset ")
    return known.get(preset, [layer.name for layer in layers if layer.stage == stage])
