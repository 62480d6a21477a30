"""The loop over batches, layers and cells.

Batches are the outer loop: each is decoded and moved once, what runs before a perturbed layer is
computed once per batch, and every cell has an estimate after the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from layerscope.base import devices, progress
from layerscope.base.undoing import Undo
from layerscope.core import layers
from layerscope.core.batches import Batch
from layerscope.core.layers import Layer
from layerscope.core.measures import Measured, measure_rows
from layerscope.core.probe import Cell, Probe
from layerscope.core.reuse import Group
from layerscope.core.sweep._doubts import Doubts, find_doubts
from layerscope.core.sweep._movement import draw_distance, moved_rows, row_distances
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._refusals import refused_cells
from layerscope.core.sweep._store import Parts
from layerscope.core.sweep._sums import PartResult, Sums, largest_weight, metric_of
from layerscope.core.sweep._tile import Part, TileHooks, compute_tile
from layerscope.errors import LayerscopeError
from layerscope.results import FULL_MODEL

__all__ = ["FinishedElsewhere", "SweepState", "by_group", "measure", "part_name"]

_SAVE_EVERY_S = 30.0
_SHOW_EVERY_S = 0.5
_WAIT_S = 0.2
_MOST_PARTS = 8

Show = Callable[["SweepState"], object]


class FinishedElsewhere(Exception):  # noqa: N818 - not an error
    """Another process has finished the sweep."""


@dataclass
class SweepState:
    """A sweep as far as it is known.

    Attributes
    ----------
    rows : list of Layer
        In execution order, the whole network last.
    cells : list of Cell
        Those that can be computed.
    refused : dict
        By row and perturbation, why there is no such cell.
    sums : Sums
    distances : dict
        By row and epoch.
    draw_distances : dict
        By key of the cell, for layers that are drawn anew.
    origins : dict
        By row, where re-randomised values are drawn from.
    moved : dict
        By row, whether it holds other values than at the first checkpoint; empty if there is one.
    doubts : Doubts
        What was found against the checkpoints.
    spans : dict
        By row but that of the whole network, its first block and its number of blocks.
    about : dict
        How much was reused, for the attributes.
    measured : Measured
        Measures of one pass.
    """

    rows: list[Layer]
    cells: list[Cell]
    refused: dict[tuple[str, str], str]
    sums: Sums
    distances: dict[tuple[str, int], dict[str, float]]
    draw_distances: dict[str, dict[str, float]]
    origins: dict[str, str]
    moved: dict[str, bool]
    doubts: Doubts
    spans: dict[str, tuple[int, int]]
    about: dict[str, Any] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)


def measure(
    plan: Plan,
    parts: Parts | None = None,
    show: Show | None = None,
    save: Show | None = None,
    show_progress: bool = True,
    between: Callable[[], object] | None = None,
) -> SweepState:
    """Evaluate every cell of a plan.

    Parameters
    ----------
    plan : Plan
    parts : Parts, optional
        Where to keep what is done, and find what was done before.
    show, save : callable, optional
        Called at times with what is known so far; `save` also when the sweep is stopped.
    show_progress : bool
    between : callable, optional
        Called before every cell; what it raises stops the sweep.

    Raises
    ------
    LayerscopeError
        If the network does not repeat itself on the same batch.
    """
    # Everything that may be wrong with the input is found before the first cell.
    plan.check()
    distances, trails = row_distances(plan, show_progress)
    moved, doubts = moved_rows(plan, trails), find_doubts(plan, trails)
    del trails
    origins = {row.name: plan.tensors.fresh.drawn_from(row) for row in plan.grid.rows}
    cells = list(plan.grid.cells())
    redrawn = [c for c in cells if c.perturbation.redraws and not plan.tensors.obstacle(c)]
    drawn = {c.key: draw_distance(plan, c) for c in redrawn}
    with Undo() as undo, undo:
        undo.enter(devices.NoGradients())
        probe = undo.enter(Probe(plan.subject))
        most = _largest_weight(plan, *probe.fit())
        rows = probe.in_order(plan.grid.rows)
        refused = refused_cells(probe, plan.tensors, cells)
        cells = [c for c in cells if (c.layer.name, c.perturbation.name) not in refused]
        work = _Work(plan, probe, by_group(plan, rows, cells), parts, between, most)
        blocks = probe.in_order(layers.blocks(plan.subject.model, norms=plan.norms))
        spans = layers.spans([row for row in rows if row.name != FULL_MODEL], blocks)
        known = distances, drawn, origins, moved, doubts, spans
        state = SweepState(rows, cells, refused, work.sums, *known)
        if plan.measures:
            state.measured = measure_rows(probe, rows, plan.measures, show_progress)

        def report(how: Show | None) -> None:
            if how is not None:
                state.about = _about(probe, parts)
                how(state)

        work.run(lambda: report(show), lambda: report(save), show_progress)
        state.about = _about(probe, parts)
    return state


def _largest_weight(plan: Plan, outputs: Tensor, targets: Any) -> float:
    heaviest, metric = plan.subject.data.heaviest, metric_of(plan.rule, plan.subject.metrics)
    return largest_weight(metric, outputs, targets, heaviest) if metric else 1.0


class _Work:
    """The parts of every batch: those to be computed, and the sums of those that are done."""

    def __init__(
        self,
        plan: Plan,
        probe: Probe,
        groups: Sequence[tuple[Group, list[Cell]]],
        store: Parts | None,
        between: Callable[[], object] | None,
        most: float,
    ) -> None:
        self._plan, self._probe, self._store = plan, probe, store
        self._between = between or (lambda: None)
        self._data = plan.subject.data
        whole = [Part(list(groups))]
        self._parts = whole if store is None else _cut(groups, self._data.lengths)
        self._batches = len(self._data.lengths)
        keys = [part.keys for part in self._parts]
        self.sums = Sums(self._plan.subject.metrics, keys, self._data.count, plan.rule, most)

    def run(self, show: Callable[[], None], save: Callable[[], None], bar: bool) -> None:
        """Add every part of every batch."""
        shown = saved = time.monotonic()
        total = self._data.count * sum(len(part.keys) for part in self._parts)
        with progress.bar(total, "sweep", "example", show=bar) as self._advance:
            try:
                while not self._finished():
                    self._add_recorded()
                    if not self._any_free():
                        # Other processes are at everything that is left.
                        time.sleep(_WAIT_S)
                        continue
                    for index, batch in enumerate(self._data):
                        self._at(index, batch)
                        now = time.monotonic()
                        if now - shown > _SHOW_EVERY_S or index == 0:
                            show()
                            shown = now
                        if now - saved > _SAVE_EVERY_S:
                            save()
                            saved = now
                        if self._finished():
                            break
            except BaseException as stop:
                if self._store is not None and not isinstance(stop, FinishedElsewhere):
                    with suppress(LayerscopeError):  # a full disk, for example
                        save()
                    stop.add_note(
                        f"{len(self._store)} finished parts are safe in "
                        f"{self._store.store.folder}; the same call goes on from there."
                    )
                raise

    def _finished(self) -> bool:
        return all(done == self._batches for done in self.sums.next)

    def _any_free(self) -> bool:
        """Check for a part that nobody is at."""
        if self._store is None:
            return True
        return any(
            self._wanted(part, next_, index) and self._store.free(part_name(index, part))
            for part, next_ in enumerate(self.sums.next)
            for index in range(next_, self._batches)
        )

    def _add_recorded(self) -> None:
        """Add what other processes, or this one before it was stopped, have recorded."""
        for part in range(len(self._parts)):
            while self.sums.next[part] < self._batches and self._add(part, self.sums.next[part]):
                pass

    def _add(self, part: int, index: int) -> bool:
        """Add a part's next batch if it is known already."""
        if not self.sums.active(part):
            self.sums.skip(part)
            return True
        arrays = self._store.read(part_name(index, part)) if self._store is not None else None
        if arrays is None:
            return False
        self._fold(part, PartResult.of(arrays, self._plan.subject.metrics))
        return True

    def _fold(self, part: int, found: PartResult) -> None:
        index = self.sums.next[part]
        settled = self.sums.add(part, found)
        left = sum(self._data.lengths[index + 1 :])
        self._advance(len(found.keys) * self._data.lengths[index] + len(settled) * left)

    def _at(self, index: int, batch: Batch) -> None:
        """Compute the parts of one batch that nobody has, and add those whose turn it is."""
        wanted = [
            part for part, next_ in enumerate(self.sums.next) if self._wanted(part, next_, index)
        ]
        ready = [p for p in wanted if self.sums.next[p] != index or not self._add(p, index)]
        if ready:
            self._compute(index, batch, ready)

    def _wanted(self, part: int, next_: int, index: int) -> bool:
        # Which cells a later batch is needed for is only known once the earlier ones are added.
        if next_ > index or (next_ < index and self._plan.rule is not None):
            return False
        if next_ == index or self._store is None:
            return next_ == index
        return not self._store.has(part_name(index, part))

    def _compute(self, index: int, batch: Batch, ready: Sequence[int]) -> None:
        parts = {part: self._parts[part].only(set(self.sums.active(part))) for part in ready}

        def done(index: int, part: int, result: PartResult) -> None:
            self._record(part_name(index, part), result)
            if self.sums.next[part] == index:
                self._fold(part, result)

        hooks = TileHooks(self._before_cell, self._claimed)
        compute_tile(self._plan, self._probe, [(index, batch)], parts, done, hooks)

    def _before_cell(self) -> None:
        self._between()
        if self._store is not None:
            self._store.beat()

    def _record(self, name: str, result: PartResult) -> None:
        if self._store is None:
            return
        try:
            self._store.write(name, result.arrays())
        except LayerscopeError:
            # Its folder may be gone, since another process did the same and was done.
            if self._store.store.is_finished():
                raise FinishedElsewhere from None
            raise

    @contextmanager
    def _claimed(self, index: int, part: int) -> Iterator[bool]:
        if self._store is None:
            yield True
            return
        name = part_name(index, part)
        with self._store.claim(name) as mine:
            if self._store.store.is_finished():
                raise FinishedElsewhere
            # Another process may have finished it a moment ago.
            yield mine and not self._store.has(name)


