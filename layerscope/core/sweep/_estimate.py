"""Estimates of what a sweep will take: counted where that can be, else measured on one batch.

Nothing is swept for it. The first batch runs once or twice through the network, module by module;
of every perturbation the weights of the smallest and of the largest row are made once; one layer is
read and compared with where it started.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core.measures import time_measures
from layerscope.core.perturb import no_values
from layerscope.core.probe import BatchCosts, Cell, Probe, time_batch
from layerscope.core.sweep._costing import Costing
from layerscope.core.sweep._loop import by_group
from layerscope.core.sweep._making import Line, swept_bytes, time_distances
from layerscope.core.sweep._movement import watched_epochs
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._recorded import Left, Recorded
from layerscope.core.sweep._refusals import refused_cells
from layerscope.core.sweep._tile import MOST_TOGETHER
from layerscope.core.sweep._tiles import Costs, Tiling, makespan, tiling
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["Estimate", "estimate"]

_DASK_S = 0.3
"""Seconds that xarray takes to import Dask, where there is one, with the first Dataset it makes."""

_SAVING_S = 0.5
"""Seconds that a folder takes besides: mostly writing the Dataset and reading it back, measured."""


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
    left : Left
        What is not done already.
    flops, plain_flops : float
        Floating-point operations of what is left, and of a plain pass for every cell.
    memory : dict of str to int
        Bytes by what they hold.
    read : dict of str to int
        Bytes of checkpoint files, by when they are read.
    before : float
        Seconds before the first cell, without measures.
    measures : float
        Seconds for measures of one pass.
    once : float
        Seconds for weights that are made once and kept.
    makings : int
        How often all other weights are made, in one process.
    costs : Costs
        Of what comes then, by groups of rows that change the same modules; for each batch of those
        that are left.
    done : float
        Share of the evaluations of a cell on a batch that are recorded already.
    saving : float
        Seconds for writing the Dataset to a folder.
    settles : bool
        Cells stop once they are settled, so that all this is the most that it can take.
    """

    cells: dict[str, int]
    refused: dict[tuple[str, str], str]
    rows: int
    lengths: list[int]
    left: Left
    flops: float
    plain_flops: float
    memory: dict[str, int]
    read: dict[str, int]
    before: float
    measures: float
    once: float
    makings: int
    costs: Costs
    done: float = 0.0
    saving: float = 0.0
    settles: bool = False

    def seconds(self, workers: int = 1, *, apart: bool = False) -> float:
        """Tell how long it takes here, or with workers that are each like this process.

        Several are always processes of their own; one is with `apart`.
        """
        first = self.before + self.measures + _first_dataset() + self.saving
        costs, count = self.costs, self.left.batches
        if not count:
            return first
        if workers == 1 and not apart:
            each = costs.recording + sum(costs.parts)
            return first + self.once + self.left.span * each + self.makings * sum(costs.weights)
        work = makespan(costs, self.tiling(workers), count, workers) - costs.setup
        return first + costs.setup + self.left.span / count * work

    def tiling(self, workers: int) -> Tiling:
        """Find the cut into tasks for several workers."""
        return tiling(self.costs, max(self.left.batches, 1), workers)


def estimate(
    plan: Plan,
    spent: float = 0.0,
    recorded: Recorded | None = None,
    *,
    lent: Probe | None = None,
    opened: float | None = None,
    digests: bool = False,
    again: bool = False,
    kept: bool = False,
) -> Estimate:
    """Estimate what a sweep will take.

    Parameters
    ----------
    plan : Plan
    spent : float
        Seconds that opening the network, its checkpoints and the data took.
    recorded : Recorded, optional
        What is done already.
    lent : Probe, optional
        Where the network is lent already.
    opened : float, optional
        Seconds that lending and describing it took, as every worker does; by default as many as
        lending and running it once.
    digests : bool
        Checkpoints are read as a whole for their digests.
    again : bool
        The network is lent, and run over the first batch, once more beforehand.
    kept : bool
        There is a folder that the Dataset is written to.

    Raises
    ------
    CheckpointError, DataError, LayerError, LayerscopeError, OptionError
        As the sweep would before its first cell.
    """
    known = recorded or Recorded()
    with Undo() as undo, undo:
        undo.enter(devices.NoGradients())
        began = time.perf_counter()
        probe = lent or undo.enter(Probe(plan.subject))
        probe.fit()
        rows = probe.in_order(plan.grid.rows)
        wanted = list(plan.grid.cells())
        refused = refused_cells(probe, plan.tensors, wanted)
        cells = [c for c in wanted if (c.layer.name, c.perturbation.name) not in refused]
        ran = time.perf_counter() - began
        groups = by_group(plan, rows, cells)
        measures = time_measures(probe, rows, plan.measures) if plan.measures else 0.0
        batch = time_batch(probe, [group for group, _ in groups])
        room = probe.room(batch.passes.kept + batch.reference, MOST_TOGETHER)
    missing = known.missing(len(plan.subject.data.lengths), len(groups))
    left = Left.of(plan.subject.data.lengths, missing)
    costing = Costing(plan, dict(groups), batch, room, left.batches, left.shares)
    work = _Work(plan, costing, batch, left)
    opening = (ran if opened is None else opened) + ran
    beside = spent + ran + opening * again
    return Estimate(
        cells=Counter(cell.perturbation.name for cell in cells),
        refused=refused,
        rows=len(rows),
        lengths=plan.subject.data.lengths,
        left=left,
        memory=work.memory(),
        read={} if known.finished else work.bytes_read(digests=digests, lent=1 + again),
        before=spent if known.finished else beside + work.before(),
        measures=0.0 if known.finished else measures,
        once=work.once(),
        makings=work.makings,
        costs=costing.costs(opening),
        done=work.done(missing),
        saving=_SAVING_S if kept and not known.finished else 0.0,
        settles=plan.rule is not None,
        **work.flops(),
    )


