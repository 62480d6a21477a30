"""Figures in pages: of their own, and in those of others."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import holoviews as hv
from bokeh.models import Toolbar
from markupsafe import Markup

from layerscope.base.templates import render, trusted
from layerscope.errors import OptionError
from layerscope.plots._backends import load_backends, require_plot
from layerscope.plots._stills import description, option, quantize, reusable, still

__all__ = ["embed", "frame", "library", "page"]

# Bytes. Hundreds of layers make more, which no paper shows any better.
_LARGEST_SVG = 300_000
# Inches between the margins of A4, and of a phone held upright.
_PAGE, _PHONE = 7.0, 3.5
_NARROW = "screen and (max-width: 44rem)"


def library() -> str:
    """Give what a page needs once for any number of figures from `embed`.

    Returns
    -------
    str
        Style and scripts (1.2 MB, BokehJS within it), for the head of an HTML page.

    Examples
    --------
    >>> "src=" in library().split(">")[0]
    False
    """
    return str(render("plots/templates/library.html.jinja", bokeh=_bokeh()))


def embed(plot: Any) -> str:
    """Turn a figure into HTML for a page of one's own, below `library`.

    Parameters
    ----------
    plot : HoloViews object
        From this module, or any other that both Bokeh and matplotlib draw.

    Returns
    -------
    str
        With hover where scripts run and there is room; on paper, on a phone and without scripts a
        picture of that width: SVG, or PNG where that is much smaller. Asks nothing of the network.
        Names are escaped.

    Examples
    --------
    >>> from layerscope import plots, testing
    >>> figure = plots.heatmap(testing.dataset())
    >>> page = "<h1>My report</h1>" + plots.library() + plots.embed(figure)
    >>> page.count("<figure")
    1
    """
    script, place = _live(require_plot(plot))
    still_of = reusable(plot)
    picture, form = _picture(still_of, _PAGE if isinstance(plot, hv.Layout) else None)
    small = _picture(still_of, _PHONE)
    figure = render(
        "plots/templates/figure.html.jinja",
        place=place,
        script=script,
        alt=description(plot),
        form=form,
        picture=base64.b64encode(picture).decode(),
        narrow=[(_NARROW, small[1], base64.b64encode(small[0]).decode())],
    )
    return str(figure)


def _picture(plot: Any, width: float | None) -> tuple[bytes, str]:
    """Draw without hover for a width in inches, or as it comes: the picture, and its kind."""
    try:
        picture = still(plot, "svg", 300, width=width)
    except OptionError:  # too many panels for one page: the reader zooms
        picture, width = still(plot, "svg", 300), None
    if len(picture) <= _LARGEST_SVG:
        return picture, "svg+xml"
    return quantize(still(plot, "png", 200, width=width)), "png"


def _bokeh() -> Markup:
    from bokeh.settings import settings

    library = (Path(settings.bokehjs_path()) / "js" / "bokeh.min.js").read_text("utf-8")
    return trusted(library)


def _live(plot: Any) -> tuple[Markup, Markup]:
    """Draw with Bokeh: the script, and the place that it draws in."""
    from bokeh.embed import components

    load_backends()
    figure = hv.render(plot, backend="bokeh")
    for toolbar in figure.select({"type": Toolbar}):
        toolbar.logo = None
    script, place = components(figure)
    return trusted(script), trusted(place)


def page(plot: Any, title: str) -> str:
    """Draw with Bokeh, into a page that asks nothing of the network.

    Bokeh's own INLINE pages also ask for a script of panel's, which holoviews imports.
    """
    script, place = _live(plot)
    made = render(
        "plots/templates/page.html.jinja", title=title, bokeh=_bokeh(), place=place, script=script
    )
    return str(made)


def frame(plot: Any) -> str:
    """Put the page into a frame, where it can't disturb other output, nor that it."""
    words = description(plot)
    heights = plot.traverse(lambda part: option(part, "frame_height") or 0)
    made = render(
        "plots/templates/frame.html.jinja",
        title=words,
        page=page(plot, words),
        height=170 + (max(heights) or 400),
    )
    return str(made)
