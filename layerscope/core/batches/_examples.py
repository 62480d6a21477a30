"""Labelled examples in memory, and the data sets made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from layerscope.base import seeds
from layerscope.base.tensors import update_digest
from layerscope.base.validate import describe
from layerscope.errors import DataError, OptionError

__all__ = [
    "NO_TARGET",
    "Batch",
    "Examples",
    "Grouped",
    "by_batch",
    "label_range",
    "normalise",
    "require_values",
]

Batch: TypeAlias = tuple[Any, Any]
"""Inputs (a tensor, or a tuple or mapping of them), and targets: a tensor of shape ``(n, …)``, or
None where the inputs have no labels."""

NO_TARGET = -100
"""The target of a position that nothing counts, as torch's losses have it: such as the last of a
packed text, which has no next token."""


class Grouped:
    """Targets of examples that have several rows of the inputs each, one after the other.

    Attributes
    ----------
    rows : sequence of int
        How many each example has.
    """

    __slots__ = ()
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)


def require_values(tensor: Tensor, what: str) -> None:
    """Refuse a tensor that can't be cut into batches.

    Raises
    ------
    DataError
    """
    if tensor.is_meta or tensor.layout != torch.strided:
        raise DataError(
            f"{what} is sparse, or on the device meta; give a dense one with values: .to_dense()."
        )


@dataclass(frozen=True, eq=False)
class Examples:
    """A set of labelled examples in memory.

    Parameters
    ----------
    inputs : Tensor
        Shape ``(n, *shape)``; pictures of ``uint8`` in 0…255, ``(n, …, height, width)``, are
        normalised, and all else is left as it is: other types, and bytes of text, ``(n, T)``.
    targets : Tensor
        Shape ``(n,)``, ``int64`` class indices; ``(n, T)`` for sequences, −100 where there is none.
    mean, std : float or tuple of float
        For ``uint8`` pictures: subtracted from and divided into pixels scaled to [0, 1]; one for
        all, or one for each channel.
    name : str
        What results say they were measured on.
    about : str
        What else the numbers depend on, such as the hash of a tokenizer; part of the fingerprint.
    """

    inputs: Tensor
    targets: Tensor
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    name: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        for what in ("inputs", "targets"):
            if not isinstance(getattr(self, what), Tensor):
                raise DataError(
                    f"{what} is {describe(getattr(self, what))}; give a tensor: "
                    f"torch.as_tensor({what})."
                )
            require_values(getattr(self, what), what)
        if self.inputs.ndim == 0 or self.targets.ndim == 0:
            raise DataError("inputs and targets must have one entry per example; one is a number.")
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"{len(self.inputs)} inputs came with {len(self.targets)} targets; "
                "there must be one target for each input."
            )
        for what in ("mean", "std"):
            given = getattr(self, what)
            channels = self.inputs.shape[1] if self.inputs.ndim > 1 else 0
            if isinstance(given, tuple) and len(given) != channels:
                raise OptionError(
                    f"{what} has {len(given)} values for inputs of shape "
                    f"{tuple(self.inputs.shape)}; give one number, or one for each of the "
                    f"{channels} channels."
                )

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"<{len(self):,} examples of shape {tuple(self.inputs.shape[1:])}: {self.name}>"

    def first(self, count: int) -> Examples:
        """The first `count` examples (all of them where there are fewer)."""
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def take(self, index: Tensor) -> Examples:
        """The examples at `index`, shape ``(k,)``, in that order."""
        return replace(self, inputs=self.inputs[index], targets=self.targets[index])

    def labelled(self, targets: Tensor) -> Examples:
        """Return the inputs with other targets."""
        return replace(self, targets=targets)

    def to(self, device: torch.device) -> Examples:
        """Return the examples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def batches(
        self,
        size: int,
        order: Tensor | None = None,
        augment: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Iterator[Batch]:
        """Yield normalised batches of `size` (the last may be smaller).

        Parameters
        ----------
        size : int
            Examples in a batch.
        order : Tensor, optional
            Shape ``(k,)``: which examples come, in which order; all, as stored, by default.
        augment : callable, optional
            Takes stored inputs, shape ``(n, *shape)``, and the number of the batch, counted from
            0, and returns the same shape, such as ``Augment().at(seed, epoch)``.
        """
        count = len(self) if order is None else len(order)
        order = None if order is None else order.to(self.inputs.device)  # once, not for each batch
        for number, start in enumerate(range(0, count, size)):
            where = slice(start, start + size) if order is None else order[start : start + size]
            stored = self.inputs[where]
            if augment is not None:
                # A slice is the stored memory, and what augments may work in place.
                stored = augment(stored.clone() if order is None else stored, number)
            yield normalise(stored, self.mean, self.std), self.targets[where]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the stored inputs, the targets, the normalisation and `about`."""
        seen = hashlib.sha256(repr((self.mean, self.std)).encode())
        update_digest(seen, self.inputs)
        update_digest(seen, self.targets)
        seen.update(self.about.encode())
        return seen.hexdigest()


def label_range(targets: Any) -> tuple[int, int] | None:
    """The lowest and the highest class index that counts; None where there is none.

    >>> label_range(torch.tensor([[2, 7], [5, -100]]))
    (2, 7)
    """
    if not torch.is_tensor(targets) or targets.is_floating_point() or targets.is_complex():
        return None
    counted = targets[targets != NO_TARGET]
    return (int(counted.min()), int(counted.max())) if counted.numel() else None


def by_batch(
    augment: Callable[[Tensor, torch.Generator], Tensor], seed: int, epoch: int, first: int = 0
) -> Callable[[Tensor, int], Tensor]:
    """Give every batch of an epoch, counted from `first`, chance of its own."""

    def change(inputs: Tensor, batch: int) -> Tensor:
        return augment(inputs, seeds.generator("augment", seed, epoch, first + batch))

    return change


def normalise(
    inputs: Tensor, mean: float | tuple[float, ...], std: float | tuple[float, ...]
) -> Tensor:
    """Scale ``uint8`` pictures to [0, 1], subtract `mean`, divide by `std`; leave others alone."""
    if inputs.dtype != torch.uint8 or inputs.ndim < 3:
        return inputs
    shift, scale = (_by_channel(value, inputs) for value in (mean, std))
    return inputs.to(torch.float32).div_(255).sub_(shift).div_(scale)


def _by_channel(value: float | tuple[float, ...], inputs: Tensor) -> Any:
    if not isinstance(value, tuple):
        return value
    shape = (-1, *(1 for _ in inputs.shape[2:]))
    return torch.tensor(value, dtype=torch.float32, device=inputs.device).reshape(shape)
