"""The forms in which a user may hold data, all turned into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.data.examples import Batch, Examples, ImageData
from layerscope.data.joined import Joined
from layerscope.data.pictures import ImageStream, Pictures
from layerscope.data.text import TextData
from layerscope.errors import DataError, OptionError
from layerscope.validate import integer

__all__ = ["batches", "count", "move", "parts"]


def batches(data: Any, size: int, order: Tensor | None = None) -> Iterator[Batch]:
    """Yield ``(inputs, targets)`` from any of the forms that a user may hold.

    Parameters
    ----------
    data : Examples, Pictures, pair of tensors, or iterable of batches
        A pair ``(inputs, targets)`` is cut into batches of `size`; an iterable, such as a
        ``DataLoader``, already yields batches and keeps its own. Targets may be None where there
        are no labels.
    size : int
        Examples in a batch.
    order : Tensor, optional
        Shape ``(n,)``: the order of the examples, for what is cut here; as stored by default.

    Raises
    ------
    DataError
        If an item is not a pair of inputs and targets.
    OptionError
        If `size` is below 1, or an order is given for batches of the user's own.

    Examples
    --------
    >>> import torch
    >>> [len(inputs) for inputs, _ in batches((torch.zeros(5, 2), None), 2)]
    [2, 2, 1]
    """
    size = integer(size, "batch_size", 1, 64)
    known = parts(data)
    if known is not None:
        if isinstance(known, Tensor):
            yield from _unlabelled(known, size, order)
        else:
            yield from known.batches(size, order)
        return
    if order is not None:
        raise OptionError(
            f"data is a {type(data).__name__} that makes its own batches; pass tensors (inputs, "
            "targets) to evaluate in another order."
        )
    _refuse(data)
    for item in data:
        _check(item)
        yield item[0], item[1]


def parts(data: Any) -> Examples | Pictures | Joined | Tensor | None:
    """What can be cut into batches of any size; None for batches of the user's own.

    A pair of tensors becomes `Examples`; the inputs alone are returned where targets are None.
    """
    if isinstance(data, (Examples, Pictures, Joined)):
        return data
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and torch.is_tensor(data[0])):
        return None
    if torch.is_tensor(data[1]):
        return Examples(data[0], data[1])
    if data[1] is not None:
        return None
    if data[0].ndim == 0:
        raise DataError("inputs must have one entry per example; they are a number.")
    inputs: Tensor = data[0]
    return inputs


def count(inputs: Any, targets: Any) -> int:
    """Number of examples in a batch: of its targets, else of the first tensor of its inputs."""
    if torch.is_tensor(targets):
        return len(targets)
    if torch.is_tensor(inputs):
        if inputs.ndim == 0:
            raise DataError("a batch has a single number as its inputs; give batches of examples.")
        return len(inputs)
    values: Iterable[Any] = inputs.values() if isinstance(inputs, Mapping) else inputs
    for value in values if isinstance(inputs, (Mapping, tuple, list)) else ():
        return count(value, None)
    raise DataError(
        f"a batch without targets has inputs of type {type(inputs).__name__}; they must hold a "
        "tensor, so that its examples can be counted."
    )


def move(inputs: Any, device: torch.device) -> Any:
    """Move a tensor, or every tensor in a tuple, list or mapping, to `device`."""
    if torch.is_tensor(inputs):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {key: move(value, device) for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(move(value, device) for value in inputs)
    return inputs


def _unlabelled(inputs: Tensor, size: int, order: Tensor | None) -> Iterator[Batch]:
    for start in range(0, len(inputs), size):
        where = slice(start, start + size) if order is None else order[start : start + size]
        yield inputs[where], None


def _refuse(data: Any) -> None:
    """Raise for what is no iterable of batches."""
    if isinstance(data, (ImageData, ImageStream, TextData)):
        raise DataError(f"data is all of {data.name}; pass its test part: data.test.")
    arrays = isinstance(data, (tuple, list)) and any(isinstance(part, np.ndarray) for part in data)
    if arrays:
        raise DataError("data holds NumPy arrays; turn them into tensors with torch.as_tensor.")
    if not isinstance(data, Iterable) or torch.is_tensor(data):
        raise DataError(
            f"data is a {type(data).__name__}; give a pair of tensors (inputs, targets), or an "
            "iterable of such pairs, such as a DataLoader."
        )


def _check(item: Any) -> None:
    """Raise for an item that is no batch."""
    pair = isinstance(item, (tuple, list)) and len(item) == 2
    if not pair or not (item[1] is None or torch.is_tensor(item[1])):
        raise DataError(
            f"a batch is a {type(item).__name__}; each must be a pair (inputs, targets), "
            "targets a tensor, or None without labels."
        )
    if item[1] is not None and item[1].ndim == 0:
        raise DataError(
            "a batch has a single number as its targets; give batches, not examples one by "
            "one, such as a DataLoader makes of a data set."
        )
