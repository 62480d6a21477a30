"""What follows from the claims that were rejected: verdicts, or intervals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.sequential.bets import Bets, Flags, Floats, Indices
from layerscope.sequential.rules import Decision, Rule, Tolerance

__all__ = ["Intervals", "Reader", "Verdicts"]

_FIRST = 16
"""Outcomes in the first chunk; the next ones grow, since most claims fall early."""

_CHUNK = 2**17
"""Claims × outcomes played at once: their arrays stay in the processor's cache."""


class Reader(ABC):
    """Watches some cells.

    Attributes
    ----------
    counts : array of int, shape ``(cells,)``
        Outcomes seen of each cell.
    verdicts : array of str, shape ``(cells,)``
        Empty while a cell is open.
    """

    def __init__(self, rule: Rule, cells: int, population: int) -> None:
        self.population = population
        self.counts = np.zeros(cells, np.int64)
        self.verdicts = np.full(cells, "", "<U12")
        self._totals = np.zeros(cells)
        self._rule = rule
        self._bets: Bets | None = None  # many claims, so only once there are outcomes

    def add(self, outcomes: Floats, active: Flags) -> None:
        """Take in outcomes, shape ``(cells, n)``; only the rows of `active` cells count."""
        if self._bets is None:
            self._bets = Bets(self._rule, self.population, *self._claims(len(self.counts)))
        outcomes = np.where(active[:, None], outcomes, 0)
        # Numbers are added one after another, so that it makes no difference where batches end.
        sums = np.cumsum(np.column_stack([self._totals, outcomes]), axis=1)
        start, size = 0, outcomes.shape[1]
        seen = int(self.counts[active].min(initial=self.population))
        while start < size and len(self._bets.cell):
            fits = max(1, _CHUNK // len(self._bets.cell))
            stop = min(start + max(_FIRST, (seen + start) // 2), start + fits, size)
            left = self.population - self.counts - start
            fallen, at = self._bets.play(
                outcomes[:, start:stop], sums[:, start : stop + 1], left, active
            )
            self._read(self._bets, fallen, self.counts[self._bets.cell[fallen]] + start + at + 1)
            start = stop
        self.counts[active] += size
        self._totals = sums[:, -1]
        whole = active & (self.counts == self.population)
        self._finish(whole, self._totals[whole] / self.population)
        self._bets.keep(self.verdicts[self._bets.cell] == "")

    @abstractmethod
    def _claims(self, cells: int) -> tuple[NDArray[Any], ...]:
        """Cell, sign, mean and needed capital of all claims."""

    @abstractmethod
    def _read(self, bets: Bets, fallen: Indices, counts: Indices) -> None:
        """Note which claims fell, after how many outcomes; drop those that are of no more use."""

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

    def __init__(self, rule: Decision, cells: int, population: int) -> None:
        super().__init__(rule, cells, population)
        self._limits = rule.limits
        self._alpha = 1 - rule.confidence
        # Outcomes after which a claim fell, the first of which decides: by which limit, and sign.
        self._when = np.full((2, 2, cells), np.inf)

    def _claims(self, cells: int) -> tuple[NDArray[Any], ...]:
        robust, critical = self._limits
        apart = critical > robust
        kinds = [(-1, robust, 1 + apart), (1, critical, 1 + apart)]
        kinds += [(1, robust, 1), (-1, critical, 1)] if apart else []
        sign, mean, share = (np.repeat(column, cells) for column in zip(*kinds, strict=True))
        return np.tile(np.arange(cells), len(kinds)), sign, mean, share / self._alpha

    def _read(self, bets: Bets, fallen: Indices, counts: Indices) -> None:
        if not len(fallen):
            return
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
        bets.keep(self.verdicts[bets.cell] == "")

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

    def __init__(self, rule: Tolerance, cells: int, population: int) -> None:
        super().__init__(rule, cells, population)
        low, high = rule.bounds
        self.lower, self.upper = np.full(cells, low), np.full(cells, high)
        self._widest = 2 * rule.width
        self._alpha = 1 - rule.confidence

    def _claims(self, cells: int) -> tuple[NDArray[Any], ...]:
        low, high = self._rule.bounds
        # Both bounds lie half a step outside on average, an eighth of the half-width together.
        points = math.ceil((high - low) / self._widest * 16) + 1
        grid = np.linspace(low, high, points)[1:-1]
        sign = np.tile(np.repeat([1, -1], len(grid)), cells)
        cell = np.repeat(np.arange(cells), 2 * len(grid))
        return cell, sign, np.tile(grid, 2 * cells), np.full(len(cell), 2 / self._alpha)

    def _read(self, bets: Bets, fallen: Indices, counts: Indices) -> None:
        cell, mean, up = bets.cell[fallen], bets.mean[fallen], bets.sign[fallen] > 0
        np.maximum.at(self.lower, cell[up], mean[up])
        np.minimum.at(self.upper, cell[~up], mean[~up])
        # One of the two was wrong if they cross.
        np.maximum(self.upper, self.lower, out=self.upper)
        bets.keep((self.lower[bets.cell] < bets.mean) & (bets.mean < self.upper[bets.cell]))

    def _finish(self, whole: Flags, means: Floats) -> None:
        self.lower[whole] = self.upper[whole] = means
        # Only here, so that a cell makes use of the whole batch in which it becomes narrow.
        self.verdicts[self.upper - self.lower <= self._widest] = "narrow"
