"""How tensors are told apart and laid out again, and what a replay is planned to do."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

Group = frozenset[str]

# How a skipped call's tensor is handed back.
SHARED, COPIED, STAND_IN = "shared", "copied", "stand-in"

CONSTANT = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
CONTAINER = (list, dict, set, OrderedDict, deque)


class RefusedError(Exception):
    """Nothing can be proven about this network; says why."""


class DivergedError(BaseException):
    """A pass does not follow the log; a network's ``except Exception`` must not catch it."""


@dataclass(frozen=True, slots=True)
class Form:
    """Where in which storage a tensor lies, enough to lay it out again.

    `number` tells the objects on one storage apart, for what a pass returned twice it returns
    twice again.
    """

    key: int
    number: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device

    def like(self, tensor: Tensor) -> bool:
        """Tell whether a tensor lies in its storage in the same way."""
        return (tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype) == (
            self.size, self.stride, self.offset, self.dtype
        )  # fmt: skip

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        """Lay the tensor out on another storage."""
        empty = torch.empty(0, dtype=self.dtype, device=self.device)
        return empty.set_(storage, self.offset, self.size, self.stride)


class Item(NamedTuple):
    """One tensor to remember: leaf `leaf` of what call `call` returned."""

    mode: str
    call: int
    leaf: int


@dataclass(slots=True)
class Plan:
    """What a replay of one group skips, and how it hands back every tensor of the skipped.

    `copies` names for each storage the item it is copied from, `sizes` the bytes of each storage
    that is kept, by storage and by when it is copied.
    """

    skips: list[int]
    modes: dict[tuple[int, int], str] = field(default_factory=dict)
    copies: dict[int, Item] = field(default_factory=dict)
    sources: set[Item] = field(default_factory=set)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)


def tensors_in(tree: object) -> list[Tensor]:
    """List the tensors of a nested structure."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def form_of(tensor: Tensor, key: int = 0, number: int = 0) -> Form:
    """Note how a tensor lies in its storage."""
    offset = int(tensor.storage_offset())
    return Form(key, number, tensor.size(), tensor.stride(), offset, tensor.dtype, tensor.device)


def bytes_of(tensor: Tensor) -> Tensor:
    """View the elements as bytes, which compare bit for bit."""
    return tensor.detach().contiguous().view(-1).view(torch.uint8)


def random_states() -> list[Any]:
    """Return the state of PyTorch's random number generators."""
    states: list[Any] = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return states


def same_states(before: list[Any], after: list[Any]) -> bool:
    """Tell whether no random number was drawn in between."""
    return len(before) == len(after) and all(map(torch.equal, before, after))


def signature_of(args: object) -> tuple[object, ...]:
    """What the control flow of a network may depend on without looking at values."""
    leaves, spec = tree_flatten(args)
    parts = [
        (leaf.size(), leaf.stride(), leaf.dtype, leaf.device)
        if isinstance(leaf, Tensor)
        else (leaf if isinstance(leaf, CONSTANT) else type(leaf))
        for leaf in leaves
    ]
    return (str(spec), *parts)
