"""Batches that stay the same from one pass to the next."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layerscope.base import seeds
from layerscope.base.tensors import update_digest
from layerscope.core.batches._examples import NO_TARGET, Batch, label_range
from layerscope.core.batches._forms import (
    as_cuttable,
    batches,
    copy_batch,
    count_examples,
    iterate_tensors,
    move,
)
from layerscope.core.batches._joined import JoinedBatches
from layerscope.core.batches._reading import BatchReader
from layerscope.errors import DataError, OptionError

__all__ = ["HELD_BYTES", "FixedBatches"]

HELD_BYTES = 2 * 2**30
"""Bytes of batches that may be held on the device."""

_EMPTY = "data holds no examples; give at least one batch."


class FixedBatches:
    """Batches on a device: decoded and moved once where they fit, else one after the other.

    Iterating gives the same batches every time.

    Parameters
    ----------
    data : Examples or other Cuttable, pair of tensors, or iterable of batches
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
    read : callable, optional
        Says of the first batch, moved to the device, how all are to be read; as they are by
        default.

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
    reading : Reading
    chance : float
        Error of always naming the commonest class, of the targets that count; NaN where they are
        no class indices.
    labels : pair of int, or None
        The lowest and the highest class index; None where there is none.
    positions : bool
        Whether an input has a target at each of several positions, as in text.
    heaviest : int or None
        The most targets that count of any one input; None where there are inputs without targets.
    cut : bool
        Batches are cut here, from plain tensors, and are not the user's own.

    Raises
    ------
    DataError
        If there are no examples, or no target that counts.
    OptionError
        If batches are to be shuffled that can't be put together: of different lengths, without an
        entry for each example, or larger than `limit`.

    Examples
    --------
    >>> held = FixedBatches((torch.arange(4.0), None), 3, torch.device("cpu"), shuffle_seed=0)
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
        limit: int = HELD_BYTES,
        shuffle_seed: int | None = None,
        read: Callable[[Any, Any], BatchReader] | None = None,
    ) -> None:
        self._data = list(map(copy_batch, data)) if isinstance(data, Iterator) else data
        self._device, self._limit = device, limit
        self._read = read or (lambda _, __: BatchReader())
        self._found: BatchReader | None = None
        self.name = str(getattr(data, "name", ""))
        self.order, self._order = "as given", None
        if shuffle_seed is not None:
            self._data = _recut(self._data, size, limit)
            size = getattr(self._data, "size", size)
            self.order = f"shuffled with seed {shuffle_seed}"
            shuffle = seeds.generator("evaluation order", shuffle_seed)
            self._order = torch.randperm(_length(self._data), generator=shuffle)
        self.cut = as_cuttable(self._data) is not None
        self._take_in(size)
        plain = hashlib.sha256(repr(self._seen).encode()).hexdigest()
        if as_cuttable(self._data) is self._data:
            plain = getattr(self._data, "fingerprint", plain)
        shuffled = hashlib.sha256(f"{plain} {self.order}".encode()).hexdigest()
        self.fingerprint = plain if shuffle_seed is None else shuffled

    def _take_in(self, size: int) -> None:
        """Run through the data once: hold what fits, and find out what there is to know."""
        self.size = size
        if as_cuttable(self._data) is self._data and hasattr(self._data, "bytes"):
            self._take_stored(self._data)
            return
        self._held: list[Batch] | None = []
        self.lengths, used = [], 0
        seen: list[str] = []
        labels = []
        for inputs, targets in batches(self._data, size, self._order):
            seen.append(_digest(inputs, targets))
            if self._found is None:
                self._found = self._read(*self._moved(inputs, targets))
            inputs, targets = self._found(inputs, targets)
            labels.append(targets.cpu() if torch.is_tensor(targets) else None)
            self.lengths.append(count_examples(inputs, targets))
            used += _bytes(inputs)
            if used > self._limit:
                self._held = None
            if self._held is not None:
                # Also safe from a callback that writes into what it has of the data.
                self._held.append(self._moved(copy_batch(inputs), copy_batch(targets)))
        self.count = sum(self.lengths)
        if self.count == 0:
            raise DataError(_EMPTY)
        self._seen: list[str] | None = seen
        self._know(labels)

    def _take_stored(self, stored: Any) -> None:
        """Hold what fits; what there is to know is known without decoding it."""
        if len(stored) == 0:
            raise DataError(_EMPTY)
        self._seen, self._held = None, None
        self.count = len(stored)
        self._know([stored.targets])
        starts = range(0, self.count, self.size)
        self.lengths = [min(self.size, self.count - start) for start in starts]
        if stored.bytes <= self._limit:
            self._held = [self._moved(*batch) for batch in batches(stored, self.size, self._order)]

    def _know(self, labels: list[Tensor | None]) -> None:
        """Learn what there is to know of the targets of all batches."""
        classes = [t for t in labels if t is not None and _is_whole(t)]
        ranges = [found for found in map(label_range, classes) if found is not None]
        if classes and len(classes) == len(labels) and not ranges:
            raise DataError(
                f"all targets are {NO_TARGET}, which stands for no target, or at padding; nothing "
                "is left to measure on. Give the class that is right for at least one."
            )
        lows, highs = zip(*ranges, strict=True) if ranges else ((), ())
        self.labels = (min(lows), max(highs)) if ranges else None
        known_chance = getattr(self._data, "chance", None)
        by_classes = _chance(classes) if len(classes) == len(labels) else float("nan")
        # A task may say itself what guessing gives.
        self.chance = known_chance if isinstance(known_chance, float) else by_classes
        self.positions = any(targets.ndim > 1 for targets in classes)
        known = [_most_counted(targets) for targets in labels if targets is not None]
        self.heaviest = max(known) if len(known) == len(labels) else None

    def resized(self, size: int) -> FixedBatches:
        """Return the data in the same order in batches of another size, as after memory ran out.

        Raises
        ------
        OptionError
            If `size` is below 1, or the batches are the user's own.
        """
        if as_cuttable(self._data) is None:
            raise OptionError(
                "the batches are your own, so they can't be cut smaller here: give smaller ones, "
                f"such as DataLoader(..., batch_size={size}), or pass tensors (inputs, targets)."
            )
        other = copy.copy(self)
        other._take_in(size)
        return other

    @property
    def reader(self) -> BatchReader:
        """Reader of the batches."""
        return self._found or BatchReader()

    @property
    def indices(self) -> npt.NDArray[np.int64]:
        """Positions of the examples in the data as they were given, shape ``(count,)``."""
        return np.arange(self.count) if self._order is None else self._order.numpy()

    @property
    def first(self) -> Batch:
        """The first batch."""
        return self._held[0] if self._held else next(iter(self))

    def at(self, indices: range) -> Iterator[tuple[int, Batch]]:
        """Yield some consecutive batches, each with its index."""
        every = enumerate(self if self._held is None else self._held)
        yield from itertools.islice(every, indices.start, indices.stop)

    def sent(self) -> dict[str, Any]:
        """Return what another process needs; `arrived` makes the same of it there.

        Where all batches are held, that is these, each in memory of its own instead of a view of
        all the data; they can't be cut in another size there.
        """
        state = vars(self) | {"_read": None}
        if self._held is not None:
            home = torch.device("cpu")
            state |= {"_data": None, "_held": [move(pair, home) for pair in self._held]}
        return state

    @classmethod
    def arrived(cls, state: dict[str, Any]) -> FixedBatches:
        """Make batches of what `sent` returned in another process."""
        made = cls.__new__(cls)
        vars(made).update(state)
        if made._held is not None:
            made._held = [made._moved(*pair) for pair in made._held]
        return made

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
            yield self._moved(*self.reader(inputs, targets))
        if self._seen is not None and index + 1 != len(self._seen):
            raise _changed(f"there were {len(self._seen)} batches, now {index + 1}")

    def _moved(self, inputs: Any, targets: Any) -> Batch:
        return move(inputs, self._device), move(targets, self._device)


