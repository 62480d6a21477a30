"""Axis of checkpoints: true epochs, logarithmic where they lie far apart, with 0 before a break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from layerscope.plots._thinning import columns_named, length, round_first

__all__ = ["LONG", "Epochs", "epochs_along"]

LONG = 7.0
"""Length of the axis, in its own unit."""

_FAR = 8.0  # times the first epoch after 0, from which on the axis is logarithmic
_BEFORE = 0.9  # from 0 to the first epoch of a logarithmic axis
_GAP = 4.0  # points between two names


class Epochs(NamedTuple):
    """Places of checkpoints on an axis, and where that is broken, if it is."""

    places: dict[int, float]
    broken: float | None
    words: str

    @property
    def ends(self) -> tuple[float, float]:
        """Where the axis begins and ends: a little before the first, and after the last."""
        return min(self.places.values()) - 0.3, max(self.places.values()) + 0.3

    def ticks(self, points: float) -> list[tuple[float, str]]:
        """Choose the epochs that are named on an axis of so many points."""
        names = [str(epoch) for epoch in self.places]
        low, high = self.ends
        at = [points * (place - low) / (high - low) for place in self.places.values()]
        lengths = [length(name) for name in names]
        order = round_first(names, at, lengths, [0, len(names) - 1], _GAP)
        kept = columns_named(at, lengths, order, _GAP)
        return [(list(self.places.values())[i], names[i]) for i in kept]


def epochs_along(epochs: Sequence[int], unit: str = "epoch") -> Epochs:
    """Place checkpoints by their epochs: as they are, or by their logarithm where they lie apart.

    Parameters
    ----------
    epochs : sequence of int
        From the first to the last.
    unit : str
        What they count.

    Examples
    --------
    >>> [round(place, 2) for place in epochs_along([0, 1, 10, 100]).places.values()]
    [0.0, 0.9, 3.95, 7.0]
    >>> epochs_along([0, 5, 10]).words, epochs_along([0, 1, 10]).words
    ('epoch', 'epoch, logarithmic from 1 on')
    """
    first, last = int(epochs[0]), int(epochs[-1])
    later = [int(epoch) for epoch in epochs if epoch > 0]
    if len(later) < 2 or last < _FAR * later[0]:
        span = last - first or 1
        return Epochs({int(each): LONG * (each - first) / span for each in epochs}, None, unit)
    start = _BEFORE if first == 0 else 0.0
    steps = (LONG - start) / np.log(last / later[0])
    places = {each: start + float(steps * np.log(each / later[0])) for each in later}
    words = f"{unit}, logarithmic" + (f" from {later[0]} on" if first == 0 else "")
    return Epochs(({0: 0.0} if first == 0 else {}) | places, start / 2 or None, words)
