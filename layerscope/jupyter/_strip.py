"""The parts of the explorer that are drawn in the browser by JavaScript of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["Clickable", "Grid", "Kept", "Status", "Strip", "static"]

_STATIC = Path(__file__).parent / "static"


def static(*names: str) -> str:
    """Read files that are sent to the browser, one after the other.

    As text: of paths anywidget watches the files, and holds every widget for as long.
    """
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in names)


class Clickable(anywidget.AnyWidget):
    """A widget that tells what was clicked."""

    _css = static("explorer.css", "kept.css")
    acknowledged = traitlets.Int(0).tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)
    legend = traitlets.List(traitlets.Dict()).tag(sync=True)

    def on_pick(self, picked: Callable[[dict[str, Any]], object]) -> None:
        """Call a function with what was clicked."""

        def received(_: object, content: object, __: object) -> None:
            if isinstance(content, dict):
                picked(content)
                self.acknowledged = int(content.get("seq", 0))

        self.on_msg(received)


class Strip(Clickable):
    """A network as a strip of layers.

    Attributes
    ----------
    blocks : list of dict
        In execution order: ``name``, and ``short`` as it stands below; ``stage`` and ``block`` that
        it lies in, and what this is called, ``group``; ``colour`` and ``ink``, as CSS has them;
        ``share``, how tall it is in [0, 1]; ``state``, ``badge``; ``tip``, what shows on hovering.
    selected : list of str
    legend : list of dict
        As `_drawing.legend` gives.
    """

    _esm = static("keys.js", "legend.js", "strip.js")
    blocks = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Grid(Clickable):
    """A heat map of layers by checkpoint.

    Attributes
    ----------
    rows, columns : list of str
    heads : list of str
        How the rows are written.
    title, axis : str
        What the cells show, and what the columns are.
    notes : dict of str to str
        What is wrong with a column.
    trouble : dict
        Empty, or ``row`` and ``column`` of the present state, ``kind`` (as a cell looks), ``why``
        it has no number, and what the legend calls this.
    cells : list of list of dict
        ``colour``, ``ink``, ``text``, ``tip``; empty for a cell that is not known.
    marked : list of [row, column]
        What is set at present.
    legend : list of dict
    """

    _esm = static("keys.js", "legend.js", "grid.js")
    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    heads = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    axis = traitlets.Unicode("").tag(sync=True)
    notes = traitlets.Dict().tag(sync=True)
    trouble = traitlets.Dict().tag(sync=True)
    cells = traitlets.List(traitlets.List(traitlets.Dict())).tag(sync=True)
    marked = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)


class Status(anywidget.AnyWidget):
    """A line that says what is going on, went wrong, or came out; screen readers say it, too.

    Attributes
    ----------
    text : str
    kind : {"info", "busy", "warning", "error"}
    share : float
        How much is done, in [0, 1]; negative where nothing is going on.
    """

    _esm = static("status.js")
    text = traitlets.Unicode("").tag(sync=True)
    kind = traitlets.Unicode("info").tag(sync=True)
    share = traitlets.Float(-1.0).tag(sync=True)


class Kept(Clickable):
    """The states that were given a name, as a table.

    Attributes
    ----------
    rows : list of dict
        ``name``; ``value`` and ``change``, written; ``share``, how long its bar is in [0, 1];
        ``state``, what is done to which row; ``now``, whether it is the present state.
    metric : str
        What the values are of.
    chosen : list of str
        The states that are compared.
    comparison : dict
        Empty, or ``names`` of two states and ``rows`` of four texts.
    """

    _esm = static("kept.js")
    rows = traitlets.List(traitlets.Dict()).tag(sync=True)
    metric = traitlets.Unicode("").tag(sync=True)
    chosen = traitlets.List(traitlets.Unicode()).tag(sync=True)
    comparison = traitlets.Dict().tag(sync=True)
