"""Scores of logits, position by position."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.core.batches import NO_TARGET
from layerscope.errors import DataError

__all__ = [
    "Score",
    "accuracy",
    "agreement",
    "bce",
    "calibration",
    "cosine",
    "error",
    "kl_divergence",
    "loss",
    "mse",
    "not_finite",
    "predicted_class",
    "score_positions",
]

_PIECE = 2**20
"""Outputs that are scored at a time: 4 MB in single precision, which caches and the heap hold."""
_FEW, _MOST_PIECES = 4, 16
"""Every piece starts kernels of its own, which an accelerator waits for: it gets few, and large."""


class Positions:
    """Some positions, with what several scores are made of, each computed once.

    Parameters
    ----------
    outputs : Tensor
        Shape ``(n, …, classes)``.
    targets
        Shape ``(n, …)`` where scores read them.
    reference : Tensor, optional
        As `outputs`.
    """

    def __init__(self, outputs: Tensor, targets: Any, reference: Tensor | None = None) -> None:
        self.targets = targets
        self._outputs, self._reference = outputs, reference

    @functools.cached_property
    def logits(self) -> Tensor:
        return _single(self._outputs)

    @functools.cached_property
    def largest(self) -> Tensor:
        return self.logits.amax(-1) if self.logits.ndim > 1 else self.logits

    @functools.cached_property
    def predicted(self) -> Tensor:
        return torch.where(self.largest.isnan(), -1, self.logits.argmax(-1))

    @functools.cached_property
    def log_probabilities(self) -> Tensor:
        return self.logits.log_softmax(-1)

    @functools.cached_property
    def probabilities(self) -> Tensor:
        return self.logits.softmax(-1)

    @functools.cached_property
    def reference(self) -> Positions:
        assert self._reference is not None
        return Positions(self._reference, None)


@dataclass(frozen=True)
class Score:
    """A metric's function of which every value depends on its own position alone.

    Parameters
    ----------
    of : callable
        Takes `Positions` of shape ``(n, …)`` and returns that shape, or ``(2, n, …)``.
    fit : callable, optional
        Brings the values of all positions to the form of the targets, which it takes too.
    """

    of: Callable[[Positions], Tensor]
    fit: Callable[[Tensor, Any], Tensor] | None = None

    def __call__(self, outputs: Tensor, targets: Any, *reference: Tensor) -> Tensor:
        return score_positions([self], outputs, targets, *reference)[self]


def score_positions(
    wanted: Iterable[Score], outputs: Tensor, targets: Any, *reference: Tensor
) -> dict[Score, Tensor]:
    """Score outputs of shape (n, …, classes), of a large vocabulary some positions at a time.

    No softmax of the whole is made then. All bits are those of the whole.
    """
    scores = list(dict.fromkeys(wanted))
    if outputs.ndim < 2 or outputs.numel() <= _size(outputs):
        given = Positions(outputs, targets, *reference)
        values = {each: each.of(given) for each in scores}
    else:
        values = _by_pieces(scores, outputs, targets, *reference)
    return {each: each.fit(found, targets) if each.fit else found for each, found in values.items()}


def _by_pieces(
    scores: list[Score], outputs: Tensor, targets: Any, *reference: Tensor
) -> dict[Score, Tensor]:
    values: dict[Score, Tensor] = {}
    # Targets of another form are of no account where outputs alone are compared.
    placed = torch.is_tensor(targets) and targets.shape == outputs.shape[:-1]
    for at in _pieces(outputs.shape, _size(outputs)) if scores else ():
        there = targets[at] if placed else targets
        given = Positions(outputs[at], there, *(each[at] for each in reference))
        rest = [slice(None)] * (outputs.ndim - 1 - len(at))
        where: Any = (..., *at, *rest)
        for each in scores:
            piece = each.of(given)
            if each not in values:
                bins = piece.shape[: piece.ndim - outputs.ndim + 1]
                values[each] = piece.new_empty((*bins, *outputs.shape[:-1]))
            values[each][where] = piece
    return values


def _size(outputs: Tensor) -> int:
    """How many outputs are scored at a time."""
    if devices.is_apart(outputs.device):
        return max(_FEW * _PIECE, outputs.numel() // _MOST_PIECES)
    return _PIECE


def _pieces(shape: torch.Size, size: int) -> Iterator[tuple[slice, ...]]:
    """Cut outputs of shape (n, …, classes) into some examples, or some positions of one."""
    if math.prod(shape[1:]) <= size or len(shape) == 2:
        yield from ((at,) for at in _slices(shape, size))
        return
    for index in range(shape[0]):
        for at in _slices(shape[1:], size):
            yield slice(index, index + 1), at


def _slices(shape: torch.Size, size: int) -> Iterator[slice]:
    """Cut the first dimension into slices of about `size` outputs, none of a single position."""
    # Several threads share in a sum that stands alone, in another order than in a sum among others.
    least = 2 if math.prod(shape[1:-1]) == 1 else 1
    step = max(least, size // math.prod(shape[1:]))
    ends = [*range(step, shape[0] - least + 1, step), shape[0]]
    return map(slice, [0, *ends[:-1]], ends)


def predicted_class(outputs: Tensor) -> Tensor:
    """Find the class with the largest logit; −1, which no target is, where one of them is NaN.

    >>> predicted_class(torch.tensor([[0.0, 2.0], [float("nan"), 2.0]])).tolist()
    [1, -1]
    """
    place = outputs.argmax(-1, keepdim=True)
    # argmax points to a NaN if there is one.
    return torch.where(outputs.gather(-1, place).isnan(), -1, place).squeeze(-1)


@Score
def error(at: Positions) -> Tensor:
    return at.predicted.ne(at.targets).float()


@Score
def accuracy(at: Positions) -> Tensor:
    return at.predicted.eq(at.targets).float()


@Score
def loss(at: Positions) -> Tensor:
    # Cross-entropy, with the logarithms that others read too.
    flat, wanted = at.log_probabilities.flatten(0, -2), at.targets.flatten().long()
    loss = nn.functional.nll_loss(flat, wanted, reduction="none", ignore_index=NO_TARGET)
    return loss.view(at.targets.shape)


@Score
def agreement(at: Positions) -> Tensor:
    return ((at.predicted == at.reference.predicted) & (at.predicted >= 0)).float()


@Score
def kl_divergence(at: Positions) -> Tensor:
    probable = at.reference.log_probabilities.exp()
    terms = at.reference.log_probabilities - at.log_probabilities
    # What the unperturbed network rules out adds nothing, whatever the other says of it.
    terms = terms.mul_(probable).masked_fill_(probable == 0, 0.0)
    # Rounding may carry the sum below 0; NaN stays.
    return terms.sum(-1).clamp(min=0)


@Score
def cosine(at: Positions) -> Tensor:
    found, wanted = at.probabilities, at.reference.probabilities
    # Rounding may carry the similarity of equal outputs past 1.
    return nn.functional.cosine_similarity(found, wanted, -1).clamp(0, 1)


@Score
def calibration(at: Positions) -> Tensor:
    confidence, named = at.probabilities.max(-1)
    # Subtracted later, in double precision, in which both are exact.
    return torch.stack([(named == at.targets).to(confidence), confidence])


def _not_finite(at: Positions) -> Tensor:
    return (~at.largest.isfinite()).float()


def _of_examples(values: Tensor, targets: Any) -> Tensor:
    """Keep one value per position only where targets are unknown or have that form too."""
    by_position = targets is None or getattr(targets, "shape", None) == values.shape
    return values if by_position or values.ndim < 2 else (values.flatten(1) > 0).any(1).float()


not_finite = Score(_not_finite, _of_examples)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    found, wanted = _alike("mse", outputs, targets)
    return nn.functional.mse_loss(found, wanted, reduction="none").flatten(1).mean(1)


def bce(outputs: Tensor, targets: Tensor) -> Tensor:
    found, wanted = _alike("bce", outputs, targets)
    loss = nn.functional.binary_cross_entropy_with_logits(found, wanted, reduction="none")
    return loss.flatten(1).mean(1)


def _alike(name: str, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """Outputs and targets in one shape (n, …) and type; never broadcast."""
    # One number for each example may stand in a dimension of its own, or not.
    if not torch.is_tensor(targets) or _one(outputs.shape) != _one(targets.shape):
        given = tuple(targets.shape) if torch.is_tensor(targets) else type(targets).__name__
        raise DataError(
            f"{name} came with outputs of shape {tuple(outputs.shape)} and targets {given}; both "
            "must have the same shape (n, …)."
        )
    found = _single(outputs).reshape(len(outputs), -1)
    return found, targets.reshape(len(targets), -1).to(found.dtype)


def _one(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:1]) if tuple(shape[1:]) == (1,) else tuple(shape)


def _single(outputs: Tensor) -> Tensor:
    """In single precision at least: half is too coarse for what is made of logits."""
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs
