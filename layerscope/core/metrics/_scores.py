"""Scores of logits, position by position."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.core.batches import NO_TARGET
from layerscope.errors import DataError

__all__ = [
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
]

_PIECE = 2**22
"""Outputs that are scored at a time, at least: 16 MB in single precision."""
_MOST_PIECES = 16
"""Every piece starts kernels of its own, which an accelerator waits for."""


def _by_pieces(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Score a large vocabulary some positions at a time, so that no softmax of the whole is made.

    `function` takes outputs, targets and perhaps a reference; what it returns for a position, in
    the last dimensions, depends on that position alone, so that all bits are those of the whole.
    """

    @functools.wraps(function)
    def scored(outputs: Tensor, targets: Any, *reference: Tensor) -> Tensor:
        if outputs.ndim < 2 or outputs.numel() <= _PIECE:
            return function(outputs, targets, *reference)
        values: Tensor | None = None
        for at in _pieces(outputs.shape):
            # Targets of another form are of no account where outputs alone are compared.
            placed = torch.is_tensor(targets) and targets.shape == outputs.shape[:-1]
            there = targets[at] if placed else targets
            piece = function(outputs[at], there, *(each[at] for each in reference))
            if values is None:
                bins = piece.shape[: piece.ndim - outputs.ndim + 1]
                values = piece.new_empty((*bins, *outputs.shape[:-1]))
            rest = [slice(None)] * (outputs.ndim - 1 - len(at))
            where: Any = (..., *at, *rest)
            values[where] = piece
        assert values is not None
        return values

    return scored


def _pieces(shape: torch.Size) -> Iterator[tuple[slice, ...]]:
    """Cut outputs of shape (n, …, classes) into some examples, or some positions of one."""
    each, size = math.prod(shape[1:]), max(_PIECE, math.prod(shape) // _MOST_PIECES)
    if each <= size or len(shape) == 2:
        step = max(1, size // each)
        yield from ((slice(start, start + step),) for start in range(0, shape[0], step))
        return
    step = max(1, size // math.prod(shape[2:]))
    for index in range(shape[0]):
        for start in range(0, shape[1], step):
            yield slice(index, index + 1), slice(start, start + step)


def predicted_class(outputs: Tensor) -> Tensor:
    """Find the class with the largest logit; −1, which no target is, where one of them is NaN.

    >>> predicted_class(torch.tensor([[0.0, 2.0], [float("nan"), 2.0]])).tolist()
    [1, -1]
    """
    place = outputs.argmax(-1, keepdim=True)
    # argmax points to a NaN if there is one.
    return torch.where(outputs.gather(-1, place).isnan(), -1, place).squeeze(-1)


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (predicted_class(outputs) != targets).float()


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (predicted_class(outputs) == targets).float()


@_by_pieces
def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    flat, wanted = _single(outputs).flatten(0, -2), targets.flatten().long()
    loss = nn.functional.cross_entropy(flat, wanted, reduction="none", ignore_index=NO_TARGET)
    return loss.view(targets.shape)


def agreement(outputs: Tensor, _: Any, reference: Tensor) -> Tensor:
    found, wanted = predicted_class(outputs), predicted_class(reference)
    return ((found == wanted) & (found >= 0)).float()


@_by_pieces
def kl_divergence(outputs: Tensor, _: Any, reference: Tensor) -> Tensor:
    found, wanted = (_single(each).log_softmax(-1) for each in (outputs, reference))
    probable = wanted.exp()
    # What the unperturbed network rules out adds nothing, whatever the other says of it.
    terms = torch.where(probable == 0, 0.0, probable * (wanted - found))
    # Rounding may carry the sum below 0; NaN stays.
    return terms.sum(-1).clamp(min=0)


@_by_pieces
def cosine(outputs: Tensor, _: Any, reference: Tensor) -> Tensor:
    similarity = nn.functional.cosine_similarity(_softmax(outputs), _softmax(reference), -1)
    # Rounding may carry the similarity of equal outputs past 1.
    return similarity.clamp(0, 1)


@_by_pieces
def calibration(outputs: Tensor, targets: Tensor) -> Tensor:
    confidence, named = _softmax(outputs).max(-1)
    # Subtracted later, in double precision, in which both are exact.
    return torch.stack([(named == targets).to(confidence), confidence])


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


def _softmax(outputs: Tensor) -> Tensor:
    return _single(outputs).softmax(-1)


def _single(outputs: Tensor) -> Tensor:
    """In single precision at least: half is too coarse for what is made of logits."""
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs


def not_finite(outputs: Tensor, targets: Any) -> Tensor:
    largest = outputs.amax(-1) if outputs.ndim > 1 else outputs
    wrong = ~largest.isfinite()
    by_position = targets is None or getattr(targets, "shape", None) == wrong.shape
    return (wrong if by_position else wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong).float()
