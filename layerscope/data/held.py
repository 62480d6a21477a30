"""Batches that stay the same from one pass to the next."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layerscope import seeds
from layerscope.data.examples import NO_TARGET, Batch, Examples, digest, label_range
from layerscope.data.forms import batches, count, move, parts
from layerscope.data.joined import Joined
from layerscope.data.pictures import Pictures
from layerscope.errors import DataError, OptionError

__all__ = ["Held"]

_EMPTY = "data holds no examples; give at least one batch."


class Held:
    """Batches on a device: decoded and moved once where they fit, else one after the other.

    Iterating gives the same batches every time.

    Parameters
    ----------
    data : Examples, Pictures, pair of tensors, or iterable of batches
        An iterator that can be run through only once is kept in memory.
    size : int
        Examples in a batch, for tensors.
    device : torch.device
    limit : int
        Bytes of batches that may be held.
    shuffle_seed : int, optional
        Evaluate in an order drawn with this seed, so that the first batches are a random sample
        of all. For it, batches of the user's own are put together, and cut anew into as many
        examples as the largest of them had.

    Attributes
    ----------
    name : str
        Of the data set, where it has one.
    count : int
        Number of inputs.
    size : int
        Examples in a batch that was asked for.
    lengths : list of int
        Examples in each batch.
    order : str
        ``"as given"``, or with which seed it was shuffled.
    fingerprint : str
        SHA-256 of the data, and of the order where it was shuffled.
    chance : float
        Error of always naming the commonest class; NaN where targets are not one class index for
        each input.
    labels : pair of int, or None
        The lowest and the highest class index; None where there is none.
    positions : bool
        Whether an input has a target at each of several positions, as in text.
    heaviest : int or None
        The most targets that count of any one input; None where there are inputs without targets.

    Raises
    ------
    DataError
        If there are no examples.
    OptionError
        If batches are to be shuffled that can't be put together: of different lengths, without an
        entry for each example, or larger than `limit`.

    Examples
    --------
    >>> held = Held((torch.arange(4.0), None), 3, torch.device("cpu"), shuffle_seed=0)
    >>> held.count, held.order, [len(inputs) for inputs, _ in held]
    (4, 'shuffled with seed 0', [3, 1])
    >>> [len(inputs) for inputs, _ in held.resized(2)]
    [2, 2]
    """

    def __init__(
        self,
        data: Any,
        size: int,
        device: torch.device,
        limit: int = 2 * 2**30,
        shuffle_seed: int | None = None,
    ) -> None:
        self._data = list(data) if isinstance(data, Iterator) else data
        self._device, self._limit = device, limit
        self.name = str(getattr(data, "name", ""))
        self.order, self._order = "as given", None
        if shuffle_seed is not None:
            self._data = _recut(self._data, size, limit)
            size = getattr(self._data, "size", size)
            self.order = f"shuffled with seed {shuffle_seed}"
            shuffle = seeds.generator("evaluation order", shuffle_seed)
            self._order = torch.randperm(_length(self._data), generator=shuffle)
        self._take_in(size)
        plain = hashlib.sha256(repr(self._seen).encode()).hexdigest()
        if isinstance(self._data, (Examples, Pictures)):
            plain = self._data.fingerprint
        shuffled = hashlib.sha256(f"{plain} {self.order}".encode()).hexdigest()
        self.fingerprint = plain if shuffle_seed is None else shuffled

    def _take_in(self, size: int) -> None:
        """Run through the data once: hold what fits, and find out what there is to know."""
        self.size = size
        if isinstance(self._data, Pictures):
            self._take_pictures(self._data)
            return
        self._held: list[Batch] | None = []
        self.lengths, used = [], 0
        seen: list[str] = []
        labels = []
        for inputs, targets in batches(self._data, size, self._order):
            seen.append(_digest(inputs, targets))
            labels.append(None if targets is None else targets.cpu())
            self.lengths.append(count(inputs, targets))
            used += _bytes(inputs)
            if used > self._limit:
                self._held = None
            if self._held is not None:
                self._held.append(self._moved(inputs, targets))
        self.count = sum(self.lengths)
        if self.count == 0:
            raise DataError(_EMPTY)
        self._seen: list[str] | None = seen
        self._know(labels)

    def _take_pictures(self, pictures: Pictures) -> None:
        """Hold pictures where they fit; what there is to know is known without decoding them."""
        if len(pictures) == 0:
            raise DataError(_EMPTY)
        self._seen, self._held = None, None
        self.count = len(pictures)
        self._know([pictures.targets])
        starts = range(0, self.count, self.size)
        self.lengths = [min(self.size, self.count - start) for start in starts]
        if pictures.bytes <= self._limit:
            self._held = [
                self._moved(*batch) for batch in batches(pictures, self.size, self._order)
            ]

    def _know(self, labels: list[Tensor | None]) -> None:
        """Learn what there is to know of the targets of all batches."""
        self.chance = _chance(labels)
        ranges = [found for found in map(label_range, labels) if found is not None]
        lows, highs = zip(*ranges, strict=True) if ranges else ((), ())
        self.labels = (min(lows), max(highs)) if ranges else None
        self.positions = any(targets is not None and targets.ndim > 1 for targets in labels)
        known = [_most_counted(targets) for targets in labels if targets is not None]
        self.heaviest = max(known) if len(known) == len(labels) else None

    def resized(self, size: int) -> Held:
        """The same data in the same order in batches of another size, as after memory ran out.

        Raises
        ------
        OptionError
            If `size` is below 1, or the batches are the user's own.
        """
        if parts(self._data) is None:
            raise OptionError(
                "the batches are your own, so they can't be cut smaller here: give smaller ones, "
                f"such as DataLoader(..., batch_size={size}), or pass tensors (inputs, targets)."
            )
        other = copy.copy(self)
        other._take_in(size)
        return other

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """Where each example stands in the data as they were given, shape ``(count,)``."""
        return np.arange(self.count) if self._order is None else self._order.numpy()

    @property
    def first(self) -> Batch:
        """The first batch."""
        return self._held[0] if self._held else next(iter(self))

    def __iter__(self) -> Iterator[Batch]:
        if self._held is not None:
            yield from self._held
            return
        index = -1
        for index, (inputs, targets) in enumerate(batches(self._data, self.size, self._order)):
            # Before anybody sees it: a sweep may stop after this batch, and keeps what it gave.
            if (
                self._seen is not None
                and _digest(inputs, targets) not in self._seen[index : index + 1]
            ):
                raise _changed(f"batch {index} is not what it was")
            yield self._moved(inputs, targets)
        if self._seen is not None and index + 1 != len(self._seen):
            raise _changed(f"there were {len(self._seen)} batches, now {index + 1}")

    def _moved(self, inputs: Any, targets: Tensor | None) -> Batch:
        return move(inputs, self._device), None if targets is None else targets.to(self._device)


def _digest(inputs: Any, targets: Any) -> str:
    seen = hashlib.sha256()
    digest(seen, (inputs, targets))
    return seen.hexdigest()


def _changed(how: str) -> DataError:
    return DataError(
        f"the batches changed between two passes over the data ({how}); every cell must see the "
        "same ones. Switch shuffling and random augmentation off."
    )


def _recut(data: Any, size: int, limit: int) -> Any:
    """Data that can be cut in any order: batches of the user's own are put together."""
    if parts(data) is not None:
        return data
    found, used = [], 0
    for inputs, targets in batches(data, size):
        used += _bytes(inputs)
        if used > limit:
            raise OptionError(
                f"the batches take more than the {limit / 2**30:.1f} GiB that may be held, so "
                "they can't be put in another order. Pass tensors (inputs, targets)."
            )
        found.append((inputs, targets))
    return Joined.of(found, [count(*pair) for pair in found])


def _most_counted(targets: Tensor) -> int:
    """The most targets that count of any one example."""
    whole = not (targets.is_floating_point() or targets.is_complex())
    counted = targets != NO_TARGET if whole else torch.ones_like(targets, dtype=torch.bool)
    return int(counted.flatten(1).sum(1).max()) if targets.ndim > 1 else int(counted.any())


def _length(data: Any) -> int:
    known = parts(data)
    return 0 if known is None else len(known)


def _bytes(inputs: Any) -> int:
    if torch.is_tensor(inputs):
        return int(inputs.numel() * inputs.element_size())
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return sum(map(_bytes, values)) if isinstance(inputs, (Mapping, tuple, list)) else 0


def _chance(labels: list[Tensor | None]) -> float:
    known = [targets for targets in labels if targets is not None and targets.ndim == 1]
    if len(known) < len(labels):
        return float("nan")
    targets = torch.cat(known)
    if targets.is_floating_point() or targets.numel() == 0:
        return float("nan")
    return 1 - float(torch.unique(targets, return_counts=True)[1].max()) / targets.numel()
