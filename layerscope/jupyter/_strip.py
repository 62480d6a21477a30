"""The parts of the explorer that are drawn in the browser by JavaScript of this package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

__all__ = ["Grid", "Strip"]


def _read(name: str) -> str:
    """Read a file of the page. Given as a path, anywidget would hold every widget for ever."""
    return (Path(__file__).parent / "static" / name).read_text(encoding="utf-8")


class _Clickable(anywidget.AnyWidget):
    """A widget that tells what was clicked."""

    _css = _read("explorer.css")
    acknowledged = traitlets.Int(0).tag(sync=True)
    label = traitlets.Unicode("").tag(sync=True)

    def on_pick(self, picked: Callable[[dict[str, Any]], object]) -> None:
        """Call a function with what was clicked."""

        def received(_: object, content: object, __: object) -> None:
            if isinstance(content, dict):
                picked(content)
                self.acknowledged = int(content.get("seq", 0))

        self.on_msg(received)


class Strip(_Clickable):
    """A network as a strip of layers.

    Attributes
    ----------
    blocks : list of dict
        In execution order: ``name``, and ``short`` where there is little room; ``stage`` and
        ``block`` that it lies in; ``colour`` and ``ink``, as CSS has them; ``share``, how tall it
        is in [0, 1]; ``state``, ``badge``; ``tip``, what shows on hovering.
    selected : list of str
    """

    _esm = _read("strip.js")
    blocks = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.List(traitlets.Unicode()).tag(sync=True)


class Grid(_Clickable):
    """A heat map of layers by checkpoint.

    Attributes
    ----------
    rows, columns : list of str
    cells : list of list of dict
        ``colour``, ``ink``, ``text``, ``tip``; empty for a cell that is not known.
    marked : list of [row, column]
        What is set at present.
    """

    _esm = _read("grid.js")
    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    cells = traitlets.List(traitlets.List(traitlets.Dict())).tag(sync=True)
    marked = traitlets.List(traitlets.List(traitlets.Unicode())).tag(sync=True)
