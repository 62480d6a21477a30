"""Figures of a Dataset, as HoloViews objects that draw with Bokeh and with matplotlib.

>>> from layerscope import plots, testing
>>> plot = plots.heatmap(testing.dataset())
>>> plots.save(plot, "heatmap.pdf")                                         # doctest: +SKIP
>>> plots.show(plot)                                                        # doctest: +SKIP

Nothing is computed here: the numbers come from `layerscope.stats`.
"""

from __future__ import annotations

from layerscope.plots._agreement import agreement
from layerscope.plots._backends import escape_dollars as escape_dollars
from layerscope.plots._barriers import barriers
from layerscope.plots._colours import (
    FULL_CHANGE as FULL_CHANGE,
    ink as ink,
    loss_colour as loss_colour,
)
from layerscope.plots._comparing import compare
from layerscope.plots._embedding import embed, library
from layerscope.plots._emergence import emergence
from layerscope.plots._grids import FORMULAS, distances, heatmap, overview
from layerscope.plots._lines import curves
from layerscope.plots._names import shorten_layers as shorten_layers
from layerscope.plots._output import save, show
from layerscope.plots._points import points
from layerscope.plots._pruning import pruning
from layerscope.plots._rankings import rankings
from layerscope.plots._scales import scale_of as scale_of
from layerscope.plots._sensitivity import sensitivity
from layerscope.plots._stills import drawn as drawn
from layerscope.plots._tasks import tasks
from layerscope.plots._triangle import triangle

__all__ = [
    "FORMULAS",
    "agreement",
    "barriers",
    "compare",
    "curves",
    "distances",
    "embed",
    "emergence",
    "heatmap",
    "library",
    "overview",
    "points",
    "pruning",
    "rankings",
    "save",
    "sensitivity",
    "show",
    "tasks",
    "triangle",
]
