"""Several runs side by side, aligned by relative depth."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.errors import OptionError, ResultError
from layerscope.plots._backends import (
    FONT_SIZES,
    both,
    drop_sizing_mode,
    escape_braces,
    escape_dollars,
    put_legend_below,
)
from layerscope.plots._colours import LINES, ColourMap
from layerscope.plots._hover import tooltips, values_with_hover
from layerscope.plots._layout import Room, arrange
from layerscope.plots._lines import DASHES
from layerscope.plots._names import shorten, within, wrap
from layerscope.plots._panels import Size, panel, row_names
from layerscope.plots._relative import Limits, shown_together
from layerscope.plots._scales import Scale, label_of

__all__ = ["compare"]

# Signs of a run's name in the legend, and above a narrow panel on the screen.
_LONGEST, _SHORTEST = 24, 14
_WIDE = 300  # pixels of the curves
_KEY, _BEFORE_CURVES = 26, 24  # points of a line in the legend, and of what stands left of axes


def compare(
    runs: Mapping[str, xr.Dataset],
    metric: str | None = None,
    column: int | str | None = None,
    title: str | None = None,
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    relative: str | None = None,
) -> hv.Layout:
    """Draw two or more runs side by side: architectures, seeds, recipes.

    Depth goes downwards in all panels: each layer has an equal share of the height, from the first
    at the top to the last at the bottom, so that networks of different depth can be compared. The
    first panel holds one curve per run, over the layers; the others are heat maps as in `heatmap`,
    settled cells marked, without the whole network, with one scale of colours. All share the axis
    of depth: with Bokeh, to zoom or move in one is to do so in all.

    Parameters
    ----------
    runs : mapping of str to Dataset
        From the name of a run to its result; two at least.
    metric : str, optional
        Which every run has; by default the error, or the first that all have.
    column : int or str, optional
        What the curves show: an epoch, "rand" or another column of `heatmap` that every run has;
        the first checkpoint that all have, if not given.
    title : str, optional
        Of the first panel.
    cmap : str, sequence of str or Colormap, optional
        As for `heatmap`.
    limits, relative
        As for `heatmap`, of curves and of maps.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    OptionError
        If fewer than two runs came, one has no such metric, not all have the column, or there is
        no such map of colours.
    ResultError
        If a Dataset lacks a dimension or variable, or nothing in it was computed.

    Examples
    --------
    >>> from layerscope import testing
    >>> plot = compare({"shallow": testing.dataset(3), "deep": testing.dataset(12)})
    >>> len(plot)
    3
    """
    # A Dataset is a mapping as well.
    if isinstance(runs, xr.Dataset) or not isinstance(runs, Mapping) or len(runs) < 2:
        came = f"{len(runs)}" if isinstance(runs, dict) else f"a {type(runs).__name__}"
        raise OptionError(
            f"compare takes a mapping from names to at least two Datasets; got {came}. "
            "One alone: heatmap(ds)."
        )
    metric = results.metric_name(runs.values(), metric)
    runs_by_name = {str(name): ds for name, ds in runs.items()}
    tables = {name: _place(ds, metric) for name, ds in runs_by_name.items()}
    chosen = _column(tables, column)
    info = results.metric(next(iter(runs.values())), metric)
    layers = {name: list(table["layer"].unique()) for name, table in tables.items()}
    tables, scale, label = shown_together(tables, info, layers, cmap, limits, relative)
    most = max(map(len, layers.values()))
    size = Size(float(np.clip(0.22 * most, 1.8, 7.0)), int(np.clip(26 * most, 280, 900)))
    said = _describe_column(runs, tables, chosen)
    heading = f"Test {metric}, one layer {said}" if title is None else title
    short = shorten(list(tables), _SHORTEST)
    line = _Across(label, scale, None if relative or limits else info)
    parts = [_profile(runs_by_name, tables, chosen, info, line, heading, size)]
    last = list(tables)[-1]
    parts += [
        panel(
            name,
            short[name],
            table,
            scale,
            size,
            label if name == last else "",
            _refused(runs_by_name[name], table),
        )
        for name, table in tables.items()
    ]
    layout = hv.Layout(parts).cols(len(parts)).opts(backend="bokeh", shared_axes=True)
    # Inches for the rows' names, which stand between the panels.
    longest = max(len(name) for table in tables.values() for name in row_names(table).values())
    labelled = any(within(list(table["layer"].unique())) for table in tables.values())
    gap = 0.4 + 0.058 * longest + 0.15 * labelled
    return layout.opts(
        backend="matplotlib",
        shared_axes=False,
        fig_inches=(2.6 * len(parts) + gap * (len(parts) - 1), size.inches),
        fig_bounds=(0, 0, 1, 1),
        sublabel_format="",
        hspace=gap / 2.6,
    )


def _place(ds: xr.Dataset, metric: str) -> pd.DataFrame:
    """One row per cell of single layers, with the share of the height that it has.

    ``top`` and ``bottom`` are 1 at the input and 0 at the output, since axes go upwards.
    """
    table = values_with_hover(ds, metric)
    layers = stats.layer_order(ds, network=False)
    table = table[table["layer"].isin(layers)]
    if table.empty:
        raise ResultError(
            "no single layer was computed in one of the runs; there is nothing to compare."
        )
    place = table["layer"].map(layers.index)
    columns = stats.column_order(table)
    at = table["column"].map(columns.index)
    count = len(layers)
    return table.assign(
        top=1 - place / count,
        bottom=1 - (place + 1) / count,
        depth=1 - (place + 0.5) / count,
        left=at.astype(float),
        right=at + 1.0,
        **{"hover layer": table["layer"], "hover reset to": table["column"]},
    )


def _refused(ds: xr.Dataset, table: pd.DataFrame) -> pd.DataFrame:
    """One row per cell of single layers that can't be computed: why, and its place."""
    layers, why = stats.layer_order(ds, network=False), results.refusals(ds)
    columns = table.drop_duplicates("column")[["column", "perturbation", "left", "right"]]
    known = set(zip(table["layer"], table["column"], strict=True))
    cells = pd.DataFrame({"layer": layers, "place": range(len(layers))}).merge(columns, how="cross")
    at = list(zip(cells["layer"], cells["column"], cells["perturbation"], strict=True))
    missing = [(layer, done) in why and (layer, name) not in known for layer, name, done in at]
    return cells.assign(
        top=1 - cells["place"] / len(layers),
        bottom=1 - (cells["place"] + 1) / len(layers),
        why=[why.get((layer, done), "") for layer, _, done in at],
    )[np.array(missing, bool)]


