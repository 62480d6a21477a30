"""Options that both of HoloViews' backends, Bokeh and matplotlib, need alike."""

from __future__ import annotations

from functools import partial
from typing import Any

import holoviews as hv
from bokeh.models import NoOverlap

from layerscope.base.validate import describe
from layerscope.errors import OptionError

FONT_SIZES = {"title": 9, "labels": 8, "ticks": 8, "legend": 8, "cticks": 7}


def both(
    plot: Any, shared: dict[str, Any], bokeh: dict[str, Any], matplotlib: dict[str, Any]
) -> Any:
    """Set the options of both backends, whichever the user draws with."""
    load_backends()
    plot = plot.opts(backend="bokeh", **(shared | bokeh))
    return plot.opts(backend="matplotlib", **(shared | matplotlib))


def with_frame(
    overlay: hv.Overlay, title: str, shared: dict[str, Any], legend: str = ""
) -> hv.Overlay:
    """Give curves or points their size, and a legend beside them that hides none of them."""
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
            "hooks": [partial(_finish_matplotlib, title=legend)],
        },
    )


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


def _finish_matplotlib(plot: Any, element: hv.Overlay, title: str) -> None:  # noqa: ARG001
    axes = plot.handles["axis"]
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.get_legend()
    if legend is None:
        return
    legend.set_frame_on(False)
    legend.set_loc("upper left")
    legend.set_bbox_to_anchor((1.02, 1))
    if title:
        legend.set_title(escape_dollars(title), {"size": FONT_SIZES["legend"]})
        legend.set_alignment("left")
    for text in legend.get_texts():
        text.set_text(escape_dollars(text.get_text()))
