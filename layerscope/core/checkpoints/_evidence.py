"""Evidence for and against a series: what of a checkpoint is left in others, and how far steps go.

How much is left of θᵃ in θᵇ is the projection ⟨θᵃ, θᵇ⟩ / ‖θᵃ‖², each less its mean: 1 as long as
training adds something independent, exp(−rate · decay · steps) under weight decay, and 0 within
±‖θᵇ‖ / (‖θᵃ‖ √n) for independent draws. Where that margin is wide, as for small tensors, nothing is
said of one alone; of several together it is as narrow as for one of all their elements.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from layerscope.core.checkpoints._trails import WIDTH, History

__all__ = ["FEW", "Links", "Steps", "groups", "repeats"]

FEW = 64
"""Elements below which chance alone may do what should not be."""

_SIGMAS = 4.0
_FAINT = 0.1  # how well it must be known what is left, to call it nothing
_FAINTER = 0.25  # the same where the neighbours leave more than that in each other
_LEFT = 0.3  # what must be left elsewhere
_LONGER = 4  # times the span of that, a span may be at most that leaves nothing
_BACK = 0.3  # of the way to a checkpoint and from it, the way between its neighbours

_SEVERAL = 4  # steps, and tensors, from which on medians tell something

Booleans = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Links:
    """How much of each checkpoint is left in the next, and in the one after that.

    Rows are tensors, and one more that stands for all together. A link is 1 where something is
    left, −1 where nothing is, 0 where that can't be told.
    """

    def __init__(self, history: History) -> None:
        self._h = history
        self._spans = np.diff(np.array(history.epochs, float), prepend=np.nan)
        self._last = len(history.epochs) - 1
        self._once = np.array([*_once(map(tuple, history.digest)), True])
        before, after = (np.roll(history.spread, by, axis=1) for by in (1, -1))
        like, exact = history.like_before.copy(), np.zeros(history.spread.shape, bool)
        if self._last:
            like[:, 1], exact[:, 1] = history.like_first[:, 1], True
        self._sums = self._projected(like, before, history.spread, exact)
        across = self._projected(history.like_across, before, after, np.zeros_like(exact))
        self._left, margin = _known(*self._sums)
        self._before = _states(self._left, margin, _FAINT)
        self._faint = _states(self._left, margin, _FAINTER)
        self._across = _states(*_known(*across), _FAINT)

    def decided(self, at: int) -> int:
        """Count the tensors that `breaks` can name at a place, or that leave something there."""
        return int((self._faint[:-1, max(at, 1)] != 0).sum())

    def breaks(self, rows: Sequence[int]) -> dict[tuple[str, int], list[int]]:
        """Gather rows by what is broken at which place.

        Where nothing is left of the "start", in the "end", in both directions ("there and back"),
        or from a place on ("break"), while something is left elsewhere.
        """
        found: dict[tuple[str, int], list[int]] = {}
        # One step alone may have been as long as it takes to forget.
        for at in range(self._last + 1) if self._last > 1 else ():
            inside = ("there and back", "break")
            for kind in ("start",) if at == 0 else ("end",) if at == self._last else inside:
                hit = self._broken(kind, rows, at)
                if hit:
                    found[kind, at] = hit
        return found

    def _broken(self, kind: str, rows: Sequence[int], at: int) -> list[int]:
        if kind == "there and back":
            return [row for row in rows if self._only_across(row, at)]
        broken = max(at, 1)
        others = {"start": (2,), "end": (at - 1,), "break": (at - 1, at + 1)}[kind]
        if others[0] == 0:
            return []
        lost = [
            row
            for row in rows
            if self._faint[row, broken] == -1
            and all(self._lasting(row, broken, other) for other in others)
        ]
        clear = [row for row in lost if self._before[row, broken] == -1]
        small = [row for row in lost if self._before[row, broken] != -1]
        return lost if small and self._nothing_of(small, broken) else clear

    def _only_across(self, row: int, at: int) -> bool:
        nothing = (self._faint[row, at : at + 2] == -1).all()
        return bool(nothing and self._across[row, at] == 1)

    def _nothing_of(self, rows: Sequence[int], at: int) -> bool:
        """Judge tensors together, each too small to be judged, as if they were one.

        The shards of a network may hold small tensors only. What is asked of their sum is what is
        asked of one tensor: were a little left in each, it would stand out of the sum's margin,
        which narrows as they grow in number.
        """
        single = [row for row in rows if self._once[row]]
        dot, noise, base = (sums[single, at] for sums in self._sums)
        all_of_them = _known(dot.sum(), np.sqrt((noise**2).sum()), base.sum())
        return bool(_states(*all_of_them, _FAINT) == -1)

    def _lasting(self, row: int, broken: int, other: int) -> bool:
        """Check that at the rate of another step something would be left after the broken one."""
        times = self._spans[broken] / self._spans[other]
        left = min(self._left[row, other], 1.0) ** times
        return bool(self._before[row, other] == 1 and times <= _LONGER and left >= _LEFT)

    def _projected(
        self, like: Floats, a: Floats, b: Floats, exact: Booleans
    ) -> tuple[Floats, Floats, Floats]:
        """Multiply each tensor, then all together; how far chance goes, and what all would be.

        Tied tensors are one: a second time they are no evidence more.
        """
        sizes = self._h.sizes[:, None].astype(float)
        error = np.sqrt(1 / np.maximum(sizes, 1) + np.where(exact | (sizes <= WIDTH), 0, 1 / WIDTH))
        large = (self._h.weights & (self._h.sizes >= FEW))[:, None]
        known = large & np.isfinite(like) & (a > 0) & (b > 0)
        dot, noise, base = (np.where(known, x, 0.0) for x in (like * a * b, error * a * b, a**2))
        once = self._once[:-1]
        dot, base = (np.vstack([each, each[once].sum(0)]) for each in (dot, base))
        noise = np.vstack([noise, np.sqrt((noise[once] ** 2).sum(0))])
        return dot, noise, base


class Steps:
    """How far tensors moved from checkpoint to checkpoint, beside one another.

    Attributes
    ----------
    judged : array of bool
        Where there is a step before and one after.
    back : array of bool
        Where the one after leads back to where the one before came from.
    far : array of bool
        Where the step before is not small beside the tensor.
    odd : array of float
        Logarithm of a step over what the other steps of the tensor and the other tensors at that
        step suggest (medians of a table in two directions: Tukey 1977); NaN where these are few.
    """

    def __init__(self, history: History) -> None:
        rows = (history.weights & (history.sizes >= FEW))[:, None]
        step, after = history.step, np.roll(history.step, -1, axis=1)
        least = np.minimum(step, after)
        self.judged = rows & (least > 0) & np.isfinite(history.across)
        self.back = self.judged & (history.across < _BACK * least)
        before = np.roll(history.norm, 1, axis=1)
        self.far = rows & (step > _BACK * before) & (before > 0)
        self.odd = _residuals(np.where(rows & (step > 0), np.log(step), np.nan))


def _once(values: Iterable[Hashable]) -> list[bool]:
    """Mark what is there for the first time."""
    seen: dict[Hashable, int] = {}
    return [seen.setdefault(value, at) == at for at, value in enumerate(values)]


def _known(dot: Floats, noise: Floats, base: Floats) -> tuple[Floats, Floats]:
    """Project: how much is left, and how well that is known."""
    return dot / base, _SIGMAS * noise / base


def _states(left: Floats, margin: Floats, faint: float) -> npt.NDArray[np.int_]:
    nothing = (np.abs(left) < margin) & (margin < faint)
    return np.where(nothing, -1, ((left >= _LEFT) & (left > margin)).astype(int))


def _residuals(logs: Floats) -> Floats:
    """Leave of logarithms what neither the row's nor the column's median explains."""
    enough = [np.isfinite(logs).sum(axis, keepdims=True) >= _SEVERAL for axis in (0, 1)]
    logs = np.where(enough[0] & enough[1], logs, np.nan)
    for axis in (0, 1, 0):
        known = np.isfinite(logs).any(axis, keepdims=True)  # of NaN alone nanmedian would warn
        logs = logs - np.nanmedian(np.where(known, logs, 0.0), axis, keepdims=True)
    return logs


def groups(first_of: Sequence[int]) -> list[list[int]]:
    """Gather places that have the same first, where there are several."""
    by_first: dict[int, list[int]] = {}
    for at, first in enumerate(first_of):
        by_first.setdefault(first, []).append(at)
    return [group for group in by_first.values() if len(group) > 1]


def repeats(values: Sequence[str]) -> Iterator[tuple[list[int], bool]]:
    """Yield places of equal values, and whether others lie between; none if all are equal."""
    if len(set(values)) < 2:
        return
    for group in groups([values.index(value) for value in values]):
        yield group, group[-1] - group[0] >= len(group)
