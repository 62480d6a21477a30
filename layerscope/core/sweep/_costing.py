"""Costs of the pieces of a sweep: what the plan tells of, and tasks of workers are cut by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from layerscope.base.tensors import named_tensors
from layerscope.core.layers import Layer
from layerscope.core.probe import KEPT_BYTES, BatchCosts, Cell, Probe, time_batch
from layerscope.core.reuse import Group
from layerscope.core.sweep._making import time_making
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._tile import MOST_TOGETHER
from layerscope.core.sweep._tiles import Costs

__all__ = ["Costing", "costs_here"]

_BRIEF_BYTES = 32 * 2**20
"""Tasks are cut by what weights of this size take, for no worker to wait for a larger row's."""


class Costing:
    """Prices of passes and of weights, put together for the groups of a sweep.

    Parameters
    ----------
    plan : Plan
    groups : mapping of Group to sequence of Cell
        In execution order.
    batch : BatchCosts
        Of the first batch.
    room : int
        Batches that can be remembered together.
    batches : int
        How many work is left on.
    shares : sequence of float, optional
        By group, how much of it is left; by default all.
    most_bytes : float, optional
        Weights of a row larger than this are not made to see how long that takes.

    Attributes
    ----------
    sizes : dict of str to int
        Bytes of every tensor.
    every, cells : list of Cell
        All of them, and those of which something is left.
    making : Making
    kept : set of str
        Keys of cells whose weights are kept from one batch to the next.
    together : int
        Batches that the other cells' weights are made for once.
    """

    def __init__(
        self,
        plan: Plan,
        groups: Mapping[Group, Sequence[Cell]],
        batch: BatchCosts,
        room: int,
        batches: int,
        shares: Sequence[float] | None = None,
        *,
        most_bytes: float = float("inf"),
    ) -> None:
        self._plan, self._groups, self._batch = plan, groups, batch
        self._shares = [1.0] * len(groups) if shares is None else shares
        tensors = named_tensors(plan.subject.model)
        self.sizes = {name: t.numel() * t.element_size() for name, t in tensors.items()}
        self.every = [cell for cells in groups.values() for cell in cells]
        self.cells = [cell for (_, cells), share in self.shared() if share for cell in cells]
        self.making = time_making(plan, self.every, self.bytes_of, most_bytes)
        self.kept = self._fitting([*self.tried, *self.cells])
        outgrown = any(cell.key not in self.kept for cell in self.cells)
        alone = plan.rule is not None or not outgrown or batch.passes.recordings > 1
        self.together = 1 if alone else max(1, min(room, batches))

    def shared(self) -> Iterator[tuple[tuple[Group, Sequence[Cell]], float]]:
        """Yield each group with its cells, and how much of it is left."""
        return zip(self._groups.items(), self._shares, strict=True)

    @cached_property
    def tried(self) -> list[Cell]:
        """Cells that are made beforehand: to measure how far they are, or to find what is wrong."""
        known = {cell.key for cell in self.every}
        drawn = [cell for cell in self._plan.grid.cells() if cell.perturbation.redraws]
        found = {cell.key: cell for cell in (*drawn, *self._plan.grid.samples())}
        return [cell for key, cell in found.items() if key in known]

    def bytes_of(self, cell: Cell) -> int:
        """Count the bytes of the weights of a cell's row."""
        return self.row_bytes(cell.layer)

    def row_bytes(self, row: Layer) -> int:
        """Count the bytes of the weights of a row."""
        return sum(self.sizes[name] for name in row.tensors)

    def stays(self, cell: Cell) -> bool:
        """Recognise a cell that puts the trained weights back, of which no pass is run."""
        kind, last = cell.perturbation, self._plan.subject.series.last
        return kind.info.resets and cell.epoch == last and not kind.routes

    def made(self, cells: Iterable[Cell]) -> float:
        """Tell how long it takes to make the weights of cells, when it is known where from."""
        again = self.making.again
        return sum(again[cell.perturbation.name].at(self.bytes_of(cell)) for cell in cells)

    def costs(self, setup: float) -> Costs:
        """Cut the work into what is done of each group, batch by batch.

        Parameters
        ----------
        setup : float
            Seconds that a worker takes to open the sweep.
        """
        passes, scoring = self._batch.passes, self._batch.scoring
        return Costs(
            parts=[share * self._asked(group, cells) for (group, cells), share in self.shared()],
            recording=passes.recordings * passes.whole.seconds + scoring,
            weights=[
                self.made(cell for cell in cells if share and cell.key not in self.kept)
                for (_, cells), share in self.shared()
            ],
            together=self.together,
            setup=setup + self.made(cell for cell in self.cells if cell.key in self.kept),
        )

    def _asked(self, group: Group, cells: Sequence[Cell]) -> float:
        """Tell how long all cells of a group take on a batch, but for making their weights."""
        each = self._batch.passes.groups[group].seconds + self._batch.scoring + self._batch.asking
        run = [cell for cell in cells if not self.stays(cell)]
        return len(run) * each + self.making.swap * sum(map(self.bytes_of, run))

    def _fitting(self, cells: Iterable[Cell]) -> set[str]:
        """Find the cells whose weights are kept from one batch to the next."""
        left, found = KEPT_BYTES, set[str]()
        for cell in cells:
            size = 0 if self.stays(cell) else self.bytes_of(cell)
            if cell.key not in found and size <= left:
                left -= size
                found.add(cell.key)
        return found


def costs_here(plan: Plan, probe: Probe, groups: Mapping[Group, Sequence[Cell]]) -> Costs:
    """Measure what tasks of a sweep are cut by, in this process.

    Parameters
    ----------
    plan : Plan
    probe : Probe
        Fitted; afterwards it remembers nothing.
    groups : mapping of Group to sequence of Cell
        In execution order.
    """
    batch = time_batch(probe, list(groups))
    room = probe.room(batch.passes.kept + batch.reference, MOST_TOGETHER)
    batches = len(plan.subject.data.lengths)
    return Costing(plan, groups, batch, room, batches, most_bytes=_BRIEF_BYTES).costs(setup=0.0)
