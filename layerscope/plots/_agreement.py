"""Cheap measures against exact effects, one point per layer."""

from __future__ import annotations

from typing import Any

import holoviews as hv
import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr
from bokeh.models import NoOverlap

from layerscope import results, stats
from layerscope.errors import ResultError
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
from layerscope.plots._names import shorten_layers, within

__all__ = ["agreement"]

_INK = "#444444"

_PADDING = 0.12

_LETTER, _LINE, _GAP, _DOT = 0.0125, 0.018, 0.012, 0.018
"""Width of a letter, half the height of a line, what lies between dot and name, and how near to the
middle of a dot no other's name may come: in shares of the frame, for either backend."""


def agreement(
    ds: xr.Dataset,
    measure: str,
    metric: str | None = None,
    perturbation: str | None = None,
    epoch: int = 0,
    title: str | None = None,
) -> hv.Overlay:
    """Draw a measure of one pass against the exact effect: a point for each layer.

    Where the measure ranks the layers as the exact effect does, the points rise from the left to
    the right; the title says how well, as `layerscope.stats.agreement` has it. Layers are named as
    far as there is room, first those that matter most and those that are ranked most unlike;
    hovering names the others.

    Parameters
    ----------
    ds : Dataset
        With ``value``, ``baseline`` and ``measure_value``.
    measure : str
        One of ``ds.measure``. Its axis is turned round where low values are said to matter.
    metric, perturbation, epoch
        As for `layerscope.stats.agreement`.
    title : str, optional

    Returns
    -------
    holoviews.Overlay

    Raises
    ------
    ResultError
        If the Dataset lacks measures, or no layer has both a measure and an effect.
    OptionError
        If there is no such measure, metric, perturbation or epoch.

    Examples
    --------
    >>> from layerscope import testing
    >>> ds = testing.dataset(layers=8)
    >>> cheap = ("layer", "measure"), ds.depth.values[:, None] * 1.0
    >>> ds = ds.assign(measure_value=cheap).assign_coords(measure=["depth"])
    >>> len(agreement(ds, "depth"))
    2
    """
    chosen: dict[str, Any] = {"perturbation": perturbation, "epoch": epoch}
    table = _with_hover(ds, stats.effects(ds, measure, metric, **chosen), measure)
    found = stats.agreement(ds, measure, metric, **chosen).set_index("statistic")
    info = results.measure(ds, measure)
    words = results.perturbation(ds, table.attrs["perturbation"]).words_at(table.attrs["epoch"])
    heading = f"{info.label} against the effect of a layer {words}\n{_words(found)}"
    by_factors = _by_factors(table["measure"], info.logarithmic), _by_factors(table["height"])
    table = _thinned(table, by_factors, turned=not info.higher_matters)
    parts = [_points(table), _labels(table)]
    where = within([str(name) for name in table["layer"]])
    shared: dict[str, Any] = {
        "title": escape_braces(heading if title is None else title),
        "xlabel": info.label
        + ("" if info.higher_matters else ", turned round")
        + (f"\n({where})" if where else ""),
        "ylabel": _effect_label(results.metric(ds, table.attrs["metric"])),
        "logx": by_factors[0],
        "invert_xaxis": not info.higher_matters,
        "logy": by_factors[1],  # a few layers often matter more than all others
        "padding": _PADDING,
        "show_legend": False,
    }
    return both(
        hv.Overlay(parts),
        shared,
        bokeh={
            "frame_width": 520,
            "frame_height": 380,
            "toolbar": "above",
            "default_tools": ["save", "box_zoom", "wheel_zoom", "reset"],
            "hooks": [_finish_bokeh],
        },
        matplotlib={
            "aspect": "auto",
            "fig_inches": (4.6, 3.4),
            "fig_bounds": (0, 0, 1, 1),
            "show_frame": False,
            "fontsize": FONT_SIZES,
            "hooks": [_finish_matplotlib],
        },
    )


def _words(found: pd.DataFrame) -> str:
    row = found.loc["spearman"]
    if np.isnan(row["value"]):
        return f"no rank correlation over {row['n_layers']:.0f} layers"
    span = (
        f", 95 % {row['lower']:.2f} to {row['upper']:.2f}" if row["lower"] == row["lower"] else ""
    )
    return f"Spearman {row['value']:.2f}{span}, over {row['n_layers']:.0f} layers"


def _effect_label(metric: results.MetricInfo) -> str:
    way = "fall" if metric.higher_is_better else "rise"
    return f"{way} of test {metric.label}"


def _by_factors(values: pd.Series, known: bool = False) -> bool:
    """Check for values that would lie on each other on a linear axis."""
    return bool((values > 0).all() and (known or values.max() > 20 * values.min()))