def _column(tables: Mapping[str, pd.DataFrame], wanted: int | str | None) -> str:
    """Choose the column that the curves show."""
    there = [stats.column_order(table) for table in tables.values()]
    shared = [name for name in there[0] if all(name in columns for columns in there)]
    if wanted is None:
        numbered = [name for name in shared if name.isdigit()]
        if numbered or shared:
            return (numbered or shared)[0]
        raise OptionError("these runs have no column in common; sweep them over the same epochs.")
    if str(wanted) not in shared:
        raise OptionError(
            f"not all of these runs have the column {str(wanted)!r}. "
            f"They share: {', '.join(shared) or 'none'}."
        )
    return str(wanted)


def _describe_column(
    runs: Mapping[str, xr.Dataset], tables: Mapping[str, pd.DataFrame], column: str
) -> str:
    name, table = next(iter(tables.items()))
    cell = table[table["column"] == column].iloc[0]
    done = results.perturbation(runs[name], cell["perturbation"])
    return f"reset to {column}" if done.resets else done.words_at(int(cell["epoch"]))


class _Across(NamedTuple):
    """Axis of the curves: its name, its range, and the metric whose range it has as it comes."""

    label: str
    scale: Scale
    metric: results.MetricInfo | None


def _profile(
    runs: Mapping[str, xr.Dataset],
    tables: Mapping[str, pd.DataFrame],
    column: str,
    metric: results.MetricInfo,
    across: _Across,
    title: str,
    size: Size,
) -> hv.Overlay:
    """One curve per run: the metric across, relative depth downwards."""
    scale = across.scale
    parts: list[Any] = []
    broken, short = False, shorten(list(tables), _LONGEST)
    for index, ((name, table), ds) in enumerate(zip(tables.items(), runs.values(), strict=True)):
        cells = table[table["column"] == column].sort_values("depth", ascending=False)
        colour, dash = LINES[index % len(LINES)], DASHES[index % len(DASHES)]
        parts += _curve(cells, short[name], colour, dash, scale.beyond)
        broken |= not np.isfinite(cells["value"]).all()
        if across.label == label_of(metric):
            parts += _baseline(ds, metric.name, colour)
    shared: dict[str, Any] = {
        "title": escape_braces(title),
        "xlabel": _axis_label(across.label, across.label == label_of(metric), broken),
        "ylabel": "relative depth",
        "ylim": (0, 1),
        "yticks": [(1 - share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)],
        "logx": scale.log,
    }
    if across.metric is not None and across.metric.fraction_of:
        shared["xlim"] = (-0.02, 1.02)
    elif across.metric is None:
        margin = 0.03 * (scale.high - scale.low)
        shared["xlim"] = (scale.low - margin * (not scale.log), scale.high + margin)
    return both(
        hv.Overlay(parts),
        # Beyond 25 parts HoloViews leaves the legend out, as of seven runs.
        shared | {"legend_position": "bottom_right", "legend_limit": 1000},
        bokeh={
            "xlabel": wrap(shared["xlabel"], _WIDE),
            "frame_width": _WIDE,
            "frame_height": size.pixels,
            "default_tools": ["save", "ywheel_zoom", "ypan", "reset"],
            "click_policy": "mute",
            "hooks": [_finish_bokeh_profile],
        },
        matplotlib={
            "aspect": "auto",
            "show_frame": False,
            "fontsize": FONT_SIZES,
            "hooks": [partial(_finish_matplotlib_profile, inches=size.inches)],
        },
    )