def _first_dataset() -> float:
    """Tell how long the first Dataset of a process takes; all others are there at once."""
    missing = "dask.array" not in sys.modules and find_spec("dask") is not None
    return _DASK_S if missing else 0.0


class _Work:
    """The work of a sweep that is left, from what was counted and measured."""

    def __init__(self, plan: Plan, costing: Costing, batch: BatchCosts, left: Left) -> None:
        self._plan, self._priced, self._batch, self._left = plan, costing, batch, left
        self._stored = cache(plan.subject.series.stored_bytes)

    @property
    def makings(self) -> int:
        """How often weights that are not kept are made in this process."""
        # The first batch goes alone, so that there is an estimate soon.
        more = self._left.batches - 1
        return self._left.batches and 1 + -(-more // self._priced.together)

    def done(self, missing: Sequence[Sequence[int]]) -> float:
        """Share of the evaluations of a cell on a batch that need not be done."""
        count = len(self._plan.subject.data.lengths) * len(self._priced.every)
        sizes = [len(cells) for (_, cells), _ in self._priced.shared()]
        wanted = sum(size * len(each) for size, each in zip(sizes, missing, strict=True))
        return 1 - wanted / count if count else 0.0

    def once(self) -> float:
        """Tell how long it takes to make the weights that are kept, and were not made before."""
        kept = self._priced.kept - {cell.key for cell in self._priced.tried}
        return self._priced.made(cell for cell in self._priced.cells if cell.key in kept)

    def before(self) -> float:
        """Tell how long it takes until all that may be wrong is found: every row is tried."""
        tried, seen = 0.0, set[tuple[str, str]]()
        for cell in self._priced.tried:
            # By the time that all of it is tried, it is known where each of its rows comes from.
            at = cell.layer.name, cell.perturbation.name
            known = cell.layer.name == FULL_MODEL or at in seen
            lines = self._priced.making.again if known else self._priced.making.first
            tried += lines.get(cell.perturbation.name, Line()).at(self._priced.bytes_of(cell))
            seen.add(at)
        return tried + time_distances(self._plan, self._priced.sizes, self._redrawn())

    def _redrawn(self) -> int:
        """Bytes that are drawn to see how far they are from the start."""
        return sum(
            self._priced.bytes_of(cell) for cell in self._priced.every if cell.perturbation.redraws
        )

    def flops(self) -> dict[str, float]:
        """Count the operations of the sweep, and those of a plain pass for every cell."""
        passes, span = self._batch.passes, self._left.span
        asked = {
            group: share * sum(not self._priced.stays(cell) for cell in cells)
            for (group, cells), share in self._priced.shared()
        }
        replayed = sum(passes.groups[group].flops * count for group, count in asked.items())
        recorded = passes.recordings * passes.whole.flops
        return {
            "flops": span * (recorded + replayed),
            "plain_flops": span * passes.whole.flops * (1 + sum(asked.values())),
        }

    def memory(self) -> dict[str, int]:
        """Count the bytes that are held at a time."""
        rows = [row for row in self._plan.grid.rows if row.name != FULL_MODEL]
        found = {
            "network": sum(self._priced.sizes.values()),
            "activations kept": self._priced.together * self._batch.passes.kept,
            "weights of a row": max(map(self._priced.row_bytes, rows), default=0),
        }
        if any(cell.layer.name == FULL_MODEL for cell in self._priced.every):
            found["second network"] = found["network"]
        return found

    def bytes_read(self, *, digests: bool, lent: int) -> dict[str, int]:
        """Count what is read of files before the first cell, and for the cells.

        Parameters
        ----------
        digests : bool
            They are read as a whole, once.
        lent : int
            How often the network is lent.
        """
        series = self._plan.subject.series
        hashed = sum(map(self._stored, series.epochs)) if digests else 0
        weights = lent * sum(self._priced.sizes.values()) * self._on_disk(series.last)
        tried = sum(map(self._reads, self._priced.tried))
        swept = swept_bytes(self._plan, self._priced.sizes)
        distances = sum(map(self._on_disk, watched_epochs(self._plan))) * swept
        distances += self._on_disk(series.first) * self._redrawn()
        known = {cell.key for cell in self._priced.tried}
        cells = sum(
            self._reads(cell)
            * (cell.key not in known if cell.key in self._priced.kept else self.makings)
            for cell in self._priced.cells
        )
        before = hashed + weights + tried + distances
        return {"before the first cell": before, "for the cells": cells}

    def _on_disk(self, epoch: int) -> bool:
        return self._stored(epoch) > 0

    def _reads(self, cell: Cell) -> int:
        """Count the bytes that are read to make the weights of a cell once."""
        if cell.perturbation.apply is no_values:
            return 0
        sources = [self._plan.subject.series.last, *([cell.epoch] * (cell.epoch != NO_EPOCH))]
        return self._priced.bytes_of(cell) * sum(map(self._on_disk, sources))
