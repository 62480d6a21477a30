"""How tensors are told apart and laid out again, and what a replay is planned to do."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves

from layerscope.core.running import PASSED, Route


class Group(NamedTuple):
    """Modules that a replay changes, and places where others run.

    Attributes
    ----------
    changed : frozenset of str
        Modules whose own parameters or buffers are others.
    routes : frozenset of (str, Route)
        Places, by the module that stands there, and what runs there instead of it.
    """

    changed: frozenset[str]
    routes: frozenset[tuple[str, Route]] = frozenset()

    @classmethod
    def of(
        cls,
        *changed: str,
        skipped: Iterable[str] = (),
        routes: Mapping[str, Route] | None = None,
    ) -> Group:
        """Name modules one by one; those `skipped` are passed over."""
        passed: dict[str, Route] = dict.fromkeys(skipped, PASSED)
        return cls(frozenset(changed), frozenset((passed | dict(routes or {})).items()))

    @property
    def places(self) -> frozenset[str]:
        """Modules that do not run as the network calls them."""
        return frozenset(place for place, _ in self.routes)

    def __str__(self) -> str:
        said = "+".join(sorted(self.changed))
        skipped = "+".join(sorted(place for place, route in self.routes if route == PASSED))
        others = sorted(f"{at}={_path(way)}" for at, way in self.routes if way != PASSED)
        said += f" without {skipped}" if skipped else ""
        return f"{said} with {', '.join(others)}" if others else said


def _path(route: Route) -> str:
    return f"[{' | '.join('>'.join(branch) for branch in route)}]"


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

    def is_clone_of(self, other: Form) -> bool:
        """Tell whether a clone of a tensor that lies like `other` would lie like this one."""
        filled = 1
        for step, size in sorted(zip(other.stride, other.size, strict=True)):
            if size > 1:
                if step != filled:
                    return False  # with gaps or overlaps, which a clone does away with
                filled *= size
        return (self.offset, self.size, self.stride) == (0, other.size, other.stride)

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
    """Skips of a replay of one group, and how every tensor of the skipped is handed back.

    `copies` names for each storage the item it is copied from, `sizes` the bytes of each storage
    that is kept, by storage and by when it is copied. `refusal` says why nothing may be skipped at
    all.
    """

    skips: list[int]
    refusal: str = ""
    modes: dict[tuple[int, int], str] = field(default_factory=dict)
    copies: dict[int, Item] = field(default_factory=dict)
    sources: set[Item] = field(default_factory=set)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(slots=True)
class Recording:
    """Memory of one batch: the log, plans by group, the kept tensors, and what routes need."""

    log: Any
    remembered: list[Group]
    loaded: dict[Group, Plan]
    uses: Counter[Item]
    memory: dict[Item, Any]
    notes: dict[str, Any]


def tensors_in(tree: object) -> list[Tensor]:
    """List the tensors of a nested structure."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def form_of(tensor: Tensor, key: int = 0, number: int = 0) -> Form:
    """Note how a tensor lies in its storage."""
    offset = int(tensor.storage_offset())
    return Form(key, number, tensor.size(), tensor.stride(), offset, tensor.dtype, tensor.device)


def given_in(args: object) -> list[Form | None]:
    """Note how every tensor that a call is given lies, before it may change that."""
    return [None if t.is_nested else form_of(t) for t in tensors_in(args)]


def obstacle(given: list[Form | None], out: object) -> str:
    """Say why a call can't be passed over, from what it was given and what it returned."""
    if not given:
        return "takes no tensors"
    if why := formless(out):
        return why
    form, hidden = given[0], tree_leaves(out)[0]
    if form is None or hidden.is_nested:
        return "takes or returns a nested tensor"
    if form.size != hidden.shape:
        same_batch = form.size[:1] == hidden.shape[:1]
        before, after = (_shape(size, same_batch) for size in (form.size, hidden.shape))
        return f"turns {before} into {after}"
    if form.dtype != hidden.dtype:
        return f"turns {form.dtype} into {hidden.dtype}"
    if form.device != hidden.device:
        return f"moves its input from {form.device} to {hidden.device}"
    return ""


def formless(out: object) -> str:
    """Say why other hidden states can't be returned in the form of what a call returned."""
    leaves = tree_leaves(out)
    if leaves and isinstance(leaves[0], Tensor):
        return ""
    return f"returns a {type(out).__name__}, not a tensor or some with one first"


def _shape(shape: torch.Size, same_batch: bool) -> str:
    sizes = [str(size) for size in shape]
    if same_batch and sizes:
        sizes[0] = "n"
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def signature_of(args: object) -> tuple[object, ...]:
    """Describe all that control flow may depend on without looking at values."""
    leaves, spec = tree_flatten(args)
    parts = [
        (leaf.size(), leaf.stride(), leaf.dtype, leaf.device)
        if isinstance(leaf, Tensor)
        else (leaf if isinstance(leaf, CONSTANT) else type(leaf))
        for leaf in leaves
    ]
    return (str(spec), *parts)
