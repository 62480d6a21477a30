"""Findings about a series: what the digests and distances of its tensors say against it.

Every rule asks for evidence that no training gives, whatever its optimiser, rate or length:

- the very same values again after others, or twice in a row between steps that moved;
- weights that nothing of the neighbour is left in, as of independent draws, while over the same or
  a longer time something is left elsewhere in the series;
- a checkpoint that is far from the one before and the one after, while these two are near.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from layerscope.core.checkpoints._evidence import FEW, Links, Steps, groups, repeats
from layerscope.core.checkpoints._sentences import Finding, Sentences
from layerscope.core.checkpoints._trails import COUNTER, History

__all__ = ["find_faults"]

_MOST = 0.8  # of the tensors that can be judged: the whole checkpoint
_NEAR = 0.05  # of how far others are from the end, what is its copy in other bits
_BESIDE = 3.0  # times what the other tensors and steps suggest, there and back
_AWAY = 50.0  # the same, for good


def find_faults(history: History, unit: str) -> list[Finding]:
    """Judge a series by its history.

    Parameters
    ----------
    history : History
    unit : str
        What checkpoints are counted in.

    Returns
    -------
    list of Finding
        Faults first.
    """
    if not history.names:
        return []
    # NaN, of what can't be told, is in no comparison true.
    with np.errstate(all="ignore"):
        judge = _Judge(history, unit)
        rules = (
            judge.not_finite,
            judge.copies,
            judge.unrelated,
            judge.tensor_copies,
            judge.jumps,
            judge.leaps,
            judge.near_copies,
            judge.still,
        )
        return [finding for rule in rules for finding in rule()]


class _Judge:
    """The rules, in an order in which each leaves alone what one before it explained."""

    def __init__(self, history: History, unit: str) -> None:
        self.h, self.last = history, len(history.epochs) - 1
        self.say = Sentences(history.epochs, unit)
        self.counted = np.array([not name.endswith(COUNTER) for name in history.names])
        self.links, self.steps = Links(history), Steps(history)
        # What was told: whole checkpoints, tensors in them, and in which checkpoints such tensors.
        self.explained: set[int] = set()
        self.told = np.zeros(history.digest.shape, bool)
        self.broken: set[int] = set()

    def not_finite(self) -> Iterator[Finding]:
        """Find checkpoints that hold NaN or infinity."""
        bad = self.h.not_finite > 0
        for at in map(int, np.flatnonzero(bad.any(0))):
            rows = self._rows(bad[:, at])
            self._tell(rows, at)
            yield self.say.not_finite(at, self._names(rows))

    def copies(self) -> Iterator[Finding]:
        """Find checkpoints that hold the same values as another."""
        for group in groups(self._first_equal()):
            doubtful = self._doubtful(group)
            self.explained |= set(doubtful)
            yield self.say.copy(group, doubtful, self._names(self._rows(self.counted)))

    def unrelated(self) -> Iterator[Finding]:
        """Find checkpoints, and tensors, in which nothing of their neighbours is left."""
        count = len(self.h.names)
        single, whole = self.links.breaks(range(count)), self.links.breaks([count])
        for kind, at in sorted(whole.keys() | single.keys(), key=lambda key: key[1]):
            if at in self.explained:
                continue
            rows = [row for row in single.get((kind, at), []) if not self.told[row, at]]
            most = len(rows) > 1 and len(rows) >= _MOST * self.links.decided(at)
            if (kind, at) in whole or most:
                self.explained.add(at)
                yield self.say.unrelated(kind, at, self._names(self._rows(self.h.weights)), True)
            elif rows:
                self._tell(rows, at)
                yield self.say.unrelated(kind, at, self._names(rows), False)

    def tensor_copies(self) -> Iterator[Finding]:
        """Find tensors with the same values again, at checkpoints that differ as a whole."""
        first = self._first_equal()
        apart = [at for at, same in enumerate(first) if at == same and at not in self.explained]
        found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        for row in self._rows(self.h.weights & (self.h.sizes >= FEW // 4)):
            for how, places in self._row_copies(row, apart):
                found.setdefault((how, places), []).append(row)
        for (how, places), rows in found.items():
            doubtful = list(places) if how == "but" else self._doubtful(places)
            self.told[np.ix_(rows, doubtful)] = True
            yield self.say.tensor_copy(how, places, doubtful, self._names(rows))

    def _row_copies(self, row: int, apart: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Tell how a tensor repeats itself, and at which of the places that are apart."""
        for group, again in repeats([str(self.h.digest[row, at]) for at in apart]):
            places = tuple(apart[at] for at in group)
            others = tuple(at for at in apart if at not in places)
            inside = group[0] > 0 and group[-1] < len(apart) - 1
            if again and len(places) > 2 * len(others):
                yield "but", others
            elif again:
                yield "again", places
            elif inside and self.h.wide[row]:
                yield "twice", places

    def jumps(self) -> Iterator[Finding]:
        """Find steps that lead far away, and back."""
        for at in range(1, self.last):
            if self.explained & {at - 1, at, at + 1}:
                continue
            back = self.steps.back[:, at] & ~self.told[:, at - 1 : at + 2].any(1)
            rows = self._rows(back)
            if rows and len(rows) >= _MOST * self.steps.judged[:, at].sum():
                self.explained.add(at)
                yield self.say.jump(at, self._names(self._rows(self.h.weights)), True)
                continue
            odd = [r for r in rows if self.steps.odd[r, at : at + 2].min() > np.log(_BESIDE)]
            if odd:
                self._tell(odd, at)
                yield self.say.jump(at, self._names(odd), False)

    def leaps(self) -> Iterator[Finding]:
        """Find steps of single tensors that lead far away, beyond all else at that time."""
        for at in range(1, self.last + 1):
            if (self.explained | self.broken) & {at - 1, at}:
                continue
            odd = self.steps.far[:, at] & (self.steps.odd[:, at] > np.log(_AWAY))
            rows = self._rows(odd & ~self.told[:, at - 1 : at + 1].any(1))
            if rows:
                self._tell(rows, at)
                yield self.say.leap(at, self._names(rows), _AWAY)

    def near_copies(self) -> Iterator[Finding]:
        """Find early checkpoints that are the last one but for rounding, while later ones are not.

        Towards the end of a training all are near it.
        """
        rows = self.h.weights & (self.h.not_finite.sum(1) == 0)
        to_last = np.sqrt((self.h.to_last[rows] ** 2).sum(0))
        clear = [at for at in range(self.last) if at not in self.explained]
        for at in clear:
            others = to_last[[other for other in clear if other != at]]
            later = to_last[[other for other in clear if other > at]]
            if len(later) and to_last[at] < _NEAR * min(np.median(others), later.max()):
                self.explained.add(at)
                yield self.say.near_copy(at, self._names(self._rows(rows)))

    def still(self) -> Iterator[Finding]:
        """Find tensors that never moved, as frozen ones do not."""
        still = (self.h.digest == self.h.digest[:, :1]).all(1) & self.counted
        if self.last and still.any() and not still[self.counted].all():
            yield self.say.still(self._names(self._rows(still)))

    def _first_equal(self) -> list[int]:
        """Give for each place the first that holds the same values."""
        held = [tuple(self.h.digest[self.counted, at]) for at in range(self.last + 1)]
        return [held.index(one) for one in held]

    def _doubtful(self, group: Sequence[int]) -> list[int]:
        """Those of a group of equal ones that are not what they say."""
        if self.last in group:
            return [at for at in group if at != self.last]
        beside = all(later - at == 1 for at, later in pairwise(group))
        return list(group[1:] if beside else group)

    def _tell(self, rows: Sequence[int], at: int) -> None:
        self.told[list(rows), at] = True
        self.broken.add(at)

    @staticmethod
    def _rows(where: npt.NDArray[np.bool_]) -> list[int]:
        return [int(row) for row in np.flatnonzero(where)]

    def _names(self, rows: Sequence[int]) -> tuple[str, ...]:
        return tuple(self.h.names[row] for row in rows)
