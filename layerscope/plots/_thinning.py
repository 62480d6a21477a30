"""Names along an axis, where there is no room for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "POINTS",
    "Named",
    "columns_named",
    "evenly",
    "length",
    "round_first",
    "rows_named",
    "standing_out",
]

POINTS = 7.0
"""Size of the type along axes and in cells: none is smaller in print, and none larger than 8."""

_LINE = 1.18  # height of a line, in sizes of its type
_MOST_MARKED = 0.7  # of the names there is room for, those of rows that stand out
_OUTSTANDING = 0.15  # of the way from the median to the worst row


class Named(NamedTuple):
    """A name beside its row: which row, and how far from the axis' start the name stands."""

    row: int
    place: float


def length(text: str, points: float = POINTS) -> float:
    """Measure a text in points, as DejaVu Sans sets it; letters of wide scripts count double."""
    narrow = sum(0.32 if sign in ".,:;'|il " else 0.0 for sign in text)
    others = [sign for sign in text if sign not in ".,:;'|il "]
    return points * (narrow + sum(1.0 if ord(sign) > 0x2E7F else 0.63 for sign in others))


def evenly(count: int, first: Iterable[int] = ()) -> list[int]:
    """Order places such that however many of the first are taken, they lie about evenly.

    Examples
    --------
    >>> evenly(5), evenly(5, first=[1])
    ([0, 4, 2, 1, 3], [1, 0, 4, 2, 3])
    """
    step, order = 1, [*first, 0, count - 1]
    while step < count:
        step *= 2
    while step:
        order += range(0, count, step)
        step //= 2
    return [at for at in dict.fromkeys(order) if 0 <= at < count]


def round_first(
    names: Sequence[str],
    places: Sequence[float],
    lengths: Sequence[float],
    first: Iterable[int],
    gap: float,
) -> list[int]:
    """Order names along an axis: of numbers at equal steps, round ones, as many as fit.

    Parameters
    ----------
    names : sequence of str
        Numbers, and maybe others.
    places, lengths, gap
        As for `columns_named`.
    first : iterable of int
        What comes before all others.

    Examples
    --------
    >>> names = [str(epoch) for epoch in range(32)]
    >>> round_first(names, range(0, 160, 5), [9.0] * 32, [0, 31], 3.0)
    [0, 31, 5, 10, 15, 20, 25, 30]
    """
    numbers = {at: int(name) for at, name in enumerate(names) if name.isdigit()}
    steps = set(np.diff(list(numbers.values())).tolist())
    gaps = np.diff([places[at] for at in numbers])
    if len(steps) == 1 and np.allclose(gaps, gaps[0]) and (step := steps.pop()) > 0:
        nice = [lead * 10**digits for digits in range(len(names[-1]) + 1) for lead in (1, 2, 5)]
        for each in sorted({step, *(step * n for n in nice), *(n for n in nice if n % step == 0)}):
            chosen = [at for at, number in numbers.items() if number % each == 0]
            if columns_named(places, lengths, chosen, gap) == chosen:
                return list(
                    dict.fromkeys([*first, *set(range(len(names))) - set(numbers), *chosen])
                )
    # Along a logarithmic axis 1, 2 and 5 of each power of ten lie about evenly.
    leads = [[at for at, n in numbers.items() if str(n).rstrip("0") == lead] for lead in "152"]
    return evenly(len(names), [*first, *(at for those in leads for at in those)])


def columns_named(
    places: Sequence[float], lengths: Sequence[float], order: Sequence[int], gap: float
) -> list[int]:
    """Choose names that don't run into each other, the first ones of an order before others.

    Parameters
    ----------
    places, lengths : sequence of float
        Of all names, along the axis, in the same unit.
    order : sequence of int
        What comes first is kept.
    gap : float
        Between two names.
    """
    kept: list[int] = []
    for at in order:
        room = (
            abs(places[at] - places[other]) - (lengths[at] + lengths[other]) / 2 for other in kept
        )
        if all(each >= gap for each in room):
            kept.append(at)
    return sorted(kept)


def standing_out(worth: Sequence[float] | npt.NDArray[np.float64]) -> list[int]:
    """Find the rows that are far worse than most, the worst first; NaN is not known.

    Examples
    --------
    >>> standing_out([0.0, 0.9, 0.1, 0.0, 0.5])
    [1, 4]
    """
    known = np.asarray(worth, float)
    if not np.isfinite(known).any():
        return []
    middle, most = float(np.nanmedian(known)), float(np.nanmax(known))
    far = np.nan_to_num(known, nan=-np.inf) > middle + _OUTSTANDING * (most - middle)
    order = np.argsort(-np.nan_to_num(known, nan=-np.inf), kind="stable")
    return [int(at) for at in order if far[at]]


def rows_named(
    count: int, high: float, first: Sequence[int], others: Sequence[int] | None = None
) -> list[Named]:
    """Choose the rows to name, and where, such that names of 7 points stand free.

    Parameters
    ----------
    count : int
        Rows, all of one height.
    high : float
        Of all, in points.
    first : sequence of int
        Rows to name before all others. What of these lie close together are named beside their
        rows, as near as there is room; others are named where they lie.
    others : sequence of int, optional
        Rows that may be named after them, in this order; all, evenly, if not given.

    Returns
    -------
    list of Named
        By row; places in rows from the middle of the first.
    """
    line = POINTS * _LINE * count / high  # in rows
    if line <= 1.05:
        return [Named(row, float(row)) for row in range(count)]
    most = max(int(count / line), 1)
    named = sorted(dict.fromkeys([*first[: max(int(_MOST_MARKED * most), 2)]]))
    spread = _spread(named, line, count)
    for row in evenly(count) if others is None else others:
        if all(abs(row - place) >= line for place in spread) and row not in named:
            named.append(row)
            spread = np.append(spread, float(row))
    return sorted(Named(row, float(at)) for row, at in zip(named, spread, strict=True))


def _spread(rows: Sequence[int], line: float, count: int) -> npt.NDArray[np.float64]:
    """Move names apart by as little as can be, in order: least squares, at least a line apart."""
    from scipy.optimize import isotonic_regression

    if not rows:
        return np.empty(0)
    shift = line * np.arange(len(rows))
    moved = isotonic_regression(np.asarray(rows, float) - shift).x
    low, high = -0.5 + 0.4 * line, count - 0.5 - 0.4 * line - shift[-1]
    placed: npt.NDArray[np.float64] = np.clip(moved, low, max(high, low)) + shift
    return placed
