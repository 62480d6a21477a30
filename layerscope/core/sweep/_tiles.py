"""Cutting a sweep into tasks: tiles of some batches by some groups of adjacent rows.

A tile records the pass of the trained network over each of its batches, and then asks about its
cells. Tiles of whole batches do no work twice, but there are only so many batches; every further
group of rows records each batch once more; and the weights of a cell are made once in every tile.
Which cut is best is found by trying: `tiling` simulates the workers.

>>> costs = Costs(parts=[3.0, 2.0, 1.0, 1.0], recording=0.5)
>>> tiling(costs, batches=8, workers=2).columns
((0, 4),)
>>> tiling(costs, batches=1, workers=2).columns
((0, 1), (1, 4))
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Costs", "Tile", "Tiling", "even_columns", "makespan", "tiling"]

_STEPS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)

_TASKS_A_WORKER = 64
"""Smaller tiles than that many for each worker even nothing out any more."""

_AS_GOOD = 1.01
"""Of cuts that take as long, that one is best which does the least work twice."""


@dataclass(frozen=True)
class Costs:
    """Seconds that the pieces of a sweep take, measured or estimated.

    Attributes
    ----------
    parts : sequence of float
        For each part, a group of adjacent rows in the order of execution that is never cut, what
        its cells take on one batch, scores included.
    recording : float
        What a tile takes for a batch besides: the pass that is recorded, and scoring it.
    weights : sequence of float
        For each part, what making the weights of its cells takes; none where that is nothing.
    together : int
        How many batches of a tile the weights of a cell are made for once.
    setup : float
        What a worker takes before its first tile.
    task : float
        What handing out one tile takes.
    """

    parts: Sequence[float]
    recording: float
    weights: Sequence[float] = ()
    together: int = 1
    setup: float = 0.0
    task: float = 0.005

    def tile(self, batches: int, column: tuple[int, int]) -> float:
        """Tell how long a tile takes."""
        first, end = column
        made = -(-batches // self.together) * sum(self.weights[first:end])
        return self.task + made + batches * (self.recording + sum(self.parts[first:end]))

    def ideal(self, batches: int) -> float:
        """Tell how long the work takes that nobody can save: each batch recorded once."""
        return batches * (self.recording + sum(self.parts))

    def serial(self, batches: int) -> float:
        """Tell how long one worker takes for everything, as one tile."""
        return self.setup + self.tile(batches, (0, len(self.parts))) - self.task


@dataclass(frozen=True)
class Tile:
    """One task: some consecutive batches by some adjacent parts."""

    batches: range
    parts: range


@dataclass(frozen=True)
class Tiling:
    """A cut of a sweep into tiles.

    Attributes
    ----------
    batches : int
        Consecutive batches of a tile.
    columns : tuple of (int, int)
        First part and the one after the last, of each group of adjacent parts.
    """

    batches: int
    columns: tuple[tuple[int, int], ...]

    def tiles(self, batches: int) -> Iterator[Tile]:
        """List the tiles of a sweep over so many batches, the first batches first."""
        for start in range(0, batches, self.batches):
            for first, end in self.columns:
                yield Tile(range(start, min(start + self.batches, batches)), range(first, end))

    def __str__(self) -> str:
        groups, batches = len(self.columns), self.batches
        rows = "all rows" if groups == 1 else f"one of {groups} groups of rows"
        return f"{batches} {'batch' if batches == 1 else 'batches'} × {rows}"


def tiling(costs: Costs, batches: int, workers: int, *, most_batches: int | None = None) -> Tiling:
    """Find the cut with which so many workers are done first.

    Parameters
    ----------
    costs : Costs
    batches : int
        How many there are; of a sweep in waves, those of one wave.
    workers : int
    most_batches : int, optional
        That a tile may have.

    Returns
    -------
    Tiling
        Of those that are as fast but for one percent, the one with the fewest groups of rows, and
        of these the one with the smallest tiles: results come soonest, and least is lost with a
        worker.
    """
    tried = {
        cut: makespan(costs, cut, batches, workers)
        for cut in _candidates(costs, batches, workers, most_batches or batches)
    }
    best = min(tried.values())
    good = [cut for cut, seconds in tried.items() if seconds <= best * _AS_GOOD]
    return min(good, key=lambda cut: (len(cut.columns), cut.batches, tried[cut]))


def makespan(costs: Costs, cut: Tiling, batches: int, workers: int) -> float:
    """Simulate workers that take one tile after the other; seconds until all are done.

    Parameters
    ----------
    costs : Costs
    cut : Tiling
    batches, workers : int
    """
    # Of one row of tiles after the other, the longest first.
    by_size = {
        size: sorted((costs.tile(size, column) for column in cut.columns), reverse=True)
        for size in {cut.batches, batches % cut.batches} - {0}
    }
    full, rest = divmod(batches, cut.batches)
    free = [costs.setup] * workers
    for size in [cut.batches] * full + [rest] * bool(rest):
        for seconds in by_size[size]:
            heapq.heapreplace(free, free[0] + seconds)
    return max(free) if batches else 0.0


def _candidates(costs: Costs, batches: int, workers: int, most: int) -> Iterator[Tiling]:
    """List cuts worth trying: of few groups and few batches every number, then in steps."""
    largest = min(most, batches)
    columns = dict.fromkeys(even_columns(costs, groups) for groups in _steps(len(costs.parts)))
    for cut in columns:
        for size in _steps(largest):
            tiles = -(-batches // size) * len(cut)
            if tiles <= _TASKS_A_WORKER * workers or (size, len(cut)) == (largest, 1):
                yield Tiling(size, cut)


def _steps(most: int) -> list[int]:
    return sorted({step for step in (*_STEPS, most) if step <= most})


def even_columns(costs: Costs, groups: int) -> tuple[tuple[int, int], ...]:
    """Cut parts into at most so many groups of neighbours, the longest of them as short as can be.

    Found by halving the interval in which its length lies (the linear partition problem).
    """
    weights = costs.weights or [0.0] * len(costs.parts)
    times = [part + made for part, made in zip(costs.parts, weights, strict=True)]
    low, high = max(times), sum(times) * (1 + 1e-9)  # which is rounded
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if len(_filled(times, middle)) <= groups else (middle, high)
    return tuple(_filled(times, high))


def _filled(times: Sequence[float], most: float) -> list[tuple[int, int]]:
    """Fill groups of neighbours up to a length."""
    starts, total = [0], 0.0
    for place, seconds in enumerate(times):
        if total + seconds > most and total:
            starts.append(place)
            total = 0.0
        total += seconds
    return list(pairwise([*starts, len(times)]))
