"""Trails of tensors over a series: what is kept of a tensor of which only two values are held.

Of every checkpoint stays a digest, a few sums, and a sketch of 4,096 numbers (a count sketch:
Charikar, Chen & Farach-Colton 2002; as feature hashing, Weinberger et al. 2009): each element goes,
with a random sign, into one of 4,096 sums. It is linear, so that the difference of two sketches is
the sketch of the difference, and its length is that of the difference within some 2 %, wherever
in the tensor that lies; up to 4,096 elements it is exact. Distances between any two checkpoints
follow without reading them side by side.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from layerscope.base.tensors import update_digest

__all__ = ["COUNTER", "WIDTH", "History", "Trail", "is_statistic"]

WIDTH = 4096
"""Numbers of a sketch."""

COUNTER = "num_batches_tracked"
"""How the names of counters end, which are no values."""

_PIECE = 2**16  # elements that are looked at together; a multiple of WIDTH
_ROUNDING = 1e-7  # of a tensor's length
_STRIDE = 40_503  # odd, so that pieces get their signs from places that seem unrelated

Floats = npt.NDArray[np.float64]


def is_statistic(name: str) -> bool:
    """Recognise what a normalisation counts and averages, which no optimiser moves."""
    last = name.rpartition(".")[2]
    return last.startswith("running_") or last == COUNTER


@dataclass(frozen=True)
class History:
    """Facts about tensors over a series: arrays of shape (tensor, epoch).

    Attributes
    ----------
    names : list of str
    epochs : tuple of int
    sizes : array of int
        Elements of each tensor.
    weights : array of bool
        Which are what training moves: of floating point, no statistic of a normalisation.
    wide : array of bool
        Which are of 32 bits or more, where small steps do not get lost in rounding.
    digest : array of str
        SHA-256 over values, shape and type.
    not_finite : array of int
        Values that are NaN or infinite.
    norm, spread : array of float
        ‖θ‖₂; the same of θ less its mean.
    from_first, step, across, to_last : array of float
        ‖θ − θ⁰‖₂; ‖θ − θ of the epoch before‖₂; ‖θ of the epoch after − θ of that before‖₂;
        ‖θ of the last − θ‖₂. NaN where there is no such epoch.
    like_first, like_before, like_across : array of float
        Cosines between the same pairs, each tensor less its mean; NaN where one is constant.
    """

    names: list[str]
    epochs: tuple[int, ...]
    sizes: npt.NDArray[np.int64]
    weights: npt.NDArray[np.bool_]
    wide: npt.NDArray[np.bool_]
    digest: npt.NDArray[np.str_]
    not_finite: npt.NDArray[np.int64]
    norm: Floats
    spread: Floats
    from_first: Floats
    step: Floats
    across: Floats
    to_last: Floats
    like_first: Floats
    like_before: Floats
    like_across: Floats

    @classmethod
    def of(cls, trails: Sequence[Trail], epochs: Sequence[int]) -> History:
        """Put finished trails together."""
        rows = [trail.finish() for trail in trails]
        empty = (0, len(epochs))

        def column(name: str, kind: Any) -> npt.NDArray[Any]:
            return np.array([row[name] for row in rows], kind).reshape((-1, *empty[1:]))

        flat = {
            "sizes": np.array([trail.size for trail in trails], np.int64),
            "weights": np.array([trail.weight for trail in trails], bool),
            "wide": np.array([trail.wide for trail in trails], bool),
        }
        names = [trail.name for trail in trails]
        kinds = {"digest": "U64", "not_finite": np.int64}
        wanted = [name for name in cls.__dataclass_fields__ if name not in {"names", "epochs"}]
        grids = {n: column(n, kinds.get(n, float)) for n in wanted if n not in flat}
        return cls(names, tuple(epochs), **flat, **grids)


class Trail:
    """One tensor, seen at one checkpoint after the other.

    Parameters
    ----------
    name : str

    Attributes
    ----------
    digests : list of str
        SHA-256 over values, shape and type.
    types : list of torch.dtype
    """

    def __init__(self, name: str) -> None:
        self.name, self.size = name, 0
        self.digests: list[str] = []
        self.types: list[torch.dtype] = []
        self.weight = self.wide = False
        self._seen: list[dict[str, float]] = []
        self._sketches: list[Tensor] = []
        self._done: dict[str, Any] = {}

    def add(self, now: Tensor, first: Tensor) -> None:
        """See the tensor at the next checkpoint, beside what it was at the first."""
        seen = hashlib.sha256()
        update_digest(seen, now)
        self.size = _numbers(now).numel()
        floating = now.is_floating_point()
        self.weight = floating and not is_statistic(self.name)
        self.wide = floating and now.element_size() >= 4
        sums, sketch = _sums(now, first)
        self.digests.append(seen.hexdigest())
        self.types.append(now.dtype)
        self._seen.append(sums)
        self._sketches.append(sketch)

    def finish(self) -> dict[str, Any]:
        """Return a row of each array of `History`, and free what was only needed for it."""
        if not self._done:
            self._done = self._rows()
            self._sketches.clear()
        return self._done

    def _rows(self) -> dict[str, Any]:
        seen, ones = self._seen, _ones(self.size)
        mean = [one["total"] / max(self.size, 1) for one in seen]
        spread = [self._spread(one, m) for one, m in zip(seen, mean, strict=True)]
        level = [s - m * ones for s, m in zip(self._sketches, mean, strict=True)]
        firsts = [one["dot"] - self.size * m * mean[0] for one, m in zip(seen, mean, strict=True)]

        def cosine(a: int, b: int, dot: float) -> float:
            return dot / (spread[a] * spread[b]) if spread[a] and spread[b] else math.nan

        def alike(a: int, b: int) -> float:
            return cosine(a, b, float(level[a] @ level[b]))

        def apart(a: int, b: int) -> float:
            return float((self._sketches[b] - self._sketches[a]).norm())

        last = len(seen) - 1
        return {
            "digest": self.digests,
            "not_finite": [one["bad"] for one in seen],
            "norm": [math.sqrt(one["squares"]) for one in seen],
            "spread": spread,
            "from_first": [math.sqrt(one["moved"]) for one in seen],
            "step": _from_before(apart, last),
            "across": _past_each(apart, last),
            "to_last": [apart(at, last) for at in range(last + 1)],
            "like_first": [cosine(0, at, dot) for at, dot in enumerate(firsts)],
            "like_before": _from_before(alike, last),
            "like_across": _past_each(alike, last),
        }

    def _spread(self, sums: Mapping[str, float], mean: float) -> float:
        spread = math.sqrt(max(sums["squares"] - self.size * mean * mean, 0.0))
        # Rounding leaves something of a constant.
        return spread if spread > _ROUNDING * math.sqrt(sums["squares"]) else 0.0


def _from_before(of: Callable[[int, int], float], last: int) -> list[float]:
    return [math.nan, *(of(at - 1, at) for at in range(1, last + 1))]


def _past_each(of: Callable[[int, int], float], last: int) -> list[float]:
    """From the place before to the one after; there is none at the ends."""
    return [of(at - 1, at + 1) if 0 < at < last else math.nan for at in range(last + 1)]


def _sums(now: Tensor, first: Tensor) -> tuple[dict[str, float], Tensor]:
    """Sums over all elements, in double precision, and the sketch; in pieces that fit a cache."""
    sums = dict.fromkeys(("total", "squares", "moved", "dot", "bad"), 0.0)
    sketch, room = _Sketch(), torch.empty(2, _PIECE, dtype=torch.float64)
    pieces = (torch.split(_numbers(t), _PIECE) for t in (now, first))
    for piece, start in zip(*pieces, strict=True):
        # Into the same memory: to make room anew for each piece takes longer than to sum it.
        number, before = (
            to[: len(piece)].copy_(x) for to, x in zip(room, (piece, start), strict=True)
        )
        squares = float(number @ number)
        sums["total"] += float(number.sum())
        sums["squares"] += squares
        sums["dot"] += float(number @ before)
        sums["bad"] += 0 if math.isfinite(squares) else int((~torch.isfinite(number)).sum())
        sketch.add(number)
        difference = before.sub_(number)
        sums["moved"] += float(difference @ difference)
    return sums, sketch.of(_numbers(now).numel())


def _numbers(tensor: Tensor) -> Tensor:
    """Elements in a row, of complex ones both parts."""
    plain = tensor.detach()
    return (torch.view_as_real(plain) if plain.is_complex() else plain).flatten()


class _Sketch:
    """Sums of elements with signs, to which pieces are added one after the other."""

    def __init__(self) -> None:
        self._sums = torch.zeros(_PIECE // WIDTH, WIDTH, dtype=torch.float64)
        self._pieces = 0

    def add(self, piece: Tensor) -> None:
        """Add the next elements: as many as a piece has, unless they are the last."""
        start = self._pieces * _STRIDE % _PIECE
        self._pieces += 1
        if len(piece) < _PIECE:
            piece = functional.pad(piece, (0, _PIECE - len(piece)))
        signs = _signs()[start : start + _PIECE]
        self._sums.addcmul_(piece.view_as(self._sums), signs.view_as(self._sums))

    def of(self, size: int) -> Tensor:
        """Return the sketch of so many elements, no longer than these."""
        return self._sums.sum(0)[:size].clone()


@cache
def _signs() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (2 * _PIECE,), generator=generator).double() * 2 - 1


def _ones(size: int) -> Tensor:
    """Sketch of as many ones, to take a mean off a sketch."""
    sketch, ones = _Sketch(), torch.ones(_PIECE, dtype=torch.float64)
    for start in range(0, size, _PIECE):
        sketch.add(ones[: size - start])
    return sketch.of(size)
