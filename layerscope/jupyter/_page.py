"""One page with what the explorer shows, which asks for nothing outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.base.templates import render, trusted
from layerscope.jupyter._strip import Grid, Strip, static
from layerscope.jupyter._words import Reading

__all__ = ["page"]

_STRIP = ("blocks", "selected", "label", "legend", "acknowledged")
_GRID = (
    "rows",
    "heads",
    "columns",
    "title",
    "axis",
    "notes",
    "trouble",
    "cells",
    "marked",
    "label",
    "legend",
)


def page(
    name: str,
    about: str,
    seen: str,
    strip: Strip,
    grid: Grid,
    readings: Sequence[Reading],
    code: str,
    ds: xr.Dataset | None,
    still: str,
) -> str:
    """Write a page in which every layer and every swept cell can be clicked.

    It is drawn by what draws the explorer, on what is known.

    Parameters
    ----------
    name, about, seen : str
        The network, what is done to it, and of how many examples this was measured.
    strip, grid : Strip, Grid
        As they stand.
    readings : sequence of Reading
    code : str
        Python that measures the state again.
    ds : Dataset or None
        Whose kept states are listed.
    still : str
        What stands there where no script runs; HTML in which all is escaped.
    """
    content = {
        "strip": {trait: getattr(strip, trait) for trait in _STRIP},
        "grid": {trait: getattr(grid, trait) for trait in _GRID},
    }
    return str(
        render(
            "jupyter/templates/page.html.jinja",
            name=name,
            about=about,
            seen=seen,
            count=f"{len(strip.blocks)} rows",
            readings=readings,
            code=code,
            kept=_kept(ds),
            content=content,
            still=trusted(still),
            style=trusted(static("explorer.css", "kept.css", "page.css")),
            script=trusted(_script()),
        )
    )


def _script() -> str:
    """Put the parts of the explorer into one script: without modules, which need addresses."""
    shared = static("keys.js", "legend.js", "copy.js")
    parts = {"Strip": static("strip.js"), "Grid": static("grid.js")}
    made = [
        f"const {name} = (() => {{\n{text.replace('export default', 'return')}\n}})();"
        for name, text in parts.items()
    ]
    return "\n".join(["(() => {", shared, *made, static("page.js"), "})();"])


def _kept(ds: xr.Dataset | None) -> dict[str, Any] | None:
    """List the states that were kept, with their values; None where none was."""
    states = results.kept_states(ds)
    if not states:
        return None
    metrics = list(states[0].values)
    rows = [
        [state.name, state.words, *(f"{value:.4g}" for value in state.values.values())]
        for state in states
    ]
    return {"metrics": metrics, "rows": rows}
