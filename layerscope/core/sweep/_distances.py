"""How far a layer's parameters are from where they started.

>>> import torch
>>> from layerscope.core.sweep import _distances as distances
>>> start, now = {"weight": torch.zeros(2, 4)}, {"weight": torch.ones(2, 4)}
>>> distances.displacement(now, start).norms()["l2_fan_in"]
1.4142135623730951
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from layerscope.base.tensors import owner_name
from layerscope.core import layers

__all__ = ["NORMS", "Displacement", "displacement", "displacements"]

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
class Displacement:
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

    def __add__(self, other: Displacement) -> Displacement:
        return Displacement(
            self.squares + other.squares,
            self.scaled + other.scaled,
            self.start + other.start,
            float(np.maximum(self.largest, other.largest)),  # unlike max, keeps a NaN
            self.count + other.count,
        )

    @classmethod
    def total(cls, parts: Iterable[Displacement]) -> Displacement:
        """Add up many; in their order, as ``+`` does, but without an object for every step."""
        squares = scaled = start = largest = 0.0
        count = 0
        for part in parts:
            squares += part.squares
            scaled += part.scaled
            start += part.start
            if not part.largest <= largest:  # true of NaN, too, which is kept
                largest = part.largest if largest == largest else largest
            count += part.count
        return cls(squares, scaled, start, largest, count)

    def norms(self) -> dict[str, float]:
        """Return the distance in every norm of `NORMS`.

        ``l2_relative`` is infinite where the layer started at zero and moved.
        """
        l2 = math.sqrt(self.squares)
        relative = l2 / math.sqrt(self.start) if self.start else math.inf if l2 else 0.0
        values = (l2, l2 / math.sqrt(max(self.count, 1)), relative, math.sqrt(self.scaled))
        return dict(zip(NORMS, (*values, self.largest), strict=True))


def displacement(
    now: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module] | None = None,
) -> Displacement:
    """Measure how far the parameters of one or more modules moved.

    Parameters
    ----------
    now, start : mapping of str to Tensor
        The parameters by dotted name, of the same shapes; of one module those that there are.
    modules : mapping of str to nn.Module, optional
        What holds them, by dotted name: how a weight is laid out depends on it. Without, every
        weight is taken to have one row for each output.

    Notes
    -----
    The fan-in of a weight is the number of its elements that one output sees: all dimensions but
    the first; of a transposed convolution the mean over outputs, ``in / groups · Π kernel /
    stride``; of GPT-2's ``Conv1D`` the first dimension; of an embedding the length of a row, as
    torch counts it. A bias takes that of its weight (``bias_hh_l0`` that of ``weight_hh_l0``),
    another vector that of the matrix before it in the same module, else 1. Of the parameters of a
    normalisation, and of what is added to every example, of shape ``(1, n, …)``, one output sees
    one element. All sums are in double precision.
    """
    return Displacement.total(displacements(now, start, modules).values())


def displacements(
    now: Mapping[str, Tensor],
    start: Mapping[str, Tensor],
    modules: Mapping[str, nn.Module] | None = None,
) -> dict[str, Displacement]:
    """Measure how far each parameter of one or more modules moved, by its name; see `displacement`.

    Those that `now` lacks are left out, and still tell the fan-in of those beside them.
    """
    by_owner: dict[str, dict[str, Tensor]] = {}
    for name, tensor in start.items():
        by_owner.setdefault(owner_name(name), {})[name.rpartition(".")[2]] = tensor
    found = {}
    for owner, tensors in by_owner.items():
        fans = layers.fan_ins(tensors, (modules or {}).get(owner))
        for name, before in tensors.items():
            whole = f"{owner}.{name}" if owner else name
            if whole in now:
                found[whole] = _sections(now[whole], before, fans[name])
    return found


def _sections(now: Tensor, start: Tensor, fans: Sequence[float]) -> Displacement:
    """How far the equal sections of one tensor moved, each with its fan-in."""
    total = Displacement()
    sections = zip(now.chunk(len(fans)), start.chunk(len(fans)), fans, strict=True)
    for after, before, fan in sections:
        pieces = (torch.split(t.flatten(), _PIECE) for t in (after, before))
        for piece, start_piece in zip(*pieces, strict=True):
            total += _piece(piece.double(), start_piece.double(), fan)
    return total


def _piece(now: Tensor, start: Tensor, fan: float) -> Displacement:
    change = now - start
    square = float(change.square().sum())
    return Displacement(
        squares=square,
        scaled=square / fan,
        start=float(start.square().sum()),
        largest=float(change.abs().max()) if change.numel() else 0.0,
        count=change.numel(),
    )
