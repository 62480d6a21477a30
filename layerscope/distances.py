"""How far a layer's parameters are from where they started.

>>> import torch
>>> from layerscope import distances
>>> start, now = {"weight": torch.zeros(2, 4)}, {"weight": torch.ones(2, 4)}
>>> distances.moved(now, start).norms()["l2_fan_in"]
1.4142135623730951
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from layerscope import layers

__all__ = ["NORMS", "Moved", "moved"]

_PIECE = 2**16
"""Elements that are looked at together: in double precision they fit a processor's cache."""

NORMS: Mapping[str, str] = {
    "l2": "‖θ − θ⁰‖₂",
    "l2_rms": "‖θ − θ⁰‖₂ / √n, n the number of parameters",
    "l2_relative": "‖θ − θ⁰‖₂ / ‖θ⁰‖₂",
    "l2_fan_in": "‖θ − θ⁰‖₂ with each tensor divided by √fan_in",
    "linf": "max |θ − θ⁰|",
}


@dataclass(frozen=True)
class Moved:
    """How far parameters moved, in sums that add up over layers.

    Attributes
    ----------
    squares : float
        Σ (θ − θ⁰)².
    scaled : float
        The same with each tensor's part divided by its fan-in.
    start : float
        Σ (θ⁰)².
    largest : float
        max |θ − θ⁰|.
    count : int
        Number of parameters.
    """

    squares: float = 0.0
    scaled: float = 0.0
    start: float = 0.0
    largest: float = 0.0
    count: int = 0

    def __add__(self, other: Moved) -> Moved:
        return Moved(
            self.squares + other.squares,
            self.scaled + other.scaled,
            self.start + other.start,
            float(np.maximum(self.largest, other.largest)),  # unlike max, keeps a NaN
            self.count + other.count,
        )

    def norms(self) -> dict[str, float]:
        """Return the distance in every norm of `NORMS`.

        ``l2_relative`` is infinite where the layer started at zero and moved.
        """
        l2 = math.sqrt(self.squares)
        relative = l2 / math.sqrt(self.start) if self.start else math.inf if l2 else 0.0
        values = (l2, l2 / math.sqrt(max(self.count, 1)), relative, math.sqrt(self.scaled))
        return dict(zip(NORMS, (*values, self.largest), strict=True))


def moved(now: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> Moved:
    """Measure how far the parameters of one module moved.

    Parameters
    ----------
    now, start : mapping of str to Tensor
        The parameters by dotted name, of the same shapes.

    Notes
    -----
    The fan-in of a tensor with two or more dimensions is the number of elements that one output
    sees; a vector, such as a bias, takes that of the matrix beside it in the same module, else 1.
    All sums are in double precision.
    """
    fans = {layers.owner(name): math.prod(t.shape[1:]) for name, t in start.items() if t.ndim > 1}
    total = Moved()
    for name, before in start.items():
        fan = fans.get(layers.owner(name), 1)
        pieces = (torch.split(t.flatten(), _PIECE) for t in (now[name], before))
        for after, start_piece in zip(*pieces, strict=True):
            total += _moved(after.double(), start_piece.double(), fan)
    return total


def _moved(now: Tensor, start: Tensor, fan: int) -> Moved:
    change = now - start
    square = float(change.square().sum())
    return Moved(
        squares=square,
        scaled=square / fan,
        start=float(start.square().sum()),
        largest=float(change.abs().max()) if change.numel() else 0.0,
        count=change.numel(),
    )
