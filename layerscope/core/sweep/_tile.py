"""A tile of a sweep: some consecutive batches × some parts of adjacent rows.

Whoever has a probe computes it, in this process or in another; it knows nothing of what is
recorded, of sums, or of who is at what.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from layerscope.core.batches import Batch
from layerscope.core.metrics import NOT_FINITE, Scores
from layerscope.core.probe import Cell, Probe, Question
from layerscope.core.reuse import Group
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._sums import PartBuilder, PartResult

__all__ = ["Part", "TileHooks", "compute_tile"]


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
        Called with index, number and result as soon as a part is through with a batch, within
        the claim.
    hooks : TileHooks, optional
    """
    for index, batch in batches:
        _Tile(plan, probe, index, batch, parts, hooks or TileHooks()).compute(done)


class _Tile:
    """One batch of a tile."""

    def __init__(
        self,
        plan: Plan,
        probe: Probe,
        index: int,
        batch: Batch,
        parts: Mapping[int, Part],
        hooks: TileHooks,
    ) -> None:
        self._plan, self._probe, self._hooks = plan, probe, hooks
        self._index, self._parts = index, parts
        # In this order they are asked about, and what a question needs is remembered until then.
        self._waiting = [group for part in parts.values() for group, _ in part.groups]
        self._seen = probe.see(index, batch, self._waiting)
        self._metrics = [*plan.subject.metrics, NOT_FINITE]
        self._baseline = self._score(self._seen.reference)
        probe.let_go(self._seen)

    def compute(self, done: Callable[[int, int, PartResult], object]) -> None:
        for number, part in self._parts.items():
            with self._hooks.claim(self._index, number) as mine:
                if mine:
                    done(self._index, number, self._result(part.groups))
                else:
                    self._pass_over(part.groups)

    def _result(self, groups: Sequence[tuple[Group, list[Cell]]]) -> PartResult:
        builder = PartBuilder(self._baseline, self._plan.each)
        for group, cells in groups:
            self._probe.remember(self._seen, self._waiting)
            self._waiting.remove(group)
            for cell in cells:
                builder.add(cell.key, self._answer(cell, group))
            self._probe.forget(group)
        self._probe.confirm()
        return builder.finish()

    def _pass_over(self, groups: Sequence[tuple[Group, list[Cell]]]) -> None:
        for group, _ in groups:
            self._waiting.remove(group)
            self._probe.forget(group)

    def _answer(self, cell: Cell, group: Group) -> Scores | None:
        """Score one cell; None if it changes nothing."""
        self._hooks.before_cell()
        label = f"{cell.layer.name} under {cell.perturbation.name}"
        question = Question(group, partial(self._plan.tensors.of, cell), label)
        outputs = self._probe.ask(self._seen, question, later=True)
        return None if outputs is None else self._score(outputs)

    def _score(self, outputs: Any) -> Scores:
        return self._seen.score(self._metrics, outputs)