def part_name(index: int, part: int) -> str:
    """Name what one part gave on one batch."""
    return f"batch-{index:06d}-part-{part}"


def _cut(groups: Sequence[tuple[Group, list[Cell]]], lengths: Sequence[int]) -> list[Part]:
    """Cut the cells into parts of about equal size; fewer where there are many batches."""
    count = max(1, min(len(groups), _MOST_PARTS, 128 // len(lengths)))
    share = sum(len(cells) for _, cells in groups) / count
    parts: list[Part] = [Part([])]
    done = 0
    for group, cells in groups:
        if done >= share * len(parts):
            parts.append(Part([]))
        parts[-1].groups.append((group, cells))
        done += len(cells)
    return parts


def by_group(
    plan: Plan, rows: Sequence[Layer], cells: Sequence[Cell]
) -> list[tuple[Group, list[Cell]]]:
    """Gather cells by the modules they change and pass over, in execution order."""
    by_row: dict[str, list[Cell]] = {row.name: [] for row in rows}
    for cell in cells:
        by_row[cell.layer.name].append(cell)
    gathered: dict[Group, list[Cell]] = {}
    for row in rows:
        for cell in by_row[row.name]:
            gathered.setdefault(plan.tensors.group([cell]), []).append(cell)
    return list(gathered.items())


def _about(probe: Probe, parts: Parts | None) -> dict[str, Any]:
    damaged = {"damaged_parts": parts.damaged} if parts is not None and parts.damaged else {}
    return {"reuse": probe.reuse()} | damaged