def _with_hover(ds: xr.Dataset, table: pd.DataFrame, measure: str) -> pd.DataFrame:
    if table.empty:
        raise ResultError(
            f"no layer has both {measure!r} and an effect; sweep rows of blocks: view='block'."
        )
    finite = np.isfinite(table["effect"])
    known = table["effect"][finite]
    # What is no number stands a little above all others.
    beyond = known.max() + 0.08 * (known.max() - known.min() or 1.0) if finite.any() else 1.0
    short = shorten_layers([str(name) for name in table["layer"]], 24)
    told: dict[str, list[str]] = {
        "layer": [str(name) for name in table["layer"]],
        results.measure(ds, measure).label: [f"{value:.4g}" for value in table["measure"]],
        "effect": [f"{x:+.4g}" if np.isfinite(x) else "no number" for x in table["effect"]],
    }
    names = [_label(short[str(name)]) for name in table["layer"]]
    hover = {f"hover {name}": texts for name, texts in told.items()}
    kept = table.attrs
    table = table.assign(height=table["effect"].where(finite, beyond), name=names, **hover)
    table.attrs |= kept
    return table


def _label(name: str) -> str:
    """Name a point: by its number, where blocks are counted."""
    last = name.rpartition(".")[2]
    return last if last.replace("-", "").isdigit() else name


def _thinned(table: pd.DataFrame, by_factors: tuple[bool, bool], turned: bool) -> pd.DataFrame:
    """Leave out names that would lie on a point or on a name that is more worth telling."""
    places = zip(("measure", "height"), by_factors, strict=True)
    x, y = (_shares(table[name].to_numpy(float), logarithmic) for name, logarithmic in places)
    x = 1 - x if turned else x
    ranks = [table[name].rank(pct=True).to_numpy() for name in ("ranked", "height")]
    worth = np.maximum(np.maximum(x, y), np.abs(ranks[0] - ranks[1]))
    taken = np.stack([x - _DOT, y - _DOT, x + _DOT, y + _DOT], axis=1)
    names = table["name"].to_list()
    kept = [""] * len(names)
    for at in np.argsort(-worth, kind="stable"):
        left, low = x[at] + _GAP, y[at] - _LINE
        box = np.array([left, low, left + _LETTER * len(names[at]), y[at] + 2 * _LINE])
        if not _overlaps(box, np.delete(taken, at, axis=0)):
            kept[at] = names[at]
            taken = np.vstack([taken, box])
    thinned = table.assign(name=kept)
    thinned.attrs |= table.attrs
    return thinned


def _overlaps(box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> bool:
    apart = (box[:2] >= others[:, 2:]) | (box[2:] <= others[:, :2])
    return bool((~apart.any(axis=1)).any())


def _shares(values: npt.NDArray[np.float64], logarithmic: bool) -> npt.NDArray[np.float64]:
    """Place values along an axis, from 0 to 1 with what is left free at both ends."""
    placed = np.log(values) if logarithmic else values
    span = float(placed.max() - placed.min()) or 1.0
    shares: npt.NDArray[np.float64] = (placed - placed.min()) / span
    return (shares + _PADDING) / (1 + 2 * _PADDING)


def _points(table: pd.DataFrame) -> Any:
    texts = [str(name) for name in table if str(name).startswith("hover ")]
    dots = hv.Points(table, ["measure", "height"], texts)
    return both(
        dots,
        {"color": LINES[0]},
        bokeh={"size": 7, "tools": ["hover"], "hover_tooltips": tooltips(texts)},
        matplotlib={"s": 22},
    )


def _labels(table: pd.DataFrame) -> Any:
    labels = hv.Labels(table, ["measure", "height"], "name")
    return both(
        labels,
        {},
        bokeh={"text_font_size": "8pt", "text_color": _INK, "text_align": "left", "xoffset": 0},
        matplotlib={"size": 7, "color": _INK},
    )


def _finish_bokeh(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    drop_sizing_mode(plot)
    plot.state.outline_line_color = None
    plot.state.xaxis.major_label_policy = NoOverlap(min_distance=0)
    for part in plot.subplots.values():
        glyph = part.handles.get("glyph")
        if type(glyph).__name__ == "Text":
            glyph.update(x_offset=6, y_offset=-2)


def _finish_matplotlib(plot: Any, element: hv.Overlay) -> None:  # noqa: ARG001
    axes = plot.handles["axis"]
    axes.spines[["top", "right"]].set_visible(False)
    arrange(axes, lambda wide: min(max(0.75 * wide, 2.0), 3.4), lambda *_: None)
    for text in axes.texts:
        text.set(text=escape_dollars(text.get_text()), ha="left", va="bottom")
        text.set_transform(text.get_transform() + _shifted(axes))


def _shifted(axes: Any) -> Any:
    from matplotlib.transforms import ScaledTranslation

    return ScaledTranslation(3 / 72, 2 / 72, axes.figure.dpi_scale_trans)
