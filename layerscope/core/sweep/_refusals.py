"""Cells that can't be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerscope.core.layers import Layer
from layerscope.core.perturb import Perturbation
from layerscope.core.probe import Cell, CellTensors, Probe
from layerscope.core.running import Route
from layerscope.errors import LayerError
from layerscope.results import FULL_MODEL, NOTHING_LEFT

__all__ = ["refused_cells"]

_At = tuple[str, str]
_Way = tuple[str, Route]


def refused_cells(probe: Probe, tensors: CellTensors, cells: Sequence[Cell]) -> dict[_At, str]:
    """Find the cells that can't be, such as one that skips a layer which changes the shape.

    Returns
    -------
    dict
        From names of row and perturbation to why.

    Raises
    ------
    LayerError
        If nothing is left of a perturbation.
    """
    refused: dict[_At, str] = {}
    routes: dict[_At, dict[_Way, None]] = {}
    for cell in cells:
        at = cell.layer.name, cell.perturbation.name
        if why := tensors.obstacle(cell):
            refused[at] = why
            continue
        try:
            routes.setdefault(at, {}).update(dict.fromkeys(tensors.routes(cell).items()))
        except LayerError as error:
            refused[at] = str(error)
        if at[0] == FULL_MODEL and routes.get(at):
            refused[at] = NOTHING_LEFT
    ways = {way for asked in routes.values() for way in asked}
    reasons = probe.obstacles(ways) if ways else {}
    for at, asked in routes.items():
        if why := "; ".join(f"{way[0]} {reasons[way]}" for way in asked if reasons[way]):
            refused.setdefault(at, why)
    for name, kind in {cell.perturbation.name: cell.perturbation for cell in cells}.items():
        _require_some(kind, [c.layer for c in cells if c.perturbation.name == name], refused)
    return refused


def _require_some(kind: Perturbation, rows: Sequence[Layer], refused: Mapping[_At, str]) -> None:
    """Refuse a perturbation that fits no row."""
    at = {row.name: refused.get((row.name, kind.name), "") for row in rows}
    if not all(at.values()):
        return
    # A block says most, and the whole network, which comes last, is never worth saying.
    row = min(rows, key=lambda row: (row.name == FULL_MODEL, not row.parts, row.name)).name
    passing = (
        " Hidden states can pass by a layer that returns them in the shape and type of those it "
        "gets; view='block' may have some."
    )
    raise LayerError(
        f"{kind.name!r} fits no layer; {row}, for example: {at[row]}.{passing * bool(kind.routes)}"
    )
