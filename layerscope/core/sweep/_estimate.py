"""Estimates of what a sweep will take: counted where that can be, else measured on one batch.

Nothing is swept for it. The first batch runs once or twice through the network, module by module;
of every perturbation the weights of the smallest and of the largest row are made once; one layer is
read and compared with where it started.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from layerscope.base import devices
from layerscope.base.tensors import named_tensors
from layerscope.base.undoing import Undo
from layerscope.core.layers import Layer
from layerscope.core.perturb import no_values
from layerscope.core.probe import KEPT_BYTES, BatchCosts, Cell, Probe, time_batch
from layerscope.core.reuse import Group
from layerscope.core.sweep._loop import by_group
from layerscope.core.sweep._making import Line, swept_bytes, time_distances, time_making
from layerscope.core.sweep._movement import watched_epochs
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._refusals import refused_cells
from layerscope.core.sweep._tiles import Costs, Tiling, makespan, tiling
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["Estimate", "estimate"]

_DATASET_S = 0.3
"""Seconds that putting the Dataset together takes, measured; they hardly depend on its size."""


@dataclass(frozen=True)
class Estimate:
    """Cells of a sweep, and what they will take.

    Attributes
    ----------
    cells : dict of str to int
        By perturbation, those that can be computed.
    refused : dict
        By row and perturbation, why there is no such cell.
    rows : int
    lengths : list of int
        Examples in each batch.
    flops, plain_flops : float
        Floating-point operations of the sweep, and of a plain pass for every cell.
    memory : dict of str to int
        Bytes by what they hold.
    read : dict of str to int
        Bytes of checkpoints, by when they are read.
    before : float
        Seconds before the first cell.
    once : float
        Seconds for weights that are made once and kept.
    costs : Costs
        Of what comes then, by groups of rows that change the same modules.
    settles : bool
        Cells stop once they are settled, so that all this is the most that it can take.
    """

    cells: dict[str, int]
    refused: dict[tuple[str, str], str]
    rows: int
    lengths: list[int]
    flops: float
    plain_flops: float
    memory: dict[str, int]
    read: dict[str, int]
    before: float
    once: float
    costs: Costs
    settles: bool = False

    @property
    def batches(self) -> float:
        """Number of batches of full size: the last may be smaller."""
        return sum(self.lengths) / self.lengths[0]

    def seconds(self, workers: int = 1) -> float:
        """Tell how long it takes here, or with several workers that are each like this process."""
        count = len(self.lengths)
        share = self.batches / count
        if workers == 1:
            work = self.costs.serial(count) - self.costs.setup
            return self.before + self.once + share * work + _DATASET_S
        taken = makespan(self.costs, self.tiling(workers), count, workers)
        work = taken - self.costs.setup
        return self.before + self.costs.setup + share * work + _DATASET_S

    def tiling(self, workers: int) -> Tiling:
        """Find the cut into tasks for several workers."""
        return tiling(self.costs, len(self.lengths), workers)


def estimate(plan: Plan, spent: float = 0.0) -> Estimate:
    """Estimate what a sweep will take.

    Parameters
    ----------
    plan : Plan
    spent : float
        Seconds that opening the network, its checkpoints and the data took.

    Raises
    ------
    CheckpointError, DataError, LayerError, LayerscopeError, OptionError
        As the sweep would before its first cell.
    """
    sizes = {
        name: t.numel() * t.element_size() for name, t in named_tensors(plan.subject.model).items()
    }
    with Undo() as undo, undo:
        undo.enter(devices.NoGradients())
        began = time.perf_counter()
        probe = undo.enter(Probe(plan.subject))
        probe.fit()
        rows = probe.in_order(plan.grid.rows)
        wanted = list(plan.grid.cells())
        refused = refused_cells(probe, plan.tensors, wanted)
        cells = [c for c in wanted if (c.layer.name, c.perturbation.name) not in refused]
        lent = time.perf_counter() - began
        groups = by_group(plan, rows, cells)
        batch = time_batch(probe, [group for group, _ in groups])
    work = _Work(plan, sizes, dict(groups), batch)
    return Estimate(
        cells=Counter(cell.perturbation.name for cell in cells),
        refused=refused,
        rows=len(rows),
        lengths=plan.subject.data.lengths,
        memory=work.memory(),
        read=work.bytes_read(),
        before=spent + lent + work.before(),
        once=work.once(),
        costs=work.costs(lent),
        settles=plan.rule is not None,
        **work.flops(),
    )


class _Work:
    """The work of a sweep, from what was counted and measured."""

    def __init__(
        self,
        plan: Plan,
        sizes: Mapping[str, int],
        groups: Mapping[Group, Sequence[Cell]],
        batch: BatchCosts,
    ) -> None:
        self._plan, self._sizes, self._groups, self._batch = plan, sizes, groups, batch
        self._cells = [cell for cells in groups.values() for cell in cells]
        self._making = time_making(plan, self._cells, self._bytes)
        data = plan.subject.data
        self._batches = sum(data.lengths) / data.lengths[0]
        self._kept = self._fitting(self._cells)

    def _bytes(self, cell: Cell) -> int:
        return self._row_bytes(cell.layer)

    def _row_bytes(self, row: Layer) -> int:
        return sum(self._sizes[name] for name in row.tensors)

    def _fitting(self, cells: Iterable[Cell]) -> set[str]:
        """Find the cells whose weights are kept from one batch to the next."""
        left, found = KEPT_BYTES, set()
        for cell in cells:
            size = 0 if self._stays(cell) else self._bytes(cell)
            if size <= left:
                left -= size
                found.add(cell.key)
        return found

    def _stays(self, cell: Cell) -> bool:
        """Recognise a cell that puts the trained weights back, of which no pass is run."""
        kind, last = cell.perturbation, self._plan.subject.series.last
        return kind.info.resets and cell.epoch == last and not kind.routes

    def costs(self, setup: float) -> Costs:
        """Cut the work into what is done of each group, batch by batch."""
        passes, scoring = self._batch.passes, self._batch.scoring
        each = scoring + self._batch.asking
        return Costs(
            parts=[
                sum(
                    passes.groups[group].seconds + each + self._making.swap * self._bytes(cell)
                    for cell in cells
                    if not self._stays(cell)
                )
                for group, cells in self._groups.items()
            ],
            recording=passes.recordings * passes.whole.seconds + scoring,
            weights=[
                sum(self._made(cell) for cell in cells if cell.key not in self._kept)
                for cells in self._groups.values()
            ],
            setup=setup + self.once(),
        )

    def once(self) -> float:
        """Tell how long it takes to make the weights that are kept."""
        return sum(self._made(cell) for cell in self._cells if cell.key in self._kept)

    def _made(self, cell: Cell) -> float:
        return self._making.again[cell.perturbation.name].at(self._bytes(cell))

    def before(self) -> float:
        """Tell how long it takes until all that may be wrong is found: every row is tried."""
        tried = 0.0
        for cell in self._plan.grid.samples():
            # By the time that all of it is tried, it is known where each of its rows comes from.
            known = cell.layer.name == FULL_MODEL
            lines = self._making.again if known else self._making.first
            tried += lines.get(cell.perturbation.name, Line()).at(self._bytes(cell))
        return tried + time_distances(self._plan, self._sizes, self._redrawn())

    def _redrawn(self) -> int:
        """Bytes that are drawn to see how far they are from the start."""
        return sum(self._bytes(cell) for cell in self._cells if cell.perturbation.redraws)

    def flops(self) -> dict[str, float]:
        """Count the operations of the sweep, and those of a plain pass for every cell."""
        passes = self._batch.passes
        asked = {
            group: sum(not self._stays(cell) for cell in cells)
            for group, cells in self._groups.items()
        }
        replayed = sum(passes.groups[group].flops * count for group, count in asked.items())
        recorded = passes.recordings * passes.whole.flops
        return {
            "flops": self._batches * (recorded + replayed),
            "plain_flops": self._batches * passes.whole.flops * (1 + sum(asked.values())),
        }

    def memory(self) -> dict[str, int]:
        """Count the bytes that are held at a time."""
        rows = [row for row in self._plan.grid.rows if row.name != FULL_MODEL]
        found = {
            "network": sum(self._sizes.values()),
            "activations kept": self._batch.passes.kept,
            "weights of a row": max(map(self._row_bytes, rows), default=0),
        }
        if any(cell.layer.name == FULL_MODEL for cell in self._cells):
            found["second network"] = found["network"]
        return found

    def bytes_read(self) -> dict[str, int]:
        """Count what is read of checkpoints before the first cell, and for the cells."""
        lent = 0 if self._plan.subject.alone else sum(self._sizes.values())
        tried = sum(map(self._reads, self._plan.grid.samples()))
        swept = swept_bytes(self._plan, self._sizes)
        distances = len(watched_epochs(self._plan)) * swept + 2 * self._redrawn()
        times = len(self._plan.subject.data.lengths)
        cells = sum(
            self._reads(cell) * (1 if cell.key in self._kept else times) for cell in self._cells
        )
        return {"before the first cell": lent + tried + distances, "for the cells": cells}

    def _reads(self, cell: Cell) -> int:
        """Count the bytes that are read to make the weights of a cell once."""
        if cell.perturbation.apply is no_values:
            return 0
        return self._bytes(cell) * (1 if cell.epoch == NO_EPOCH else 2)
