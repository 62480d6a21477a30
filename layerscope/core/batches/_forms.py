"""The forms in which a user may hold data, all turned into batches."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from layerscope.base import devices
from layerscope.base.validate import integer
from layerscope.core.batches._examples import Batch, Grouped, require_values
from layerscope.core.batches._reading import IDS, Arguments, is_padding, tokens
from layerscope.errors import DataError, OptionError

__all__ = [
    "Cuttable",
    "TensorData",
    "as_cuttable",
    "batches",
    "copy_batch",
    "count_examples",
    "iterate_tensors",
    "move",
]

_LABELS = ("labels", "label", "label_ids")


@runtime_checkable
class Cuttable(Protocol):
    """Examples that are cut into batches of any size, in any order: `Examples`, or a class alike.

    A ``fingerprint`` of its own, where it has one, is taken for that of its content. One that has
    also ``targets``, shape ``(n,)``, and ``bytes``, of all batches together, is not run through to
    find out what there is to know of it.
    """

    def __len__(self) -> int: ...

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Yield batches of `size` (the last may be smaller), in an order of shape ``(n,)``."""
        ...


def batches(data: Any, size: int, order: Tensor | None = None) -> Iterator[Batch]:
    """Yield ``(inputs, targets)`` from any of the forms that a user may hold.

    Inputs and targets come as they are, of whatever type; only `Examples` and pictures, which
    say how their pixels are normalised, do that.

    Parameters
    ----------
    data : Examples or other Cuttable, pair of tensors, mapping of tensors, or iterable of batches
        A pair ``(inputs, targets)`` is cut into batches of `size`, and so is a mapping from
        arguments to tensors with its targets under ``"labels"``, or rows of ``datasets``; an
        iterable, such as a ``DataLoader``, already yields batches of these forms and keeps its own.
        Targets may be None where there are no labels.
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
    known = as_cuttable(data)
    if known is not None:
        yield from known.batches(size, order)
        return
    if order is not None:
        raise OptionError(
            f"data is a {type(data).__name__} that makes its own batches; pass tensors (inputs, "
            "targets) to evaluate in another order."
        )
    _refuse(data)
    for item in data:
        yield _read(item)


@dataclass(frozen=True, eq=False)
class TensorData:
    """Tensors of all examples at once, as a user holds them: cut, and else as they are.

    Parameters
    ----------
    inputs : Tensor, or tuple or mapping of tensors
        Shape ``(n, …)``; what has another length goes whole into every batch.
    targets : Tensor, optional
        Shape ``(n, …)``.
    """

    inputs: Any
    targets: Tensor | None = None

    def __post_init__(self) -> None:
        given = [each for each in (*iterate_tensors(self.inputs), self.targets) if each is not None]
        for each in given:
            require_values(each, "a tensor of the data")
        if any(each.ndim == 0 for each in given):
            raise DataError("inputs and targets must have one entry per example; one is a number.")
        lengths = {len(each) for each in iterate_tensors(self.inputs)}
        if len(self) not in lengths:
            raise DataError(
                f"{' and '.join(map(str, sorted(lengths)))} inputs came with {len(self)} targets; "
                "there must be one target for each input."
            )

    def __len__(self) -> int:
        return len(next(iterate_tensors(self.inputs)) if self.targets is None else self.targets)

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Yield batches of `size` (the last may be smaller), in an order of shape ``(n,)``."""
        for start in range(0, len(self), size):
            where = slice(start, start + size) if order is None else order[start : start + size]
            yield self._cut(self.inputs, where), self._cut(self.targets, where)

    def _cut(self, value: Any, where: slice | Tensor) -> Any:
        def cut(each: Tensor) -> Tensor:
            return each[where] if len(each) == len(self) else each

        return map_tensors(cut, value)


