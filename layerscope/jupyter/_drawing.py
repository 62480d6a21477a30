"""Content of the strip, from a Dataset and the present scene."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.core.layers import Layer
from layerscope.core.session import Change
from layerscope.errors import LayerscopeError, OptionError
from layerscope.jupyter._colouring import Colouring, act_of, colouring, first_column
from layerscope.plots import ink, shorten_layers
from layerscope.results import NO_EPOCH

__all__ = [
    "blocks",
    "change_of",
    "column_of",
    "format_value",
    "legend",
    "measured_rows",
    "preset_rows",
    "presets",
    "refused_rows",
    "short_names",
    "verdicts",
    "words_of",
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
    by: str = "damage",
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
    by : {"damage", "value"}
        What the colours stand for.
    """
    refused, measures = refused or {}, measures or {}
    critical = _criticality(table, metric, by)
    largest = max((math.log1p(layer.size) for layer in layers), default=1.0) or 1.0
    short, groups = short_names(layers)
    drawn = []
    for layer in layers:
        colour, told, broken = critical.get(layer.name, (_UNKNOWN, "", False))
        change = state.get(layer.name)
        verdict = results.NOT_FINITE if broken else found.get(layer.name, "")
        if not told and layer.name in refused:
            verdict = results.REFUSED
        why = f": {refused[layer.name]}" if verdict == results.REFUSED and refused else ""
        lines = [
            layer.name,
            f"{layer.module_type}, {layer.size:,} parameters",
            *([told] if told else []),
            *([f"{verdict}{why}"] if verdict else []),
            *measures.get(layer.name, ()),
            f"now: {change.words if change else 'trained'}",
        ]
        drawn.append(
            {
                "name": layer.name,
                "short": short[layer.name],
                "stage": layer.stage,
                "block": layer.block,
                "group": groups.get(layer.block, ""),
                "colour": colour,
                "ink": ink(colour),
                "share": math.log1p(layer.size) / largest,
                "state": change.words if change else "trained",
                "badge": _badge(change, verdict),
                "verdict": verdict,
                "tip": "\n".join(lines),
            }
        )
    return drawn


def short_names(layers: Sequence[Layer]) -> tuple[dict[str, str], dict[str, str]]:
    """Write layers without what their block begins with, and blocks without what most do.

    Returns
    -------
    short, groups : dict
        By name of the layer, and by name of the block; blocks of one layer have none.
    """
    counts = Counter(layer.block for layer in layers if layer.block)
    several = [block for block, count in counts.items() if count > 1]
    alone = _alone([layer.name for layer in layers if layer.block not in several])
    short = {
        layer.name: alone.get(layer.name) or layer.name.removeprefix(f"{layer.block}.")
        for layer in layers
    }
    return short, shorten_layers(several, 2 * _LONGEST)


def _alone(names: Sequence[str]) -> dict[str, str]:
    """Write layers that are in no block, where they would be cut by what they end with, if one can.

    Of "model.embed_tokens" beside "model.layers.0" little would be left between two "…".
    """
    ends = {name: name.rpartition(".")[2] for name in names}
    count = Counter(ends.values())
    own = {
        name: end
        for name, end in ends.items()
        if count[end] == 1 and len(end) <= _LONGEST and not end.isdigit()
    }
    cut = shorten_layers(names, _LONGEST)
    return {name: own.get(name, said) if "…" in said else said for name, said in cut.items()}


def refused_rows(ds: xr.Dataset | None, table: pd.DataFrame | None) -> dict[str, str]:
    """Say why rows can't be computed in the column that colours the strip."""
    if ds is None or table is None or table.empty:
        return {}
    done = str(table.loc[table["column"] == first_column(table), "perturbation"].iloc[0])
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


def _criticality(
    table: pd.DataFrame | None, metric: results.MetricInfo, by: str
) -> dict[str, tuple[str, str, bool]]:
    """Each layer when it is put back to the first checkpoint, else to random values.

    Its colour, what is to be said of it, and whether the outputs, or the value, were not finite.
    """
    if table is None or table.empty:
        return {}
    column, colours = first_column(table), colouring(table, metric, by)
    chosen = table[table["column"] == column].assign(coloured=colours.values)
    return {
        row["layer"]: (
            colours.scale.colour(row["coloured"]),
            f"{act_of(column)}: {words_of(row, metric.name, colours)}",
            row["not_finite"] > 0,
        )
        for row in chosen.to_dict("records")
    }


def words_of(row: Mapping[Any, Any], metric: str, colours: Colouring) -> str:
    """Write what was measured of a cell: its value, and its damage where that is known."""
    value = f"{metric} {format_value(float(row['value']), row['not_finite'] > 0)}"
    if colours.relative is None or math.isnan(row["coloured"]):
        return value
    name = "damage" if colours.relative == "damage" else "against trained"
    return f"{value}, {name} {row['coloured']:.3g}"


def format_value(value: float, broken: bool) -> str:
    """Write a value that was computed, and whether outputs or value were not finite."""
    number = "NaN" if math.isnan(value) else f"{value:.4g}"
    return f"{number}, not finite" if broken else number


def legend(
    drawn: Sequence[Mapping[str, Any]],
    table: pd.DataFrame | None,
    metric: results.MetricInfo,
    by: str = "damage",
) -> list[dict[str, Any]]:
    """Say what colours, signs and heights of the blocks mean that there are.

    Parameters
    ----------
    drawn : sequence of mapping
        As `blocks` gives.
    table : DataFrame or None
        What they were coloured by.
    metric : MetricInfo
    by : {"damage", "value"}

    Returns
    -------
    list of dict
        ``kind``, which says how it is drawn; ``text``, the same words on the page and in a figure;
        of colours those from one end to the other, and what the ends are.
    """
    entries: list[dict[str, Any]] = []
    if table is not None and not table.empty:
        entries.append(colouring(table, metric, by).entry(act_of(first_column(table))))
    signs = {block["badge"] for block in drawn if block["state"] == "trained"}
    entries += [
        {"kind": "sign", "text": f"{sign} {name}"} for name, sign in _SIGNS.items() if sign in signs
    ]
    states = {block["badge"]: block["state"] for block in drawn if block["state"] != "trained"}
    if states:
        said = ", ".join(f"{sign}:\u00a0{state}" for sign, state in states.items())
        entries.append({"kind": "changed", "text": f"striped: changed ({said})"})
    height = "height: number of parameters, on a logarithmic scale"
    return [*entries, {"kind": "height", "text": height}]


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
