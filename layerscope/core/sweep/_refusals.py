"""Cells that can't be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerscope.core.probe import Cell, Probe
from layerscope.errors import LayerError
from layerscope.results import FULL_MODEL, NOTHING_LEFT

__all__ = ["refused_cells"]

_At = tuple[str, str]


def refused_cells(probe: Probe, cells: Sequence[Cell]) -> dict[_At, str]:
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
    skipping: dict[_At, tuple[str, ...]] = {}
    for cell in cells:
        at = cell.layer.name, cell.perturbation.name
        try:
            skipping[at] = cell.skipped
        except LayerError as error:
            refused[at] = str(error)
        if at[0] == FULL_MODEL and skipping.get(at):
            refused[at] = NOTHING_LEFT
    names = {name for skipped in skipping.values() for name in skipped}
    reasons = probe.obstacles(names) if names else {}
    for at, skipped in skipping.items():
        if why := "; ".join(f"{name} {reasons[name]}" for name in skipped if reasons[name]):
            refused.setdefault(at, why)
    every = {(cell.layer.name, cell.perturbation.name) for cell in cells}
    for name in dict.fromkeys(cell.perturbation.name for cell in cells):
        _require_some(name, {at for at in every if at[1] == name}, refused)
    return refused


def _require_some(perturbation: str, cells: set[_At], refused: Mapping[_At, str]) -> None:
    """Refuse a perturbation that fits no row."""
    if not cells <= refused.keys():
        return
    # The whole network last, which is never worth saying.
    row, why = min((at[0] == FULL_MODEL, at[0], refused[at]) for at in cells)[1:]
    raise LayerError(
        f"{perturbation!r} fits no layer; {row}, for example: {why}. A layer can be skipped if it "
        "returns one tensor of the shape and type of the one it gets; view='block' may have some."
    )
