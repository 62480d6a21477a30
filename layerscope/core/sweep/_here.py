"""Computing a sweep in this process, which may share the folder with others.

Batches are the outer loop: each is decoded and moved once, what runs before a perturbed layer is
computed once per batch, and every cell has an estimate after the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from layerscope.core.batches import Batch
from layerscope.core.probe import Probe
from layerscope.core.sweep._fragments import Fragment, Fragments, runs
from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._store import FinishedElsewhere
from layerscope.core.sweep._sums import PartResult
from layerscope.core.sweep._tile import Part, TileHooks, batches_together, compute_tile

__all__ = ["Here"]

_WAIT_S = 0.2
_MOST_AT_ONCE = 8


class Here:
    """Engine that computes with the network of this process.

    Parameters
    ----------
    plan : Plan
    probe : Probe
        Fitted.
    between : callable, optional
        Called before every cell.
    """

    def __init__(self, plan: Plan, probe: Probe, between: Callable[[], object] | None) -> None:
        self._plan, self._probe = plan, probe
        self._between = between or (lambda: None)

    def steps(self, fragments: Fragments) -> Iterator[None]:
        """Compute what is missing, batch by batch."""
        self._fragments = fragments
        self._cut = _cut(fragments.parts, fragments.batches, fragments.store is not None)
        while not fragments.finished():
            fragments.look()
            if not self._any_free():
                # Other processes are at everything that is left.
                time.sleep(_WAIT_S)
                continue
            batches = enumerate(self._plan.subject.data)
            while some := list(islice(batches, batches_together(self._plan))):
                self._at(some)
                yield
                if fragments.finished():
                    break

    def reuse(self) -> dict[str, Any]:
        """Say how much was reused, and what could not be, in plain values."""
        return self._probe.reuse()

    def _any_free(self) -> bool:
        """Check for a fragment that nobody is at."""
        store, batches = self._fragments.store, range(self._fragments.batches)
        free = (fragment for batch in batches for fragment in self._missing(batch))
        return any(store is None or store.free(fragment.name) for fragment in free)

    def _missing(self, batch: int) -> list[Fragment]:
        # Which cells a later batch is needed for is only known once the earlier ones are added.
        ahead = self._plan.rule is None
        missing, settled = self._fragments.free(batch, ahead=ahead), self._fragments.settled()
        return [
            Fragment(batch, *run)
            for parts in self._cut
            for run in runs([part for part in missing if part in parts], settled)
        ]

    def _at(self, batches: Sequence[tuple[int, Batch]]) -> None:
        """Compute what nobody has of some consecutive batches."""
        self._fragments.look()
        runs = [[(each.first, each.stop) for each in self._missing(i)] for i, _ in batches]
        if all(wanted == runs[0] for wanted in runs):
            self._compute(batches, runs[0])
            return
        for each, wanted in zip(batches, runs, strict=True):
            self._compute([each], wanted)

    def _compute(
        self, batches: Sequence[tuple[int, Batch]], wanted: Sequence[tuple[int, int]]
    ) -> None:
        parts = {at: self._fragments.of(*run) for at, run in enumerate(wanted)}

        def done(index: int, at: int, result: PartResult) -> None:
            self._fragments.record(Fragment(index, *wanted[at]), result)

        hooks = TileHooks(self._between, lambda i, at: self._claimed(Fragment(i, *wanted[at])))
        if parts:
            compute_tile(self._plan, self._probe, batches, parts, done, hooks)

    @contextmanager
    def _claimed(self, fragment: Fragment) -> Iterator[bool]:
        store = self._fragments.store
        if store is None:
            yield True
            return
        with store.claim(fragment.name) as mine:
            if store.store.is_finished():
                raise FinishedElsewhere
            # Another process may have finished it a moment ago.
            yield mine and not store.has(fragment.name)


def _cut(parts: Sequence[Part], batches: int, shared: bool) -> list[range]:
    """Cut the parts into runs of about equal numbers of cells; fewer where batches are many."""
    count = max(1, min(len(parts), _MOST_AT_ONCE, 128 // batches)) if shared else 1
    sizes = [len(part.keys) for part in parts]
    share, done = sum(sizes) / count, 0
    starts: list[int] = []
    for part, size in enumerate(sizes):
        if done >= share * len(starts):
            starts.append(part)
        done += size
    return [range(*ends) for ends in zip(starts, [*starts[1:], len(parts)], strict=True)]
