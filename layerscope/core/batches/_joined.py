"""Batches of the user's own, put together so that they can be cut anew in another order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerscope.core.batches._reading import Arguments
from layerscope.errors import DataError, OptionError

__all__ = ["JoinedBatches"]

_ORDER = "so they can't be put in another order"


@dataclass(frozen=True, eq=False)
class _Same:
    """A value that every batch gets, however it is cut."""

    value: Any


@dataclass(frozen=True, eq=False)
class JoinedBatches:
    """Batches that were put together, example after example.

    Attributes
    ----------
    inputs : Tensor, tuple or mapping
        Of the form that every batch has. What has one entry for each example is cut with them;
        all else, such as a flag, is the same in every batch.
    targets : Tensor or None
    count, size : int
        Examples in all, and in the largest batch that was put in.

    Examples
    --------
    >>> pairs = [({"x": torch.arange(3), "flag": True}, None), ({"x": torch.tensor([3]),
    ...     "flag": True}, None)]
    >>> joined = JoinedBatches.of(pairs, [3, 1])
    >>> [inputs["x"].tolist() for inputs, _ in joined.batches(2, torch.tensor([3, 1, 2, 0]))]
    [[3, 1], [2, 0]]
    """

    inputs: Any
    targets: Tensor | None
    count: int
    size: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[Any, Tensor | None]], counts: list[int]) -> JoinedBatches:
        """Put pairs of inputs and targets together, with the number of examples in each.

        Raises
        ------
        DataError
            If there are none.
        OptionError
            If they differ in form, or only some have targets.
        """
        inputs, targets = zip(*pairs, strict=True) if counts else ((), ())
        if not inputs:
            raise DataError("data holds no examples; give at least one batch.")
        labelled = [each for each in targets if each is not None]
        if labelled and len(labelled) < len(targets):
            raise OptionError("some batches have targets and others None; give all or none.")
        joined = _together(labelled, counts, "targets") if labelled else None
        return cls(_together(inputs, counts, "inputs"), joined, sum(counts), max(counts))

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int, order: Tensor | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield batches of `size` (the last may be smaller), in that order."""
        places = torch.arange(self.count) if order is None else order
        for start in range(0, len(places), size):
            where = places[start : start + size]
            targets = None if self.targets is None else self.targets[where]
            yield _taken(self.inputs, where), targets


def _together(values: Any, counts: list[int], what: str) -> Any:
    """Put what every batch has at one place together."""
    first = values[0]
    if isinstance(first, Mapping):
        if any(not isinstance(each, Mapping) or set(each) != set(first) for each in values):
            raise OptionError(f"the batches' {what} differ in their names, {_ORDER}.")
        return _named(first)(
            (name, _together([each[name] for each in values], counts, f"{what}[{name!r}]"))
            for name in first
        )
    if isinstance(first, (tuple, list)):
        if any(not isinstance(each, (tuple, list)) or len(each) != len(first) for each in values):
            raise OptionError(f"the batches' {what} differ in their number, {_ORDER}.")
        parts = zip(*values, strict=True)
        return tuple(_together(each, counts, f"{what}[{at}]") for at, each in enumerate(parts))
    return _rows(values, counts, what)


def _named(first: Mapping[str, Any]) -> type[dict[str, Any]]:
    """Type that holds arguments by name, and says where their labels came from."""
    return Arguments if isinstance(first, Arguments) else dict


def _rows(values: Any, counts: list[int], what: str) -> Any:
    """One tensor of all examples, or what is the same in every batch."""
    plain = all(isinstance(each, (str, int, float, type(None))) for each in values)
    if plain and all(each == values[0] for each in values):
        return _Same(values[0])
    tensors = all(torch.is_tensor(each) for each in values)
    same = tensors and all(torch.equal(values[0], each) for each in values)
    by_example = tensors and all(
        each.ndim > 0 and len(each) == count for each, count in zip(values, counts, strict=True)
    )
    if by_example and not (same and len(values) > 1 and bool((values[0] != values[0][:1]).any())):
        return _one_tensor(values, what)
    if same and not by_example:
        return _Same(values[0])
    raise OptionError(
        f"the batches' {what} have no entry for each example that could be told from what all "
        f"batches share, {_ORDER}. Pass tensors (inputs, targets), or leave the order as it is."
    )


def _one_tensor(values: Any, what: str) -> Tensor:
    shapes = {tuple(each.shape[1:]) for each in values}
    if len(shapes) > 1:
        raise OptionError(
            f"the batches' {what} differ in shape ({_some(shapes)} for each example), {_ORDER}. "
            "Pad all to one length, with the target -100 where none counts, or pass tensors "
            "(inputs, targets)."
        )
    kinds = {(each.dtype, str(each.device)) for each in values}
    if len(kinds) > 1:
        raise OptionError(
            f"the batches' {what} differ in type or device ({_some(kinds)}), {_ORDER}. Pass "
            "tensors (inputs, targets)."
        )
    return torch.cat(list(values))


def _some(found: set[Any]) -> str:
    listed = sorted(map(str, found))
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def _taken(inputs: Any, where: Tensor) -> Any:
    """The examples at some places."""
    if isinstance(inputs, Mapping):
        return _named(inputs)((name, _taken(each, where)) for name, each in inputs.items())
    if isinstance(inputs, tuple):
        return tuple(_taken(each, where) for each in inputs)
    return inputs.value if isinstance(inputs, _Same) else inputs[where]