@dataclass(frozen=True, eq=False)
class DatasetRows:
    """Rows of ``datasets``, whose columns are a network's arguments and its labels."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[Batch]:
        """Yield batches of `size` (the last may be smaller), in an order of shape ``(n,)``."""
        held = self.rows.with_format("torch")
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            chosen = range(start, stop) if order is None else order[start:stop].tolist()
            yield _read(held[list(chosen)])


def as_cuttable(data: Any) -> Cuttable | None:
    """Find what can be cut into batches of any size; None for batches of the user's own."""
    # A loader of the user's own may hold its batches under that name.
    if isinstance(data, Cuttable) and callable(data.batches):
        return data
    if isinstance(data, Mapping):
        return TensorData(*_read(data))
    if hasattr(data, "with_format") and hasattr(data, "column_names") and hasattr(data, "__len__"):
        return DatasetRows(data)
    if not (isinstance(data, (tuple, list)) and len(data) == 2):
        return None
    inputs, targets = data
    if torch.is_tensor(inputs) and (targets is None or torch.is_tensor(targets)):
        return TensorData(inputs, targets)
    several = (
        isinstance(inputs, (tuple, list, Mapping))
        and next(iterate_tensors(inputs), None) is not None
    )
    unlabelled = targets is None and isinstance(inputs, Mapping)
    return (
        TensorData(inputs, targets)
        if several and (torch.is_tensor(targets) or unlabelled)
        else None
    )


def count_examples(inputs: Any, targets: Any) -> int:
    """Number of examples in a batch: of its targets, else of the first of its inputs."""
    if isinstance(targets, Grouped):
        return len(targets)
    if targets is not None:
        return _length(targets)
    several = isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence)
    if several or isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values() if isinstance(inputs, Mapping) else inputs), None)
    return _length(inputs)


def move(inputs: Any, device: torch.device) -> Any:
    """Move a tensor, every tensor in a tuple, list or mapping, or what has ``to``, to `device`."""

    def moved(each: Any) -> Any:
        return devices.send(each, device) if torch.is_tensor(each) else each.to(device)

    return map_tensors(moved, inputs)


def copy_batch(value: Any) -> Any:
    """Copy into memory of its own: a loader may fill one buffer again and again."""
    return map_tensors(
        lambda each: each.clone() if torch.is_tensor(each) else copy.deepcopy(each), value
    )


def map_tensors(change: Callable[[Any], Any], value: Any) -> Any:
    """Change every tensor, and whatever else has ``to``, in tuples, lists and mappings."""
    if isinstance(value, Mapping):
        kind = Arguments if isinstance(value, Arguments) else dict
        return kind((key, map_tensors(change, each)) for key, each in value.items())
    if hasattr(value, "to"):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(change, each) for each in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(change, each) for each in value)
    return value


def iterate_tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in tuples, lists and mappings."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, Mapping):
        yield from (each for part in value.values() for each in iterate_tensors(part))
    elif isinstance(value, (tuple, list)):
        yield from (each for part in value for each in iterate_tensors(part))


def first_examples(batch: Batch, few: Callable[[int], int], *, own: bool) -> Batch:
    """Copy the first examples of a batch; all of them where it can't be told what to cut.

    Parameters
    ----------
    batch : pair
    few : callable
        How many to take of how many.
    own : bool
        The batch is the user's own, and is cut only if all that it holds has the form of its
        tokens: else something in it may be no list of examples.
    """
    inputs, targets = batch
    found: list[Any] = []  # whatever else has `to` as well, which can't be cut
    map_tensors(found.append, batch)
    count, ids = count_examples(inputs, targets), tokens(inputs, targets)
    by_example = all(torch.is_tensor(each) and each.shape[:1] == (count,) for each in found)
    if own and by_example:
        by_example = ids is not None and all(each.shape == ids.shape for each in found)
    stop = few(count) if by_example else None
    inputs, targets = map_tensors(
        lambda each: each[:stop].clone() if torch.is_tensor(each) and each.ndim else each, batch
    )
    return inputs, targets


