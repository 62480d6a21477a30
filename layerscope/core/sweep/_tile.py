"""A tile of a sweep: some consecutive batches × some parts of adjacent rows.

Whoever has a probe computes it, in this process or in another; it knows nothing of what is
recorded, of sums, or of who is at what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from layerscope.core.batches import Batch
from layerscope.core.metrics import NOT_FINITE, Scores
from layerscope.core.probe import Cell, Probe, Question, Seen
from layerscope.core.reuse import Group
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._sums import PartBuilder, PartResult

__all__ = ["MOST_TOGETHER", "Part", "TileHooks", "batches_together", "compute_tile"]

MOST_TOGETHER = 8
"""Batches that are remembered together: with more, a cell's weights cost no more to speak of."""


@dataclass
class Part:
    """Cells that are computed and recorded together, by the modules they change."""

    groups: list[tuple[Group, list[Cell]]]

    @property
    def keys(self) -> list[str]:
        """Keys of its cells."""
        return [cell.key for _, cells in self.groups for cell in cells]

    def only(self, keys: Collection[str]) -> Part:
        """Leave out all other cells, and modules that no cell changes then."""
        kept = [(group, [c for c in cells if c.key in keys]) for group, cells in self.groups]
        return Part([(group, cells) for group, cells in kept if cells])


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class TileHooks:
    """Calls that whoever wants a tile gets along the way.

    Attributes
    ----------
    before_cell : callable
        Called before every cell; what it raises stops the tile.
    claim : callable
        From the index of a batch and the number of a part to a context in which these are
        computed, with False where they are not to be.
    """

    before_cell: Callable[[], object] = _nothing
    claim: Callable[[int, int], AbstractContextManager[bool]] = lambda _, __: nullcontext(True)


def compute_tile(
    plan: Plan,
    probe: Probe,
    batches: Iterable[tuple[int, Batch]],
    parts: Mapping[int, Part],
    done: Callable[[int, int, PartResult], object],
    hooks: TileHooks | None = None,
) -> None:
    """Compute what some parts give on some batches.

    A cell's weights are made, and put in, once for as many batches as can be remembered together.

    Parameters
    ----------
    plan : Plan
    probe : Probe
        The lent network, fitted to the first batch of all.
    batches : iterable of (int, batch)
        Consecutive ones, by index.
    parts : mapping of int to Part
        In execution order, by any number; every cell of them is computed.
    done : callable
        Called with index, number and result as soon as a part is through with a batch, or with
        those that are computed together with it, within the claim.
    hooks : TileHooks, optional
    """
    left = iter(batches)
    while (first := next(left, None)) is not None:
        _Wave(plan, probe, first, left, parts, hooks or TileHooks()).compute(done)


def batches_together(plan: Plan) -> int:
    """Say how many batches to hand to `compute_tile` at once.

    One where a cell may be settled by any of them, or where the weights of all cells are kept, so
    that nothing is gained by making others wait.
    """
    if plan.rule is not None:
        return 1
    return min(MOST_TOGETHER, len(plan.subject.data.lengths)) if plan.tensors.outgrown else 1


@dataclass
class _Batch:
    """A batch that the trained network has seen, and the groups that wait to be asked about."""

    index: int
    batch: Batch
    seen: Seen
    baseline: Scores
    waiting: list[Group]


class _Wave:
    """Batches of a tile that are remembered together."""

    def __init__(
        self,
        plan: Plan,
        probe: Probe,
        first: tuple[int, Batch],
        left: Iterator[tuple[int, Batch]],
        parts: Mapping[int, Part],
        hooks: TileHooks,
    ) -> None:
        self._plan, self._probe, self._hooks, self._parts = plan, probe, hooks, parts
        self._metrics = [*plan.subject.metrics, NOT_FINITE]
        self._batches = [self._see(*first)]
        for index, batch in islice(left, self._room()):
            probe.keep(self._batches[-1].seen)
            self._batches.append(self._see(index, batch))
        if len(self._batches) > 1:
            probe.keep(self._batches[-1].seen)

    def compute(self, done: Callable[[int, int, PartResult], object]) -> None:
        """Ask about the cells of every part, and hand out what it gave on each of the batches."""
        for number, part in self._parts.items():
            with ExitStack() as claims:
                claim = self._hooks.claim
                mine = [b for b in self._batches if claims.enter_context(claim(b.index, number))]
                for index, result in self._results(part.groups, mine):
                    done(index, number, result)

    def _see(self, index: int, batch: Batch) -> _Batch:
        # In this order they are asked about, and what a question needs is remembered until then.
        waiting = [group for part in self._parts.values() for group, _ in part.groups]
        seen = self._probe.see(index, batch, waiting)
        baseline = seen.score(self._metrics, seen.reference)
        self._probe.let_go(seen)
        return _Batch(index, batch, seen, baseline, waiting)

    def _room(self) -> int:
        """Say how many more batches like the first can be remembered beside it."""
        first = self._batches[0]
        if len(self._probe.recorder.remembered) < len(first.waiting):
            return 0  # not even all that is wanted of one
        return self._probe.fits(first.seen, MOST_TOGETHER) - 1

    def _results(
        self, groups: Sequence[tuple[Group, list[Cell]]], mine: Sequence[_Batch]
    ) -> list[tuple[int, PartResult]]:
        builders = [PartBuilder(each.baseline, self._plan.each) for each in mine]
        for group, cells in groups:
            for each in mine:
                self._probe.see_again(each.seen, each.batch)
                self._probe.remember(each.seen, each.waiting)
            for cell in cells if mine else ():
                answers = self._answers(cell, group, mine)
                for builder, answer in zip(builders, answers, strict=True):
                    builder.add(cell.key, answer)
            for each in self._batches:
                each.waiting.remove(group)
                self._probe.see_again(each.seen, each.batch)
                self._probe.forget(group)
        self._probe.confirm()
        return [(b.index, builder.finish()) for b, builder in zip(mine, builders, strict=True)]

    def _answers(self, cell: Cell, group: Group, mine: Sequence[_Batch]) -> list[Scores | None]:
        """Score one cell on every batch; None where it changes nothing."""
        found: list[Scores | None] = []

        def tell(seen: Seen, outputs: Any) -> None:
            found.append(seen.score(self._metrics, outputs))
            if len(found) < len(mine):
                self._hooks.before_cell()

        self._hooks.before_cell()
        label = f"{cell.layer.name} under {cell.perturbation.name}"
        question = Question(group, partial(self._plan.tensors.of, cell), label)
        self._probe.ask_each([(each.seen, each.batch) for each in mine], question, tell)
        return found or [None for _ in mine]