def _axis_label(label: str, trained: bool, broken: bool) -> str:
    told = ["thin line: unperturbed"] * trained + ["✕: not finite"] * broken
    return f"{label} ({'; '.join(told)})" if told else label


def _curve(
    cells: pd.DataFrame, name: str, colour: str, dash: tuple[str, str], beyond: float
) -> list[Any]:
    """One run: its line, which breaks where a value is not finite, and a cross there."""
    texts = [text for text in map(str, cells) if text.startswith("hover ")]
    finite = np.isfinite(cells["value"])
    cells = cells.assign(value=cells["value"].where(finite), beyond=beyond)
    known = cells.dropna(subset=["lower", "upper", "value"])
    bars = (
        both(
            hv.Segments(known, ["lower", "depth", "upper", "depth"], []),
            {"color": colour},
            bokeh={"line_width": 1, "show_legend": False},
            matplotlib={"linewidth": 0.8, "show_legend": False},
        )
        if len(known)
        else None
    )
    line = both(
        hv.Curve(cells, "value", "depth", label=name),
        {"color": colour},
        bokeh={"line_dash": dash[0], "line_width": 1.5, "muted_alpha": 0.1},
        matplotlib={"linestyle": dash[1], "linewidth": 1.3, "marker": "o", "ms": 3},
    )
    dots = both(
        hv.Points(cells, ["value", "depth"], texts),
        {"color": colour, "show_legend": False},
        bokeh={"size": 6, "tools": ["hover"], "hover_tooltips": tooltips(texts)},
        matplotlib={"visible": False},
    )
    hover = {"tools": ["hover"], "hover_tooltips": tooltips(texts)}
    crosses = (
        both(
            hv.Points(cells[~finite], ["beyond", "depth"], texts),
            {"color": colour, "show_legend": False},
            bokeh=hover | {"marker": "x", "size": 10, "line_width": 2},
            matplotlib={"marker": "X", "s": 40},
        )
        if not finite.all()
        else None
    )
    return [each for each in (bars, line, dots, crosses) if each is not None]


def _baseline(ds: xr.Dataset, metric: str, colour: str) -> list[Any]:
    if "baseline" not in ds:
        return []
    level = float(results.require(ds, "metric", variable="baseline").sel(metric=metric).mean())
    line = hv.Curve([(level, 0.0), (level, 1.0)], "value", "depth")
    return [
        both(
            line,
            {"color": colour, "alpha": 0.7},
            bokeh={"line_width": 0.7},
            matplotlib={"linewidth": 0.6},
        )
    ]


def _finish_bokeh_profile(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    drop_sizing_mode(plot)
    plot.state.outline_line_color = None
    for legend in plot.state.legend:
        legend.update(border_line_color=None, background_fill_alpha=0.7)


def _finish_matplotlib_profile(plot: Any, element: hv.Overlay, inches: float) -> None:  # noqa: ARG001
    axes = plot.handles["axis"]
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend()
    for text in legend.get_texts() if legend is not None else ():
        text.set_text(escape_dollars(text.get_text()))
    arrange(axes, lambda _: inches, _fit_profile, least=0.9)


def _fit_profile(axes: Any, room: Room) -> None:
    """Put the legend below, where it hides no curve, and no wider than the axes."""
    if axes.get_legend() is not None:
        longest = max(int((72 * room.wide + _BEFORE_CURVES - _KEY) / 4.2), 8)
        put_legend_below(axes, 1, longest)
