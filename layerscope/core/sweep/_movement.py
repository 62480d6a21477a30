"""How far the rows of a sweep moved, from the first checkpoint that was recorded."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from layerscope.base import progress
from layerscope.base.tensors import owner_name
from layerscope.core import layers
from layerscope.core.checkpoints import COUNTER, Trail, require_finite
from layerscope.core.layers import Layer
from layerscope.core.probe import Cell
from layerscope.core.sweep._distances import Displacement, displacements
from layerscope.core.sweep._plan import Plan

__all__ = ["draw_distances", "moved_rows", "row_distances", "values_of", "watched_epochs"]


Distances = dict[tuple[str, int], dict[str, float]]


def row_distances(plan: Plan, show_progress: bool = False) -> tuple[Distances, dict[str, Trail]]:
    """Measure how far every row moved at every epoch, reading one leaf at a time, and once.

    Leaves that no row holds are not read.

    Returns
    -------
    distances : dict
        By row and epoch, in every norm.
    trails : dict of Trail
        What was seen of every tensor of these leaves, by its name, at the first epoch recorded,
        those of the sweep and the last.

    Raises
    ------
    CheckpointError
        If a checkpoint holds NaN or infinity.
    """
    series, grid = plan.subject.series, plan.grid
    found: dict[tuple[str, int], Displacement] = {}
    trails: dict[str, Trail] = {}
    epochs = watched_epochs(plan)
    swept = {name for row in grid.rows for name in row.members}
    leaves = [leaf for leaf in layers.find(plan.subject.model) if leaf.name in swept]
    total = len(leaves) * len(epochs)
    with progress.bar(total, "read checkpoints", "layer", show=show_progress) as advance:
        for leaf in leaves:
            start = series.read(series.first, leaf.tensors)
            holders = plan.tensors.holders(leaf.parameters)
            if series.epochs:  # the weights of a network alone are compared with nothing
                trails |= {name: Trail(name) for name in leaf.tensors}
            for epoch in epochs:
                now = start if epoch == series.first else series.read(epoch, leaf.tensors)
                if epoch in (*grid.epochs, series.last):
                    require_finite(now, series.where(epoch))
                parameters = {name: start[name] for name in leaf.parameters}
                still = epoch == series.first
                each = _unmoved(parameters) if still else displacements(now, parameters, holders)
                found |= {(name, epoch): moved for name, moved in each.items()}
                found[leaf.name, epoch] = Displacement.total(each.values())
                for name in trails.keys() & now.keys():
                    trails[name].add(now[name], start[name])
                del now  # before the next is read
                advance(1)
            for name in trails.keys() & set(leaf.tensors):
                trails[name].finish()
    distances = {
        (row.name, epoch): Displacement.total(
            found[part, epoch] for part in _parts(plan, row)
        ).norms()
        for row in grid.rows
        for epoch in grid.epochs
    }
    return distances, trails


def watched_epochs(plan: Plan) -> list[int]:
    """List the epochs that a sweep reads: the first recorded, its own and the last."""
    series = plan.subject.series
    return sorted({series.first, *plan.grid.epochs, series.last})


def _parts(plan: Plan, row: Layer) -> tuple[str, ...]:
    """Name what a row is made of: leaves, or where it may hold parts of them, tensors."""
    if plan.view == "tensor":
        return row.parameters
    # A row of buffers alone has no parameters that could have moved.
    return row.members if row.parameters else ()


def _unmoved(parameters: Mapping[str, Tensor]) -> dict[str, Displacement]:
    """Parameters where they started, which nothing has to be computed for."""
    return {name: Displacement(count=tensor.numel()) for name, tensor in parameters.items()}


def draw_distances(plan: Plan) -> dict[str, dict[str, float]]:
    """Draw every cell that is drawn anew, and measure how far it is from the first checkpoint.

    Returns
    -------
    dict
        By key of the cell, in every norm.

    Raises
    ------
    LayerError, OptionError
        As `CellTensors.computed`.
    """
    cells = [cell for cell in plan.grid.cells() if cell.perturbation.redraws]
    return {cell.key: _drawn(plan, cell) for cell in cells if not plan.tensors.obstacle(cell)}


def _drawn(plan: Plan, cell: Cell) -> dict[str, float]:
    """Measure how far a layer that was drawn anew is from the first checkpoint."""
    series = plan.subject.series
    drawn = plan.tensors.all_of(cell)
    total = Displacement()
    # Module by module, so that little of the first checkpoint is held at a time.
    by_module: dict[str, list[str]] = {}
    for name in _beside(plan, cell.layer):
        by_module.setdefault(owner_name(name), []).append(name)
    for names in by_module.values():
        start = series.read(series.first, names)
        moved = displacements(drawn, start, plan.tensors.holders(names))
        total += Displacement.total(moved.values())
    return total.norms()


def _beside(plan: Plan, row: Layer) -> list[str]:
    """Parameters of a row; of one that is a single tensor also those beside it.

    A bias has the fan-in of the weight that it stands beside.
    """
    if plan.view != "tensor":
        return list(row.parameters)
    leaves = layers.find(plan.subject.model)
    return [name for leaf in leaves if leaf.name in row.members for name in leaf.parameters]


def moved_rows(plan: Plan, trails: Mapping[str, Trail]) -> dict[str, bool]:
    """Tell which rows hold other values at the last checkpoint than at the first.

    Empty with one checkpoint or none, which tells nothing. Batches that a layer counted are no
    values.
    """
    series = plan.subject.series
    first, last = series.first, series.last
    if first == last:
        return {}

    @cache
    def changed(name: str) -> bool:
        trail = trails.get(name)
        if trail is not None and trail.types[0] == trail.types[-1]:
            return trail.digests[0] != trail.digests[-1]
        (then,), (now,) = (series.read(epoch, [name]).values() for epoch in (first, last))
        return not torch.equal(then.to(now.dtype), now)

    return {row.name: any(map(changed, values_of(row))) for row in plan.grid.rows}


def values_of(row: Layer) -> list[str]:
    """Name the tensors of a row but for the batches that it counted."""
    return [name for name in row.tensors if not name.endswith(COUNTER)]
