"""What both of HoloViews' backends, Bokeh and matplotlib, need alike."""

from __future__ import annotations

from typing import Any

import holoviews as hv

FONT_SIZES = {"title": 9, "labels": 8, "ticks": 8, "legend": 8, "cticks": 7}


def both(
    plot: Any, shared: dict[str, Any], bokeh: dict[str, Any], matplotlib: dict[str, Any]
) -> Any:
    """Set the options of both backends, whichever the user draws with."""
    load_backends()
    plot = plot.opts(backend="bokeh", **(shared | bokeh))
    return plot.opts(backend="matplotlib", **(shared | matplotlib))


def load_backends() -> None:
    """Register both backends, leaving the user's choice of one; loading them changes it."""
    chosen = hv.Store.current_backend if hv.Store.registry else "bokeh"
    if not {"bokeh", "matplotlib"} <= set(hv.Store.registry):
        import holoviews.plotting.bokeh
        import holoviews.plotting.mpl  # noqa: F401

        hv.Store.set_current_backend(chosen)


def unformatted(title: str) -> str:
    """Keep HoloViews from taking braces for its own placeholders."""
    return title.replace("{", "{{").replace("}", "}}")


def literal(name: object) -> str:
    """Keep matplotlib from setting what stands between dollars as mathematics."""
    return str(name).replace("$", r"\$")


def quieten(plot: Any) -> None:
    """Drop the sizing mode, which Bokeh warns about beside a frame's size."""
    plot.state.sizing_mode = None
