"""Fragments of a sweep: what adjacent rows gave on one batch, and the sums of them.

Cells are gathered by the modules that they change; such a gathering is never cut, and their order
is the sweep's own. A fragment is of any run of them on one batch, and is called by where these
begin and end, so that whoever goes on with a sweep needs not cut it as it was cut before. Sums in
double precision depend on their order, so those of each gathering are added batch after batch,
whoever computed them, in whatever order they come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from layerscope.core.sweep._plan import Plan
from layerscope.core.sweep._store import FinishedElsewhere, Parts
from layerscope.core.sweep._sums import PartResult, Sums
from layerscope.core.sweep._tile import Part
from layerscope.errors import LayerscopeError

__all__ = ["Fragment", "Fragments", "runs"]

_NAME = re.compile(r"batch-(\d+)-rows-(\d+)-(\d+)")


@dataclass(frozen=True, order=True)
class Fragment:
    """Parts `first` to `stop` (which is not among them) on one batch.

    >>> Fragment(3, 0, 12).name
    'batch-000003-rows-00000-00012'
    >>> Fragment.of("batch-000003-rows-00000-00012") == Fragment(3, 0, 12)
    True
    """

    batch: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """File name, without its ending."""
        return f"batch-{self.batch:06d}-rows-{self.first:05d}-{self.stop:05d}"

    @property
    def parts(self) -> range:
        """Numbers of the parts."""
        return range(self.first, self.stop)

    @classmethod
    def of(cls, name: str) -> Fragment | None:
        """Read a name; None for one that is no fragment's, such as of another version."""
        found = _NAME.fullmatch(name)
        return cls(*map(int, found.groups())) if found else None


def runs(wanted: Sequence[int], passed: Collection[int] = ()) -> Iterator[tuple[int, int]]:
    """Yield where runs of adjacent numbers begin and end, looking past those in `passed`.

    >>> list(runs([0, 1, 4, 6], {5}))
    [(0, 2), (4, 7)]
    """
    first = last = None
    for number in wanted:
        if first is None or last is None:
            first = number
        elif any(between not in passed for between in range(last + 1, number)):
            yield first, last + 1
            first = number
        last = number
    if first is not None and last is not None:
        yield first, last + 1


