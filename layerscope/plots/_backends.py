"""Options that both of HoloViews' backends, Bokeh and matplotlib, need alike."""

from __future__ import annotations

import textwrap
from functools import partial
from typing import Any

import holoviews as hv
from bokeh.models import NoOverlap

from layerscope.base.validate import describe
from layerscope.errors import OptionError
from layerscope.plots._clearing import keep_clear
from layerscope.plots._epochs import Epochs
from layerscope.plots._layout import Room, arrange

NARROW = 4.5  # inches; in narrower figures legends stand below
_UNBROKEN = "_layerscope_names"
FONT_SIZES = {"title": 8, "labels": 8, "ticks": 7, "legend": 7, "cticks": 7}


def both(
    plot: Any, shared: dict[str, Any], bokeh: dict[str, Any], matplotlib: dict[str, Any]
) -> Any:
    """Set the options of both backends, whichever the user draws with."""
    load_backends()
    plot = plot.opts(backend="bokeh", **(shared | bokeh))
    return plot.opts(backend="matplotlib", **(shared | matplotlib))


def with_frame(
    overlay: hv.Overlay,
    title: str,
    shared: dict[str, Any],
    legend: str = "",
    epochs: Epochs | None = None,
) -> hv.Overlay:
    """Give curves or points their size, and a legend beside them that hides none of them.

    `epochs` are those along the axis, of which as many are named as there is room for.
    """
    return both(
        overlay,
        {"title": escape_braces(title), "legend_position": "right", **shared},
        bokeh={
            "frame_width": 520,
            "frame_height": 320,
            "toolbar": "above",
            "default_tools": ["save", "box_zoom", "reset"],
            "click_policy": "mute",
            "legend_limit": 1000,
            "hooks": [partial(_finish_bokeh, title=legend)],
        },
        matplotlib={
            "aspect": "auto",
            "fig_inches": (4.2, 2.7),
            "fig_bounds": (0, 0, 1, 1),
            "show_frame": False,
            "fontsize": FONT_SIZES,
            "legend_limit": 1000,
            "hooks": [partial(_finish_matplotlib, title=legend, epochs=epochs)],
        },
    )


def side_by_side(left: Any, right: Any, inches: tuple[float, float], gap: float) -> hv.Layout:
    """Put two figures beside each other, each with axes of its own.

    `inches` of both together, and the gap between them as a share of one, are matplotlib's.
    """
    layout = hv.Layout([left, right]).cols(2)
    return layout.opts(backend="bokeh", shared_axes=False).opts(
        backend="matplotlib",
        shared_axes=False,
        fig_inches=inches,
        fig_bounds=(0, 0, 1, 1),
        sublabel_format="",
        hspace=gap,
        aspect_weight=0,
    )


def put_legend_below(axes: Any, columns: int, longest: int | None = None) -> None:
    """Put a legend of matplotlib's below its axes and their name, where it hides nothing.

    Names of more than `longest` signs are broken.
    """
    from matplotlib.transforms import ScaledTranslation

    below = axes.xaxis.get_tightbbox()
    reach = 0.0 if below is None else axes.get_window_extent().y0 - below.y0
    # From the left end of the names of ticks.
    down = ScaledTranslation(-0.3, -reach / axes.figure.dpi - 0.06, axes.figure.dpi_scale_trans)
    _put_legend(axes, columns, longest, (0, 0), axes.transAxes + down)


def _put_legend(axes: Any, columns: int, longest: int | None, *anchor: Any) -> None:
    """Make a legend anew: in matplotlib the number of its columns is settled once it is made."""
    legend = axes.get_legend()
    # As they were before they were broken for another width.
    names = getattr(legend, _UNBROKEN, None) or [text.get_text() for text in legend.get_texts()]
    shown = names if longest is None else [textwrap.fill(name, longest) for name in names]
    size, title = FONT_SIZES["legend"], legend.get_title().get_text()
    made = axes.legend(
        legend.legend_handles, shown, loc="upper left", bbox_to_anchor=anchor[0],
        bbox_transform=anchor[1], ncols=columns, frameon=False, fontsize=size, borderaxespad=0,
        title=title or None, title_fontsize=size, alignment="left", columnspacing=1.0,
    )  # fmt: skip
    setattr(made, _UNBROKEN, names)


