"""Words, boxes and rules on a figure, in inches; and the table of kept states in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from layerscope.plots import escape_dollars

__all__ = ["LEADING", "TYPE", "Listed", "Sheet"]

LEADING, TYPE = 0.155, 7.5
"""Inches of a line of type, and its size in points."""

_QUIET, _BAR = "#59636e", "#2b8a9b"
_MOST, _LONGEST = 12, 38
_COLUMNS = (0.0, 2.5, 3.35, 4.35)
"""Inches at which name, value, change and bar begin."""


class Sheet:
    """A figure that is written on in inches from its left edge, and from the heat map's bottom."""

    def __init__(self, figure: Figure, left: float) -> None:
        self._figure, self._left = figure, left
        self._size = figure.get_size_inches()

    def text(self, x: float, y: float, said: str, **look: Any) -> None:
        """Write words that start here, on this line."""
        at = self._at(x, y)
        self._figure.text(*at, escape_dollars(said), **({"size": TYPE} | look))

    def box(self, x: float, y: float, wide: float, high: float, **look: Any) -> None:
        """Draw a box whose lower left corner is here."""
        size = np.array([wide, high]) / self._size
        self._add(Rectangle(self._at(x, y), *size, **look))

    def rule(self, x: float, y: float, wide: float, thick: float) -> None:
        """Draw a line to the right from here."""
        ends = np.array([self._at(x, y), self._at(x + wide, y)])
        self._add(Line2D(*ends.T, linewidth=thick, color="#8c959f"))

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (self._left + x) / self._size[0], y / self._size[1]

    def _add(self, artist: Artist) -> None:
        artist.set_transform(self._figure.transFigure)
        self._figure.add_artist(artist)


class Listed(NamedTuple):
    """States that were given a name, as `KeptStates.rows` writes them, for one metric."""

    metric: str
    rows: Sequence[Mapping[str, Any]]

    def write(self, sheet: Sheet, bottom: float, wide: float) -> float:
        """Write them as a table with bars, upwards; return where it ends."""
        shown, more = self.rows[:_MOST], len(self.rows) - _MOST
        if more > 0:
            sheet.text(0, bottom, f"and {more} more", color=_QUIET)
            bottom += 1.25 * LEADING
        sheet.rule(0, bottom - 0.02, wide, 0.8)
        for row in shown[::-1]:
            self._line(sheet, bottom + 0.04, row, wide - _COLUMNS[-1])
            bottom += 1.1 * LEADING
        bottom += 0.03
        sheet.rule(0, bottom - 0.02, wide, 0.4)
        heads = ("kept states", self.metric, "against trained")
        for x, head in zip(_COLUMNS, heads, strict=False):
            sheet.text(x, bottom + 0.04, head, color=_QUIET)
        bottom += 1.2 * LEADING
        sheet.rule(0, bottom, wide, 0.8)
        return bottom

    def _line(self, sheet: Sheet, y: float, row: Mapping[str, Any], room: float) -> None:
        name = str(row["name"])
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        weight = "bold" if row["now"] else "normal"
        for x, said in zip(_COLUMNS, (name, row["value"], row["change"]), strict=False):
            sheet.text(x, y, str(said), weight=weight)
        if row["share"]:
            long = max(room * float(row["share"]), 0.01)
            sheet.box(_COLUMNS[-1], y, long, 0.08, facecolor=_BAR, edgecolor="none")
