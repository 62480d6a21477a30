"""Names of curves that lie apart from the others, where they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from layerscope.plots._backends import both, escape_dollars
from layerscope.plots._clearing import CURVE_NAME
from layerscope.plots._colours import legible
from layerscope.plots._scales import Scale

__all__ = ["outlying"]

_MOST = 6
_APART = 0.12  # of the scale, from the median curve
_NEAR = 0.07, 0.8  # of the scale, and along the axis: within it two names would lie on each other


def outlying(
    table: pd.DataFrame,
    colours: Mapping[str, str],
    names: Mapping[str, str],
    scale: Scale,
) -> list[Any]:
    """Name the curves that lie far from most, at the checkpoint where they lie farthest.

    Names have the colours of their curves, darkened where these are too pale for text.

    Parameters
    ----------
    table : DataFrame
        ``layer``, ``place`` and ``value``.
    colours : mapping of str to str
        Of the layers that may be named.
    names : mapping of str to str
        How they are written.
    scale : Scale
    """
    single = table[table["layer"].isin(list(colours)) & np.isfinite(table["value"])]
    if single.empty:
        return []
    share = single["value"].map(scale.share)
    apart = (share - share.groupby(single["place"]).transform("median")).abs()
    farthest = single.assign(apart=apart, share=share).sort_values("apart", ascending=False)
    farthest = farthest.drop_duplicates("layer")
    kept: list[Any] = []
    for row in farthest[farthest["apart"] >= _APART].itertuples():
        if len(kept) < _MOST and all(_are_apart(row, other) for other in kept):
            kept.append(row)
    if not kept:
        return []
    told = [
        (row.place, row.value, names[str(row.layer)], legible(colours[str(row.layer)]))
        for row in kept
    ]
    labels = hv.Labels(
        pd.DataFrame(told, columns=["place", "value", "name", "ink"]),
        ["place", "value"],
        ["name", "ink"],
    )
    return [
        both(
            labels,
            {},
            bokeh={
                "text_font_size": "8pt",
                "text_color": "ink",
                "text_align": "left",
                "hooks": [_move_bokeh],
            },
            matplotlib={"size": 7, "hooks": [_move_matplotlib]},
        )
    ]


def _are_apart(one: Any, other: Any) -> bool:
    off = abs(one.share - other.share), abs(one.place - other.place)
    return bool(off[0] > _NEAR[0] or off[1] > _NEAR[1])


def _move_bokeh(plot: Any, element: hv.Labels) -> None:  # noqa: ARG001
    """Put names beside their points."""
    plot.handles["glyph"].update(x_offset=7, y_offset=-4)


def _move_matplotlib(plot: Any, element: hv.Labels) -> None:
    """Put names beside their points, where they hide least; `keep_clear` finds where."""
    from matplotlib.patheffects import withStroke

    inks = element.dimension_values("ink")
    for text, ink in zip(plot.handles["artist"], inks, strict=True):
        text.set(text=escape_dollars(text.get_text()), color=ink, zorder=50, gid=CURVE_NAME)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
