"""Content of the heat map, from a Dataset."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import LayerscopeError
from layerscope.jupyter import _damage as damage
from layerscope.jupyter._colouring import axis_of, colouring, title_of
from layerscope.jupyter._drawing import measured_rows, words_of
from layerscope.plots import ink, shorten_layers
from layerscope.results import FULL_MODEL

__all__ = ["cells", "heat"]

_LONGEST = 32
_STATES = {
    "open": "hatched: not computed",
    "refused": "grey with dots: can't be computed",
    "crossed": "crossed: outputs or value not finite",
    "marked": "framed: these changes, each of them alone",
}
"""How a cell looks that has no value, or more than one: the words of the figures."""


def heat(
    ds: xr.Dataset | None,
    table: pd.DataFrame | None,
    metric: str,
    layers: Sequence[str],
    by: str = "damage",
    damaged: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """Give the heat map as the traits of a `Grid`; nothing in it without a Dataset.

    Parameters
    ----------
    ds : Dataset or None
    table : DataFrame or None
        As `stats.summary` gives.
    metric : str
    layers : sequence of str
    by : {"damage", "value"}
        What the colours and the numbers in the cells stand for.
    damaged : mapping of int to str, optional
        Checkpoints that can't be read, and why.
    """
    if ds is None or table is None:
        return {"rows": [], "heads": [], "columns": [], "cells": [], "legend": [],
                "title": "", "axis": "", "notes": {}}  # fmt: skip
    damaged = damaged or {}
    rows, columns, known = cells(ds, table, metric, layers, by, damaged)
    torn = damage.columns_of(ds, damaged)
    colours = colouring(table, results.metric(ds, metric), by)
    short = shorten_layers([row for row in rows if row != FULL_MODEL], _LONGEST)
    return {
        "rows": rows,
        "heads": [short.get(row, "whole network") for row in rows],
        "columns": columns,
        "cells": known,
        "legend": _legend(known),
        "title": title_of(ds, metric, colours.label),
        "axis": axis_of(columns),
        "notes": {column: f"can't be read: {damaged[at]}" for column, (at, _) in torn.items()},
    }


def _legend(known: Sequence[Sequence[dict[str, str]]]) -> list[dict[str, str]]:
    """Say how cells look that there are, and how those of the present state do."""
    every = [cell for row in known for cell in row]
    there = {
        "open": any("text" not in cell and "refused" not in cell for cell in every),
        "refused": any("refused" in cell for cell in every),
        "crossed": any(cell.get("crossed") for cell in every),
        "marked": True,
    }
    return [{"kind": kind, "text": text} for kind, text in _STATES.items() if there[kind]]


def cells(
    ds: xr.Dataset,
    table: pd.DataFrame,
    metric: str,
    layers: Sequence[str],
    by: str = "damage",
    damaged: Mapping[int, str] | None = None,
) -> tuple[list[str], list[str], list[list[dict[str, str]]]]:
    """Draw the heat map: rows, columns, and cells; empty where nothing is known."""
    colours = colouring(table, results.metric(ds, metric), by)
    columns = damage.extended(table, ds, damaged or {})
    rows = [*layers, *([FULL_MODEL] if FULL_MODEL in set(table["layer"]) else [])]
    known: dict[tuple[str, str], dict[str, str]] = {}
    distance, measures = _distances(ds), measured_rows(ds)
    sizes = (
        dict(zip(ds["layer"].values, ds["parameters"].values, strict=True))
        if ("parameters" in ds.coords)
        else {}
    )
    for cell in table.assign(coloured=colours.values).to_dict("records"):
        value = float(cell["coloured"])
        colour = colours.scale.colour(value)
        at = str(cell["layer"]), str(cell["column"])
        broken = bool(cell["not_finite"] > 0)
        lines = [f"{at[0]}, {at[1]}: {words_of(cell, metric, colours)}"]
        if not math.isnan(cell["lower"]):
            lines.append(f"95 %: {cell['lower']:.4g} to {cell['upper']:.4g}")
        if at in distance:
            lines.append(f"distance from the start: {distance[at]:.4g}")
        if at[0] in sizes:
            lines.append(f"{int(sizes[at[0]]):,} parameters")
        lines += measures.get(at[0], ())
        known[at] = {
            "colour": colour, "ink": ink(colour), "text": colours.scale.text(value),
            "tip": "\n".join(lines), "crossed": "crossed" if broken else "",
        }  # fmt: skip
    done = dict(zip(table["column"], table["perturbation"], strict=True))
    for (row, name), why in results.refusals(ds).items():
        for column in (each for each in columns if done.get(each) == name):
            tip = f"{row}, {column}: can't be computed: {why}"
            known.setdefault((row, column), {"refused": "refused", "tip": tip})
    damage.mark(known, rows, ds, damaged or {})
    return rows, columns, [[known.get((row, column), {}) for column in columns] for row in rows]


def _distances(ds: xr.Dataset) -> dict[tuple[str, str], float]:
    try:
        table = stats.distances(ds)
    except LayerscopeError:
        return {}  # a Dataset made by hand may have none
    pairs = zip(table["layer"], table["column"], strict=True)
    return dict(zip(pairs, table["value"].astype(float), strict=True))