def _length(value: Any) -> int:
    if torch.is_tensor(value) and value.ndim == 0:
        raise DataError("a batch has a single number as its inputs; give batches of examples.")
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, Mapping) or (isinstance(value, tuple) and value):
        return _length(next(iterate_tensors(value), None))
    if torch.is_tensor(value) or isinstance(value, list):
        return len(value)
    raise DataError(
        f"a batch without targets has inputs of type {type(value).__name__}; they must hold a "
        "tensor, so that its examples can be counted."
    )


def _refuse(data: Any) -> None:
    """Raise for what is no iterable of batches."""
    if hasattr(data, "train") and hasattr(data, "test"):
        name = getattr(data, "name", f"a {type(data).__name__}")
        raise DataError(f"data is all of {name}; pass its test part: data.test.")
    arrays = isinstance(data, (tuple, list)) and any(isinstance(part, np.ndarray) for part in data)
    if arrays:
        raise DataError("data holds NumPy arrays; turn them into tensors with torch.as_tensor.")
    if isinstance(data, (tuple, list)) and len(data) > 2 and _is_masked(data):
        raise DataError(
            f"data is {len(data)} tensors, which would be as many batches; give those that the "
            "network takes together: ((ids, mask), targets)."
        )
    if not isinstance(data, Iterable) or torch.is_tensor(data):
        raise DataError(
            f"data is a {type(data).__name__}; give a pair of tensors (inputs, targets), or an "
            "iterable of such pairs, such as a DataLoader."
        )


def _read(item: Any) -> Batch:
    """Inputs and targets of one batch in any of its forms.

    Raises
    ------
    DataError
        If it is no batch.
    """
    if isinstance(item, Mapping):
        return _by_name(item)
    if isinstance(item, (tuple, list)) and len(item) > 2 and _is_masked(item):
        return tuple(item[:-1]), item[-1]
    pair = isinstance(item, (tuple, list)) and len(item) == 2
    if not pair or not isinstance(item[1], (Tensor, tuple, list, Mapping, type(None))):
        raise DataError(
            f"a batch is a {type(item).__name__}; each must be a pair (inputs, targets), "
            "targets a tensor, or None without labels; several inputs as ((a, b), targets)."
        )
    if torch.is_tensor(item[1]) and item[1].ndim == 0:
        raise DataError(
            "a batch has a single number as its targets; give batches, not examples one by "
            "one, such as a DataLoader makes of a data set."
        )
    return item[0], item[1]


def _by_name(item: Mapping[str, Any]) -> Batch:
    """A batch of arguments by name with its targets among them, as collators make it."""
    # Words that a tokenizer or a data set left beside their tokens are for no network.
    given = {name: each for name, each in item.items() if not _is_words(each)}
    name = next((name for name in _LABELS if name in given), None)
    targets = None if name is None else given.pop(name)
    plain = [*given.values()] if targets is None else [*given.values(), targets]
    if next(iterate_tensors(given), None) is None or any(isinstance(each, list) for each in plain):
        raise DataError(
            f"a batch is a {type(item).__name__} with "
            f"{', '.join(f'{name} ({type(each).__name__})' for name, each in item.items())}; its "
            "values must be tensors, the targets under 'labels'. Let a tokenizer return them with "
            "return_tensors='pt', or a DataLoader with a collator make them, such as "
            "DataCollatorForLanguageModeling(tokenizer, mlm=False), which pads rows of different "
            "length."
        )
    if torch.is_tensor(ids := given.get(IDS)) and ids.ndim == 1:
        raise DataError(
            f"a batch is a single row of {len(ids)} tokens; give batches, not examples one by one: "
            "DataLoader(data, batch_size=8), with collate_fn= where rows differ in length, such as "
            "DataCollatorForLanguageModeling(tokenizer, mlm=False)."
        )
    return (given, None) if targets is None else (Arguments(given), targets)


def _is_masked(item: Sequence[Any]) -> bool:
    """Recognise (tokens, attention mask, …, targets), in the order of a `TensorDataset`."""
    if not all(map(torch.is_tensor, item)) or not is_padding(item[1], item[0]):
        return False
    return all(each.shape == item[0].shape for each in item[2:-1])


def _is_words(value: Any) -> bool:
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return isinstance(value, str)
