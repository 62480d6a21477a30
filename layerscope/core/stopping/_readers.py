"""Conclusions from the claims that were rejected: verdicts, or intervals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.core.stopping._bets import Bets, Flags, Floats, Indices, Outcomes
from layerscope.core.stopping._rules import Decision, Rule, Tolerance
from layerscope.errors import OptionError

__all__ = ["Intervals", "Reader", "Verdicts"]

_FIRST = 256
"""Outcomes in the first chunk; the next ones grow, since most claims fall early."""

_FINE = 8
"""Steps of the grid to the width of an interval that is narrow enough.

Each bound lies half a step outside on average. With twice as many steps a cell needs some 4 % fewer
examples, at twice the work.
"""

_COARSE = 8
"""Of so many points one is tried first; where it falls, the others need not be played."""


class Reader(ABC):
    """Watches some cells.

    Attributes
    ----------
    counts : array of int, shape ``(cells,)``
        Outcomes seen of each cell.
    verdicts : array of str, shape ``(cells,)``
        Empty while a cell is open.
    """

    def __init__(self, rule: Rule, cells: int, population: int, heaviest: float) -> None:
        self.population, self.heaviest = population, heaviest
        self.counts = np.zeros(cells, np.int64)
        self.verdicts = np.full(cells, "", "<U12")
        self._totals, self._weighed = np.zeros((2, cells))
        self._rule = rule
        self._bets: list[Bets] = []  # many claims, so only once there are outcomes

    def add(self, outcomes: Floats, weights: Floats, active: Flags) -> None:
        """Take in outcomes and weights, shape ``(cells, n)``; only `active` rows count."""
        if not self._bets:
            claims = self._claims(len(self.counts))
            self._bets = [
                Bets(self._rule, self.population, self.heaviest, *arrays) for arrays in claims
            ]
        outcomes = np.where(active[:, None], outcomes, 0)
        sums = _running(self._totals, outcomes)
        weighed = _running(self._weighed, np.where(active[:, None], weights, 0))
        start, size = 0, outcomes.shape[1]
        seen = int(self.counts[active].min(initial=self.population))
        while start < size and any(len(bets.cell) for bets in self._bets):
            stop = min(start + max(_FIRST, seen + start), size)
            left = self.population - self.counts - start
            these = Outcomes(outcomes[:, start:stop], weights[:, start:stop])
            before = slice(start, stop + 1)
            for bets in self._bets:
                fallen, at = bets.play(these, sums[:, before], weighed[:, before], left, active)
                if len(fallen):
                    self._read(bets, fallen, self.counts[bets.cell[fallen]] + start + at + 1)
            start = stop
        self.counts[active] += size
        self._totals, self._weighed = sums[:, -1], weighed[:, -1]
        whole = active & (self.counts == self.population)
        if not self._weighed[whole].all():
            raise OptionError("no example has a value that counts, so there is nothing to settle.")
        self._finish(whole, self._totals[whole] / self._weighed[whole])
        self._drop()

    def _drop(self) -> None:
        """Drop the claims that are of no more use."""
        for bets in self._bets:
            bets.keep(self.verdicts[bets.cell] == "")

    @abstractmethod
    def _claims(self, cells: int) -> list[tuple[NDArray[Any], ...]]:
        """Cell, sign, mean and needed capital of all claims, in groups to play in turn."""

    @abstractmethod
    def _read(self, bets: Bets, fallen: Indices, counts: Indices) -> None:
        """Note which claims fell, after how many outcomes, and what follows."""

    @abstractmethod
    def _finish(self, whole: Flags, means: Floats) -> None:
        """After a batch: the means are exactly known of the cells that are seen as a `whole`."""


class Verdicts(Reader):
    """Robust, intermediate or critical.

    To conclude "robust" is to reject "at least `robust`", and "critical" is to reject "at most
    `critical`". Where both limits are the same, one of these claims is false, so that only one
    wrong verdict is possible, and both are tested at α = 1 − confidence. Else the mean may lie
    between them, where either verdict is wrong: both are tested at α/2. "intermediate" is to reject
    "at most `robust`" and "at least `critical`", each at α. If the mean is at most `robust`,
    whoever says "intermediate" or "critical" has rejected the true claim "at most `robust`", as it
    falls before "at most `critical`" does; and likewise from the other side.
    """

    def __init__(self, rule: Decision, cells: int, population: int, heaviest: float) -> None:
        super().__init__(rule, cells, population, heaviest)
        self._limits = rule.limits
        self._alpha = 1 - rule.confidence
        # Outcomes after which a claim fell, the first of which decides: by which limit, and sign.
        self._when = np.full((2, 2, cells), np.inf)

    def _claims(self, cells: int) -> list[tuple[NDArray[Any], ...]]:
        robust, critical = self._limits
        apart = critical > robust
        kinds = [(-1, robust, 1 + apart), (1, critical, 1 + apart)]
        kinds += [(1, robust, 1), (-1, critical, 1)] if apart else []
        sign, mean, share = (np.repeat(column, cells) for column in zip(*kinds, strict=True))
        return [(np.tile(np.arange(cells), len(kinds)), sign, mean, share / self._alpha)]

    def _read(self, bets: Bets, fallen: Indices, counts: Indices) -> None:
        robust, critical = self._limits
        limit = (bets.mean[fallen] == critical).astype(int)
        at = limit, (bets.sign[fallen] > 0).astype(int), bets.cell[fallen]
        self._when[at] = np.minimum(self._when[at], counts)
        (below_robust, above_robust), (below_critical, above_critical) = self._when
        if robust == critical:  # noted as one limit, the second
            below_robust, between = below_critical, np.full_like(below_critical, np.inf)
        else:
            between = np.maximum(above_robust, below_critical)
        times = np.stack([below_robust, between, above_critical])
        found = (self.verdicts == "") & np.isfinite(times.min(axis=0))
        names = np.array(["robust", "intermediate", "critical"])
        self.verdicts[found] = names[times.argmin(axis=0)[found]]
        self._drop()

    def _finish(self, whole: Flags, means: Floats) -> None:
        robust, critical = self._limits
        self.verdicts[whole] = np.select(
            [means <= robust, means >= critical], ["robust", "critical"], "intermediate"
        )


class Intervals(Reader):
    """Bounds between which no claim about the mean has been rejected.

    A lower bound is the largest m of a grid for which "at most m" was rejected, at α/2: all smaller
    claims fell before it, those between the points of the grid as well. Likewise for upper ones.
    """

    def __init__(self, rule: Tolerance, cells: int, population: int, heaviest: float) -> None:
        super().__init__(rule, cells, population, heaviest)
        low, high = rule.bounds
        self.lower, self.upper = np.full(cells, low), np.full(cells, high)
        # The bounds are points of a grid, whose differences are rounded.
        self._widest = 2 * rule.width * (1 + 1e-9)
        self._alpha = 1 - rule.confidence

    def _claims(self, cells: int) -> list[tuple[NDArray[Any], ...]]:
        low, high = self._rule.bounds
        points = math.ceil((high - low) / self._widest * _FINE) + 1
        grid = np.linspace(low, high, points)
        self._step = grid[1] - grid[0]
        coarse = np.arange(points) % _COARSE == 0
        return [self._about(grid[1:-1][part[1:-1]], cells) for part in (coarse, ~coarse)]

    def _about(self, means: Floats, cells: int) -> tuple[NDArray[Any], ...]:
        cell = np.repeat(np.arange(cells), 2 * len(means))
        sign = np.tile(np.repeat([1, -1], len(means)), cells)
        return cell, sign, np.tile(means, 2 * cells), np.full(len(cell), 2 / self._alpha)

    def _read(self, bets: Bets, fallen: Indices, counts: Indices) -> None:  # noqa: ARG002
        cell, mean, up = bets.cell[fallen], bets.mean[fallen], bets.sign[fallen] > 0
        np.maximum.at(self.lower, cell[up], mean[up])
        np.minimum.at(self.upper, cell[~up], mean[~up])
        # One of the two was wrong if they cross.
        np.maximum(self.upper, self.lower, out=self.upper)
        self._drop()

    def _drop(self) -> None:
        super()._drop()
        # Claims outside have fallen, as those on the bound did. Nor is a bound of use that is so
        # far inside that the interval would be narrower than it has to be.
        least, most = self.lower + self._widest, self.upper - self._widest
        for bets in self._bets:
            cell, mean = bets.cell, bets.mean
            up = (self.lower[cell] < mean) & (mean < most[cell] + self._step / 2)
            down = (mean < self.upper[cell]) & (mean > least[cell] - self._step / 2)
            bets.keep(np.where(bets.sign > 0, up, down))

    def _finish(self, whole: Flags, means: Floats) -> None:
        self.lower[whole] = self.upper[whole] = means
        # Only after a batch, so that a cell makes use of the whole one in which it becomes narrow.
        self.verdicts[self.upper - self.lower <= self._widest] = "narrow"


def _running(before: Floats, values: Floats) -> Floats:
    """Sums before each value and after the last, shape ``(cells, n + 1)``."""
    # One after another, so that it makes no difference where batches end.
    return np.cumsum(np.column_stack([before, values]), axis=1)
