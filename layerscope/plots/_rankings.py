"""Ranks of layers by several tasks: a line for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models import FixedTicker, LinearAxis, NoOverlap

from layerscope import results
from layerscope.plots._backends import (
    FONT_SIZES,
    both,
    drop_sizing_mode,
    escape_braces,
    escape_dollars,
)
from layerscope.plots._colours import LINES
from layerscope.plots._hover import tooltips
from layerscope.plots._layout import arrange
from layerscope.plots._names import shorten_layers, within, wrap

__all__ = ["rankings"]

_MOST_LINES = 40
_LONGEST = 24
_QUIET = "#c2c2c2"
_INK = "#333333"


def rankings(found: xr.Dataset, title: str | None = None) -> hv.Overlay:
    """Draw the order that several tasks bring the layers into: a line for each, the worst on top.

    Where two lines cross, two tasks side by side order two layers differently. A dot says that
    this is more than chance, since it came out so in the share of repeats that the confidence
    names; between two tasks where a line has no such crossing it is grey. Above stands how alike
    the two rankings are, with its interval.

    Parameters
    ----------
    found : Dataset
        As `layerscope.stats.ranking_difference` returns it. Of more than 40 layers those are drawn
        that a task ranks among its first.
    title : str, optional

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    ResultError
        If the Dataset holds no ranks.

    Examples
    --------
    >>> from layerscope import stats, testing
    >>> each = [({"task": name}, testing.dataset()) for name in ("news", "code")]
    >>> plot = rankings(stats.ranking_difference(results.join(each), repeats=50))
    >>> len(plot.Curve)
    4
    """
    found = _drawn(found)
    tasks = [str(task) for task in found["task"].values]
    crossings = _crossings(found)
    sides = _sides(found)
    parts = [*_lines(found, crossings), *_dots(found, crossings), *_correlations(found)]
    count = found.sizes["layer"]
    label = _axis_label(found, crossings)
    heading = "Layers by damage, the worst on top" if title is None else title
    wide, high = int(np.clip(110 * (len(tasks) - 1), 200, 560)), max(120, 20 * count + 40)
    shared: dict[str, Any] = {
        "title": escape_braces(heading),
        "xlabel": label,
        "ylabel": within(_names(found)),
        "xticks": list(enumerate(map(escape_dollars, tasks))),
        "xlim": (-0.06, len(tasks) - 0.94),
        "ylim": (0.3, count + 2.1),
        "yticks": sides.left,
        "xrotation": 90 if max(map(len, tasks)) > 8 and len(tasks) > 3 else 0,
        "show_legend": False,
    }
    inches = float(np.clip(0.75 * (len(tasks) - 1), 1.5, 3.6)), 0.145 * (count + 1.8)
    return both(
        hv.Overlay(parts),
        shared,
        bokeh={
            "frame_width": wide,
            "frame_height": high,
            "xlabel": wrap(label, wide + 120),
            "toolbar": "above",
            "default_tools": ["save"],
            "hooks": [partial(_finish_bokeh, sides=sides)],
        },
        matplotlib={
            "aspect": "auto",
            "fig_inches": inches,
            "fig_bounds": (0, 0, 1, 1),
            "show_frame": False,
            "fontsize": FONT_SIZES | {"yticks": 7},
            "hooks": [partial(_finish_matplotlib, sides=sides)],
        },
    )


def _drawn(found: xr.Dataset) -> xr.Dataset:
    """Keep the layers that are drawn; ``place`` (task, layer) is where, the worst highest."""
    ranks = results.require(found, "task", "layer", variable="rank")
    results.require(found, "task", "other_task", "layer", "other_layer", variable="reversal")
    first = np.sort(np.argsort(ranks.min("task").values, kind="stable")[:_MOST_LINES])
    found = found.isel(layer=first, other_layer=first)
    # Of layers with one rank each has a place of its own.
    order = np.argsort(np.argsort(found["rank"].values, axis=1, kind="stable"), axis=1)
    return found.assign(place=(("task", "layer"), found.sizes["layer"] - order))


def _names(found: xr.Dataset) -> list[str]:
    return [str(layer) for layer in found["layer"].values]


class _Sides(NamedTuple):
    """Names of the layers, left and right, at their places."""

    left: list[tuple[float, str]]
    right: list[tuple[float, str]]


def _sides(found: xr.Dataset) -> _Sides:
    short = shorten_layers(_names(found), _LONGEST)
    each = [
        sorted(
            (float(place), escape_dollars(short[name]))
            for place, name in zip(found["place"].values[at], _names(found), strict=True)
        )
        for at in (0, -1)
    ]
    return _Sides(*each)


def _crossings(found: xr.Dataset) -> pd.DataFrame:
    """Find the crossings between tasks side by side that are more than chance, and where."""
    names, place = _names(found), found["place"].values.astype(float)
    rows = []
    for at in range(found.sizes["task"] - 1):
        sure = found["reversal"].values[at, at + 1] >= found.attrs["confidence"]
        for one, two in np.argwhere(np.triu(sure, 1)):
            before, after = (place[side, one] - place[side, two] for side in (at, at + 1))
            if before * after >= 0:
                continue
            share = before / (before - after)
            high = place[at, one] + share * (place[at + 1, one] - place[at, one])
            often = f"{100 * found['reversal'].values[at, at + 1, one, two]:.1f} % of repeats"
            rows.append((at, one, two, at + share, high, f"{names[one]} and {names[two]}", often))
    columns = ["at", "one", "two", "x", "y", "hover change places", "hover in"]
    return pd.DataFrame(rows, columns=columns)


def _lines(found: xr.Dataset, crossings: pd.DataFrame) -> list[Any]:
    """A line for each layer, and in colour where it certainly changes places with another."""
    place, names = found["place"].values.astype(float), _names(found)
    colours = _colours(crossings)
    grey = [
        both(
            hv.Curve(list(enumerate(place[:, at])), "task", "place", label=name),
            {"color": _QUIET},
            {"line_width": 0.9},
            {"linewidth": 0.9},
        )
        for at, name in enumerate(names)
    ]
    steps = _steps(crossings)
    rows = [(at, place[at, one], at + 1, place[at + 1, one], colours[one]) for at, one in steps]
    if not rows:
        return grey
    ends = ["x", "y", "next x", "next y"]
    sure = hv.Segments(pd.DataFrame(rows, columns=[*ends, "ink"]), ends, "ink")
    return [*grey, both(sure, {"color": "ink"}, {"line_width": 1.8}, {"linewidth": 1.6})]


def _steps(crossings: pd.DataFrame) -> list[tuple[int, int]]:
    """List the tasks after which, and the layers that, certainly change places."""
    at, one, two = (crossings[name].astype(int).tolist() for name in ("at", "one", "two"))
    each = zip(at, one, two, strict=True)
    return sorted({(side, layer) for side, *layers in each for layer in layers})


def _colours(crossings: pd.DataFrame) -> dict[int, str]:
    """Colour the layers that certainly change places with another."""
    moved = sorted({*crossings["one"], *crossings["two"]})
    return {int(at): LINES[turn % len(LINES)] for turn, at in enumerate(moved)}


def _dots(found: xr.Dataset, crossings: pd.DataFrame) -> list[Any]:
    """Dots on every rank, to hover over, and on every crossing that is more than chance."""
    colours = _colours(crossings)
    ends = {(at + side, layer) for at, layer in _steps(crossings) for side in (0, 1)}
    tasks = [str(task) for task in found["task"].values]
    rows = [
        (
            float(side),
            float(found["place"].values[side, at]),
            colours.get(at, _QUIET) if (side, at) in ends else _QUIET,
            name,
            task,
            f"{found['rank'].values[side, at]:g}",
            f"{found['damage'].values[side, at]:+.4g}",
        )
        for side, task in enumerate(tasks)
        for at, name in enumerate(_names(found))
    ]
    told = ["hover layer", "hover task", "hover rank", "hover change for the worse"]
    ranks = hv.Points(
        pd.DataFrame(rows, columns=["x", "y", "ink", *told]), ["x", "y"], ["ink", *told]
    )
    drawn = [
        both(
            ranks,
            {"color": "ink"},
            {"size": 6, "tools": ["hover"], "hover_tooltips": tooltips(told)},
            {"s": 12},
        )
    ]
    if len(crossings):
        told = ["hover change places", "hover in"]
        drawn.append(
            both(
                hv.Points(crossings, ["x", "y"], told),
                {"color": "black"},
                {"size": 6, "tools": ["hover"], "hover_tooltips": tooltips(told)},
                {"s": 12},
            )
        )
    return drawn


def _correlations(found: xr.Dataset) -> list[Any]:
    """Write above each two tasks side by side how alike they rank the layers."""
    sign = {"spearman": "ρ", "kendall": "τ"}[found.attrs["method"]]
    high = found.sizes["layer"] + 1.35
    texts = []
    for at in range(found.sizes["task"] - 1):
        value, low, up = (
            _number(float(found[name].values[at, at + 1]))
            for name in ("correlation", "lower", "upper")
        )
        text = hv.Text(at + 0.5, high, f"{sign} {value}\n{low} to {up}", fontsize=6)
        texts.append(both(text, {"color": _INK}, {"text_align": "center"}, {}))
    return texts


def _number(value: float) -> str:
    """Write a correlation as short as can be: .52.

    >>> _number(0.517), _number(-0.25), _number(1.0)
    ('.52', '−.25', '1')
    """
    if np.isnan(value):
        return "–"
    text = (
        f"{value:.2f}".rstrip("0").rstrip(".") if abs(round(value, 2)) in (0, 1) else f"{value:.2f}"
    )
    return text.replace("-", "−").replace("0.", ".", 1)


def _axis_label(found: xr.Dataset, crossings: pd.DataFrame) -> str:
    share = f"{100 * found.attrs['confidence']:g} %"
    method = str(found.attrs["method"]).capitalize()
    sign = "ρ" if found.attrs["method"] == "spearman" else "τ"
    lines = [f"{sign}: {method}, {share} interval over examples"]
    if len(crossings):
        lines.append(f"●: change places in ≥ {share} of repeats")
    else:
        lines.append(f"no two change places in ≥ {share} of repeats")
    return "\n".join(lines)


def _finish_bokeh(plot: Any, element: hv.Overlay, sides: _Sides) -> None:  # noqa: ARG001
    drop_sizing_mode(plot)
    figure = plot.state
    figure.outline_line_color = None
    figure.grid.visible = False
    if not any(isinstance(each, LinearAxis) for each in figure.right):
        places: Any = dict(sides.right)
        ticker: Any = FixedTicker(ticks=list(places))
        axis = LinearAxis(ticker=ticker, major_label_overrides=places)
        figure.add_layout(axis, "right")
    for axis in (*figure.xaxis, *figure.yaxis):
        axis.update(major_tick_line_color=None, minor_tick_line_color=None, axis_line_color=None)
        axis.major_label_policy = NoOverlap(min_distance=0)


def _finish_matplotlib(plot: Any, element: hv.Overlay, sides: _Sides) -> None:  # noqa: ARG001
    axes = plot.handles["axis"]
    second = axes.secondary_yaxis("right")
    second.set_yticks(*_unzipped(sides.right))
    axes.set_yticks(*_unzipped(sides.left))
    for each in (axes, second):
        each.spines[:].set_visible(False)
        each.tick_params(length=0, labelsize=7)
    high = axes.figure.get_figheight()
    arrange(axes, lambda _: high, lambda *_: None)


def _unzipped(ticks: Sequence[tuple[float, str]]) -> tuple[list[float], list[str]]:
    return [place for place, _ in ticks], [name for _, name in ticks]