def _digest(inputs: Any, targets: Any) -> str:
    seen = hashlib.sha256()
    update_digest(seen, (inputs, targets))
    return seen.hexdigest()


def _changed(how: str) -> DataError:
    return DataError(
        f"the batches changed between two passes over the data ({how}); every cell must see the "
        "same ones. Switch shuffling and random augmentation off."
    )


def _recut(data: Any, size: int, limit: int) -> Any:
    """Data that can be cut in any order: batches of the user's own are put together."""
    if as_cuttable(data) is not None:
        return data
    found, used = [], 0
    for inputs, targets in batches(data, size):
        used += _bytes(inputs)
        if used > limit:
            raise OptionError(
                f"the batches take more than the {limit / 2**30:.1f} GiB that may be held, so "
                "they can't be put in another order. Pass tensors (inputs, targets)."
            )
        found.append((copy_batch(inputs), copy_batch(targets)))
    return JoinedBatches.of(found, [count_examples(*pair) for pair in found])


def _most_counted(targets: Tensor) -> int:
    """The most targets that count of any one example."""
    whole = not (targets.is_floating_point() or targets.is_complex())
    counted = targets != NO_TARGET if whole else torch.ones_like(targets, dtype=torch.bool)
    return int(counted.flatten(1).sum(1).max()) if targets.ndim > 1 else int(counted.any())


def _length(data: Any) -> int:
    known = as_cuttable(data)
    return 0 if known is None else len(known)


def _bytes(inputs: Any) -> int:
    return sum(each.numel() * each.element_size() for each in iterate_tensors(inputs))


def _is_whole(targets: Tensor) -> bool:
    return not (targets.is_floating_point() or targets.is_complex())


def _chance(classes: list[Tensor]) -> float:
    counted = [targets[targets != NO_TARGET].long() for targets in classes]
    found = torch.cat(counted) if counted else torch.empty(0)
    if found.numel() == 0:
        return float("nan")
    low, high = map(int, found.aminmax())
    # Counting needs no sorting, which takes long for millions of tokens.
    few = low >= 0 and high < 2**24
    counts = found.bincount() if few else torch.unique(found, return_counts=True)[1]
    return 1 - float(counts.max()) / found.numel()