def load_backends() -> None:
    """Register both backends, leaving the user's choice of one; loading them changes it."""
    chosen = hv.Store.current_backend if hv.Store.registry else "bokeh"
    if not {"bokeh", "matplotlib"} <= set(hv.Store.registry):
        import holoviews.plotting.bokeh
        import holoviews.plotting.mpl  # noqa: F401

        hv.Store.set_current_backend(chosen)


def require_plot(plot: Any) -> Any:
    """Return what HoloViews or matplotlib can draw.

    Raises
    ------
    OptionError
        If it is something else, such as the Dataset that a plot is made from.
    """
    from holoviews.core import Dimensioned
    from matplotlib.figure import Figure

    if not isinstance(plot, (Dimensioned, Figure)):
        raise OptionError(
            f"plot is {describe(plot)}, which is no plot; draw one first, such as heatmap(ds)."
        )
    return plot


def escape_braces(title: str) -> str:
    """Keep HoloViews from taking braces for its own placeholders."""
    return str(title).replace("{", "{{").replace("}", "}}")


def escape_dollars(name: object) -> str:
    """Keep matplotlib from setting what stands between dollars as mathematics."""
    return str(name).replace("$", r"\$")


def drop_sizing_mode(plot: Any) -> None:
    """Drop the sizing mode, which Bokeh warns about beside a frame's size."""
    plot.state.sizing_mode = None


def _finish_bokeh(plot: Any, element: hv.Overlay, title: str) -> None:  # noqa: ARG001
    drop_sizing_mode(plot)
    plot.state.xaxis.major_label_policy = NoOverlap(min_distance=0)
    plot.state.outline_line_color = None
    plot.state.yaxis.minor_tick_line_color = None
    for legend in plot.state.legend:
        legend.update(location="top_left", border_line_color=None, title=title or None)


def _height(wide: float) -> float:
    return min(max(0.62 * wide, 1.7), 2.7)


def _break(axes: Any, place: float) -> None:
    """Mark the place where an axis is broken."""
    sides = place - 0.07, place + 0.07
    below = {"transform": axes.get_xaxis_transform(), "clip_on": False}
    axes.plot(sides, [0, 0], "w", linewidth=2, zorder=5, **below)
    for side in sides:
        slash = {"marker": [(-0.6, -1), (0.6, 1)], "markersize": 6, "markeredgewidth": 0.8}
        axes.plot([side], [0], color="black", zorder=6, **slash, **below)


def _fit(axes: Any, room: Room, *, epochs: Epochs | None) -> None:
    """Put the legend beside wide axes, and below narrow ones; name what there is room for."""
    keep_clear(axes)
    if epochs is not None:
        places, names = zip(*epochs.ticks(72 * room.wide), strict=True)
        axes.set_xticks(places, names)
    legend = axes.get_legend()
    if legend is None:
        return
    if room.figure >= NARROW:
        _put_legend(axes, 1, None, (1.02, 1), axes.transAxes)
        return
    longest = max((len(text.get_text()) for text in legend.get_texts()), default=1)
    # As wide as the axes with the names of ticks to their left, and what margin there is.
    wide = min(room.wide + 0.55, room.figure)
    put_legend_below(axes, max(int(wide * 72 / (4.2 * longest + 34)), 1))


def _finish_matplotlib(
    plot: Any,
    element: hv.Overlay,  # noqa: ARG001
    title: str,
    epochs: Epochs | None,
) -> None:
    axes = plot.handles["axis"]
    axes.spines[["top", "right"]].set_visible(False)
    arrange(axes, _height, partial(_fit, epochs=epochs))
    if epochs is not None:
        axes.set_xticks(list(epochs.places.values()), minor=True)
        axes.tick_params("x", which="minor", length=1.5, width=0.4)
        if epochs.broken is not None:
            _break(axes, epochs.broken)
    legend = axes.get_legend()
    if legend is None:
        return
    if title:
        legend.set_title(escape_dollars(title))
    for text in legend.get_texts():
        text.set_text(escape_dollars(text.get_text()))
    _put_legend(axes, 1, None, (1.02, 1), axes.transAxes)