class Fragments:
    """All fragments of a sweep: which are known, and the sums of those whose turn it was.

    Parameters
    ----------
    plan : Plan
    parts : sequence of Part
        In execution order; the smallest pieces that a fragment may be of.
    store : Parts, optional
        Where fragments are recorded.
    most : float
        The most that one example weighs.

    Attributes
    ----------
    parts : list of Part
    sums : Sums
    lengths : list of int
        Examples in each batch.
    elsewhere : set of (int, int)
        Batch and part that other processes were at when last looked.
    folded : callable
        Called with the number of examples, times cells, that are done or need not be, and what to
        show beside the progress.
    """

    def __init__(
        self,
        plan: Plan,
        parts: Sequence[Part],
        store: Parts | None,
        most: float,
    ) -> None:
        self.parts, self.store = list(parts), store
        self._plan, self.lengths = plan, list(plan.subject.data.lengths)
        keys = [part.keys for part in self.parts]
        count = plan.subject.data.count
        self.sums = Sums(plan.subject.metrics, keys, count, plan.rule, most)
        self._recorded: dict[tuple[int, int], Fragment] = {}
        self._waiting: dict[tuple[int, int], PartResult] = {}
        self.elsewhere: set[tuple[int, int]] = set()
        self.folded: Callable[..., object] = lambda _, **__: None

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.lengths)

    def finished(self) -> bool:
        """Tell whether no cell needs any more."""
        return all(done == self.batches for done in self.sums.next)

    def missing(self, batch: int, *, ahead: bool) -> list[int]:
        """List parts that a batch is still to be computed for, as far as is known.

        Parameters
        ----------
        batch : int
        ahead : bool
            Also parts whose earlier batches are not there yet; of these some cells may turn out to
            have been settled before.
        """
        found = []
        for part, next_ in enumerate(self.sums.next):
            turn = next_ == batch or (ahead and next_ < batch)
            if turn and not self.knows(batch, part) and self.sums.active(part):
                found.append(part)
        return found

    def free(self, batch: int, *, ahead: bool) -> list[int]:
        """List parts that are missing and that no other process is at."""
        missing = self.missing(batch, ahead=ahead)
        return [part for part in missing if (batch, part) not in self.elsewhere]

    def knows(self, batch: int, part: int) -> bool:
        """Tell whether what a part gave on a batch is at hand or recorded."""
        return (batch, part) in self._waiting or (batch, part) in self._recorded

    def settled(self) -> set[int]:
        """Numbers of the parts no cell of which needs any more."""
        return {part for part in range(len(self.parts)) if not self.sums.active(part)}

    def of(self, first: int, stop: int) -> Part:
        """The cells of some adjacent parts that are still needed."""
        found = []
        for part in range(first, stop):
            found += self.parts[part].only(set(self.sums.active(part))).groups
        return Part(found)

    def look(self) -> None:
        """Find what others, or this process before it was stopped, have recorded; add it.

        What others are at is found as well, however it is cut.
        """
        if self.store is not None:
            for name in self.store.names():
                if (fragment := Fragment.of(name)) is not None:
                    self._note(fragment)
            taken = filter(None, map(Fragment.of, self.store.taken()))
            self.elsewhere = {(each.batch, part) for each in taken for part in each.parts}
        self._fold(range(len(self.parts)))

    def record(self, fragment: Fragment, result: PartResult) -> None:
        """Record a fragment, then add it, or keep it until it is its turn."""
        if self.store is not None:
            # What is not recorded does not count.
            self._write(fragment, result)
        self._take(fragment, result)
        self._fold(fragment.parts)

    def sources(self) -> Iterator[tuple[Fragment, list[int]]]:
        """Yield the fragments that were added, with the parts that were read from them."""
        found: dict[Fragment, list[int]] = {}
        for (batch, part), fragment in sorted(self._recorded.items()):
            if batch < self.sums.added[part]:
                found.setdefault(fragment, []).append(part)
        yield from found.items()

    def needed(self, batch: int, parts: Iterable[int]) -> set[str]:
        """Keys of the cells of some parts that a batch was added to."""
        keys = (key for part in parts for key in self.parts[part].keys)
        return {key for key in keys if batch < self.sums.batches.get(key, 0)}

    def _write(self, fragment: Fragment, result: PartResult) -> None:
        assert self.store is not None
        try:
            self.store.write(fragment.name, result.arrays())
        except LayerscopeError:
            # Its folder may be gone, since another process did the same and was done.
            if self.store.store.is_finished():
                raise FinishedElsewhere from None
            raise
        self._note(fragment)

    def _note(self, fragment: Fragment) -> None:
        # One that was cut otherwise may be there as well, and says the same.
        for part in fragment.parts:
            if part < len(self.parts) and fragment.batch < self.batches:
                self._recorded.setdefault((fragment.batch, part), fragment)

    def _take(self, fragment: Fragment, result: PartResult) -> None:
        if self._plan.rule is None and self.store is not None:
            # They are recorded, and sums need none of them.
            result = replace(result, outcomes={}, weights={})
        for part in fragment.parts:
            if self.sums.next[part] <= fragment.batch:
                share = result.only(set(self.parts[part].keys))
                self._waiting.setdefault((fragment.batch, part), share)

    def _fold(self, parts: Iterable[int]) -> None:
        for part in parts:
            while self.sums.next[part] < self.batches and self._add_next(part):
                pass

    def _add_next(self, part: int) -> bool:
        """Add a part's next batch if it is known already."""
        batch = self.sums.next[part]
        wanted = self.sums.active(part)
        if not wanted:
            self.sums.skip(part)
            return True
        found = self._waiting.pop((batch, part), None)
        if found is None and (found := self._read(batch, part)) is None:
            return False
        # Whoever computed ahead of its turn could not know which cells would be settled by then.
        settled = self.sums.add(part, found.only(set(wanted)))
        left = sum(self.lengths[batch + 1 :])
        self.folded(len(wanted) * self.lengths[batch] + len(settled) * left)
        return True

    def _read(self, batch: int, part: int) -> PartResult | None:
        """Read what is recorded; None if there is nothing, or it is damaged."""
        fragment = self._recorded.get((batch, part))
        if fragment is None or self.store is None:
            return None
        arrays = self.store.read(fragment.name)
        found = None if arrays is None else PartResult.of(arrays, self._plan.subject.metrics)
        if found is None or not set(self.sums.active(part)) <= set(found.keys):
            if found is not None:
                self.store.set_aside(fragment.name)
            self._forget(fragment)
            return None
        self._take(fragment, found)
        return self._waiting.pop((batch, part))

    def _forget(self, fragment: Fragment) -> None:
        for at in [at for at, known in self._recorded.items() if known == fragment]:
            del self._recorded[at]
