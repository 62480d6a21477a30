"""Several runs side by side, aligned by relative depth."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import holoviews as hv
import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models import ColumnDataSource, NoOverlap

from layerscope import results, stats
from layerscope.errors import OptionError, ResultError
from layerscope.plots.backends import FONT_SIZES, both, literal, quieten, unformatted
from layerscope.plots.finishing import MARKS, add_colour_bar, explained
from layerscope.plots.hover import VALUE_HOVER, tooltips, with_hover
from layerscope.plots.names import shortened
from layerscope.plots.scales import COLOURS, Scale, ink, label_of, scale_of

__all__ = ["compare"]

_DASHES = (("solid", "-"), ("dashed", "--"), ("dotdash", "-."), ("dotted", ":"))
_MOST_NAMED = 40


def compare(
    runs: Mapping[str, xr.Dataset],
    metric: str = "error",
    column: int | str | None = None,
    title: str | None = None,
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
    metric : str
        Which of ``metric`` in every run.
    column : int or str, optional
        What the curves show: an epoch, "rand" or another column of `heatmap` that every run has;
        the first checkpoint that all have, if not given.
    title : str, optional
        Of the first panel.

    Returns
    -------
    holoviews.Layout

    Raises
    ------
    OptionError
        If fewer than two runs came, one has no such metric, or not all have the column.
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
    tables = {str(name): _placed(ds, metric) for name, ds in runs.items()}
    chosen = _column(tables, column)
    info = results.metric(next(iter(runs.values())), metric)
    scale = scale_of(pd.concat([table["value"] for table in tables.values()]), info)
    most = max(len(table["layer"].unique()) for table in tables.values())
    size = _Size(float(np.clip(0.3 * most, 2.4, 7.0)), int(np.clip(26 * most, 280, 900)))
    said = _said(runs, tables, chosen)
    heading = f"Test {metric}, one layer {said}" if title is None else title
    parts = [_profile(runs, tables, chosen, info, heading, size)]
    last = list(tables)[-1]
    bar = label_of(info)
    parts += [
        _panel(name, table, scale, size, bar if name == last else "")
        for name, table in tables.items()
    ]
    layout = hv.Layout(parts).cols(len(parts)).opts(backend="bokeh", shared_axes=True)
    # Inches for the rows' names, which stand between the panels.
    longest = max(len(name) for table in tables.values() for name in _row_names(table).values())
    gap = 0.4 + 0.058 * longest
    return layout.opts(
        backend="matplotlib",
        shared_axes=False,
        fig_inches=(2.6 * len(parts) + gap * (len(parts) - 1), size.inches),
        fig_bounds=(0, 0, 1, 1),
        sublabel_format="",
        hspace=gap / 2.6,
    )


class _Size(NamedTuple):
    inches: float
    pixels: int


def _placed(ds: xr.Dataset, metric: str) -> pd.DataFrame:
    """One row per cell of single layers, with the share of the height that it has.

    ``top`` and ``bottom`` are 1 at the input and 0 at the output, since axes go upwards.
    """
    table = with_hover(ds, stats.summary(ds, metric), VALUE_HOVER)
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


def _said(runs: Mapping[str, xr.Dataset], tables: Mapping[str, pd.DataFrame], column: str) -> str:
    name, table = next(iter(tables.items()))
    cell = table[table["column"] == column].iloc[0]
    done = results.perturbation(runs[name], cell["perturbation"])
    return f"reset to {column}" if done.resets else done.words_at(int(cell["epoch"]))


def _profile(
    runs: Mapping[str, xr.Dataset],
    tables: Mapping[str, pd.DataFrame],
    column: str,
    metric: results.MetricInfo,
    title: str,
    size: _Size,
) -> hv.Overlay:
    """One curve per run: the metric across, relative depth downwards."""
    parts: list[Any] = []
    for index, ((name, table), ds) in enumerate(zip(tables.items(), runs.values(), strict=True)):
        cells = table[table["column"] == column].sort_values("depth", ascending=False)
        colour, dash = COLOURS[index % len(COLOURS)], _DASHES[index % len(_DASHES)]
        parts += _curve(cells, name, colour, dash)
        parts += _baseline(ds, metric.name, colour)
    scale = scale_of(pd.concat([table["value"] for table in tables.values()]), metric)
    shared: dict[str, Any] = {
        "title": unformatted(title),
        "xlabel": label_of(metric) + " (thin line: unperturbed)",
        "ylabel": "relative depth",
        "ylim": (0, 1),
        "yticks": [(1 - share, f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1)],
        "logx": scale.log,
    }
    if metric.fraction_of:
        shared["xlim"] = (-0.02, 1.02)
    return both(
        hv.Overlay(parts),
        shared | {"legend_position": "bottom_right"},
        bokeh={
            "frame_width": 300,
            "frame_height": size.pixels,
            "default_tools": ["save", "ywheel_zoom", "ypan", "reset"],
            "click_policy": "mute",
            "hooks": [_finish_bokeh_profile],
        },
        matplotlib={
            "aspect": "auto",
            "show_frame": False,
            "fontsize": FONT_SIZES,
            "hooks": [_finish_matplotlib_profile],
        },
    )


def _curve(cells: pd.DataFrame, name: str, colour: str, dash: tuple[str, str]) -> list[Any]:
    texts = [text for text in map(str, cells) if text.startswith("hover ")]
    known = cells.dropna(subset=["lower", "upper"])
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
    return [each for each in (bars, line, dots) if each is not None]


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


def _row_names(table: pd.DataFrame) -> dict[str, str]:
    """How the layers are written, from the first to the last."""
    layers = table.drop_duplicates("layer").sort_values("depth", ascending=False)
    return shortened(list(layers["layer"]), 24)


def _panel(name: str, table: pd.DataFrame, scale: Scale, size: _Size, bar: str) -> hv.Rectangles:
    """Draw one run's heat map on the shared axis of depth; `bar` names its colour bar, if any."""
    texts = [text for text in map(str, table) if text.startswith("hover ")]
    columns = stats.column_order(table)
    depths = dict(zip(table["layer"], table["depth"], strict=True))
    ticks = [(depths[layer], short) for layer, short in _row_names(table).items()]
    # Upwards: Bokeh leaves out every name that is not above the one before.
    ticks = ticks[:: -(-len(ticks) // _MOST_NAMED)][::-1]
    marks, share = _marks(table, scale), 1 / len(depths)
    told = explained(name for name, places in marks.items() if len(places))
    cells = table.astype(dict.fromkeys([*texts, "layer", "column"], object))
    # HoloViews links axes by the name of their dimension, here that of the lower edge.
    cells = cells.assign(depth=cells["bottom"])
    boxes = hv.Rectangles(cells, ["left", "depth", "right", "top"], ["value", *texts])
    crowded = max(len(column) for column in columns) > 6 or len(columns) > 9
    names = shortened(columns, 24)
    every = -(-len(columns) // 24)
    shared: dict[str, Any] = {
        "color": "value",
        "cmap": scale.colours,
        "clim": (scale.low, scale.high),
        "logz": scale.log,
        "title": unformatted(name),
        "xlabel": told,
        "ylabel": "",
        "xlim": (0, len(columns)),
        "ylim": (0, 1),
        "xticks": [(at + 0.5, names[each]) for at, each in enumerate(columns)][::every],
        "yticks": ticks,
        "xrotation": 90 if crowded else 0,
    }
    return both(
        boxes,
        shared,
        bokeh={
            "frame_width": int(np.clip(30 * len(columns), 120, 360)),
            "frame_height": size.pixels,
            # One below the other where a panel is narrow.
            "xlabel": told if len(columns) > 7 else told.replace(", ", "\n"),
            "line_color": "white",
            "line_width": 0.5,
            "tools": ["hover"],
            "hover_tooltips": tooltips(texts),
            "default_tools": ["save", "ywheel_zoom", "ypan", "reset"],
            "colorbar": bool(bar),
            "clabel": bar,
            "hooks": [partial(_finish_bokeh_panel, marks=marks, size=0.6 * share * size.pixels)],
        },
        matplotlib={
            "aspect": "auto",
            "edgecolor": "white",
            "linewidth": 0.3,
            "fontsize": FONT_SIZES | {"yticks": 7},
            "colorbar": False,
            "hooks": [
                partial(_finish_matplotlib_panel, ticks=ticks, title=name, bar=bar),
                partial(_mark_matplotlib, marks=marks, size=0.4 * 72 * share * size.inches),
            ],
        },
    )


def _marks(table: pd.DataFrame, scale: Scale) -> dict[str, pd.DataFrame]:
    """Where the cells are that are settled to each verdict, and in what colour a mark shows."""
    colours = [ink(scale.colour(value)) for value in table["value"]]
    places = pd.DataFrame({"x": table["left"] + 0.5, "y": table["depth"], "ink": colours})
    settled = table.get("verdict", pd.Series("", table.index))
    return {name: places[settled == name] for name in MARKS}


def _finish_bokeh_profile(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    quieten(plot)
    plot.state.outline_line_color = None
    for legend in plot.state.legend:
        legend.update(border_line_color=None, background_fill_alpha=0.7)


def _finish_bokeh_panel(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    marks: Mapping[str, pd.DataFrame],
    size: float,
) -> None:
    quieten(plot)
    figure = plot.state
    figure.grid.visible = False
    figure.outline_line_color = None
    # Behind the cells, to show where there are none; BokehJS can't hatch a plot's own background.
    figure.quad(
        left=figure.x_range.start,
        right=figure.x_range.end,
        bottom=0,
        top=1,
        fill_color="white",
        line_color=None,
        hatch_pattern="/",
        hatch_color="#b0b0b0",
        hatch_scale=8,
        level="underlay",
    )
    for name, (_, marker, _, filled) in MARKS.items():
        figure.scatter(
            "x",
            "y",
            source=ColumnDataSource({axis: list(marks[name][axis]) for axis in ("x", "y", "ink")}),
            marker=marker,
            size=min(5.0, size),
            fill_color="ink" if filled else None,
            line_color="ink",
        )
    plot.handles["hover"].renderers = [plot.handles["glyph_renderer"]]
    for axis in (*figure.xaxis, *figure.yaxis):
        axis.major_label_policy = NoOverlap(min_distance=0)
        axis.update(major_tick_line_color=None, minor_tick_line_color=None, axis_line_color=None)


def _finish_matplotlib_profile(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    axes = plot.handles["axis"]
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend()
    if legend is not None:
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set_text(literal(text.get_text()))


def _finish_matplotlib_panel(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    ticks: list[tuple[float, str]],
    title: str,
    bar: str,
) -> None:
    axes = plot.handles["axis"]
    axes.patch.set(facecolor="white", hatch="/////", edgecolor="#d0d0d0", linewidth=0)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_yticks([at for at, _ in ticks], [literal(name) for _, name in ticks])
    axes.set_title(literal(title), fontsize=FONT_SIZES["title"])
    if bar:
        add_colour_bar(plot, bar)


def _mark_matplotlib(
    plot: Any,
    element: hv.Rectangles,  # noqa: ARG001
    marks: Mapping[str, pd.DataFrame],
    size: float,
) -> None:
    points = min(3.2, size)
    for name, (_, _, marker, filled) in MARKS.items():
        for mark in marks[name].itertuples():
            plot.handles["axis"].plot(
                mark.x,
                mark.y,
                marker,
                markersize=points,
                markeredgewidth=0.2 * points,
                markeredgecolor=mark.ink,
                markerfacecolor=mark.ink if filled else "none",
            )
