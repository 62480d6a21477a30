"""Stand-in for the explorer where no kernel runs: tables, with nothing that needs a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerscope.base.templates import render
from layerscope.jupyter._strip import Grid
from layerscope.jupyter._words import Reading

__all__ = ["bundle", "still"]

_MOST_ROWS = 60


def bundle(live: Any, page: str) -> Any:
    """Put a still page beside the live widget.

    Parameters
    ----------
    live : mapping, tuple or None
        What the widget gives Jupyter.
    page : str
    """
    data, *more = live if isinstance(live, tuple) else (live,)
    told = {**(data or {}), "text/html": page}
    return (told, *more) if more else told


def still(
    name: str,
    about: str,
    seen: str,
    state: Mapping[str, str],
    readings: Sequence[Reading],
    grid: Grid,
) -> str:
    """Write what is shown as tables.

    JupyterLab takes scripts, styles and drawings out of what it does not trust, and leaves tables
    with the colours of their cells.

    Parameters
    ----------
    name, about, seen : str
        The network, what is done to it, and of how many examples this was measured.
    state : mapping of str to str
        What is done to which row.
    readings : sequence of Reading
    grid : Grid
    """
    lines = list(zip(grid.heads, grid.cells, strict=True))
    shown = _worst(lines)
    return str(
        render(
            "jupyter/templates/still.html.jinja",
            name=name,
            about=about,
            seen=seen,
            changed=list(state.items()) if len(state) > 1 else [],
            readings=readings,
            title=grid.title,
            columns=grid.columns,
            lines=[(head, [_cell(cell) for cell in cells]) for head, cells in shown],
            left_out=len(lines) - len(shown),
            axis=grid.axis,
            legend=[entry["text"] for entry in grid.legend if entry["kind"] == "refused"],
        )
    )


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {name: cell.get(name, "") for name in ("text", "colour", "ink", "refused")}


def _worst(lines: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Choose rows where there are more than one reads: those with the darkest cells, in order."""
    if len(lines) <= _MOST_ROWS:
        return list(lines)
    # The dark end of the colours is the bad one, and has white ink first.
    dark = [sum(_darkness(cell.get("colour", "")) for cell in cells) for _, cells in lines]
    worst = sorted(range(len(lines)), key=lambda at: -dark[at])[:_MOST_ROWS]
    return [lines[at] for at in sorted(worst)]


def _darkness(colour: str) -> int:
    return 3 * 255 - sum(bytes.fromhex(colour.removeprefix("#"))) if len(colour) == 7 else 0
