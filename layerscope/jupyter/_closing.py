"""Explorers that are no longer on the page: nothing of them stays."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from typing import Any

import ipywidgets as widgets

__all__ = ["close_parts", "supersede"]

_made: dict[str, list[tuple[str, weakref.ref[Any]]]] = {}
"""By cell of a notebook: which explorers its runs have made."""


def close_parts(explorer: Any, *more: Any) -> None:
    """Close every widget within the explorer, and more, and forget whom they call."""
    parts = [part for each in (explorer, *more) for part in _parts(each)]
    for part in {id(part): part for part in parts}.values():
        part.unobserve_all()
        for name in ("_click_handlers", "_submission_callbacks", "_msg_callbacks"):
            if isinstance(handlers := getattr(part, name, None), widgets.CallbackDispatcher):
                handlers.callbacks.clear()
        if part is not explorer:
            part.close()


def _parts(part: Any) -> Iterator[Any]:
    for child in getattr(part, "children", ()):
        yield from _parts(child)
    for name in ("layout", "style"):
        if isinstance(look := getattr(part, name, None), widgets.Widget):
            yield look
    yield part


def supersede(explorer: Any) -> None:
    """Close what an earlier run of the same cell has made: Jupyter keeps every widget for ever."""
    cell, run = _running()
    if not cell:
        return
    for before, made in _made.get(cell, []):
        if before != run and (old := made()) is not None:
            old.close()
    same = [(before, made) for before, made in _made.get(cell, []) if before == run]
    _made[cell] = [*same, (run, weakref.ref(explorer))]


def _running() -> tuple[str, str]:
    """Name the cell that is run, and this run of it; empty outside of a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    parent = getattr(shell, "get_parent", None)
    asked = parent() if parent is not None else {}
    cell = str(asked.get("metadata", {}).get("cellId") or "")
    return cell, str(asked.get("header", {}).get("msg_id") or "")
