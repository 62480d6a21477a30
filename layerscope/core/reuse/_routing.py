"""Running other blocks at a place, and what has to be known of the unchanged pass for that."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from layerscope.core.reuse._forms import Form, Group, form_of, tensors_in
from layerscope.core.reuse._log import Log
from layerscope.core.running import (
    NOTHING,
    Route,
    first_tensor,
    hidden_first,
    merged,
    with_first,
    with_hidden,
)

__all__ = ["Note", "foreign_blocks", "note_of", "run_route"]


@dataclass(slots=True)
class Note:
    """Arguments of a block beside hidden states in the unchanged pass, and how its output lay.

    `leaves` and `spec` are its arguments, None at `at` in place of the hidden states; `out` is
    what it returned, of which only the form is kept.
    """

    leaves: list[Any]
    at: int
    spec: TreeSpec | None
    out: Any
    versions: list[tuple[Tensor, int]]

    @classmethod
    def of(cls, call: Any, out: Any) -> Note:
        """Keep what routes need of a call."""
        given, spec = tree_flatten(hidden_first(call))
        at = next((i for i, leaf in enumerate(given) if isinstance(leaf, Tensor)), len(given))
        given[at : at + 1] = [None]
        versions = [(tensor, tensor._version) for tensor in tensors_in(given)]
        leaves, form = tree_flatten(out)
        known = leaves and isinstance(leaves[0], Tensor) and not leaves[0].is_nested
        hidden = form_of(leaves[0]) if known else None
        kept = tree_unflatten([hidden, *(None for _ in leaves[1:])], form)
        return cls(given, at, spec, kept, versions)

    def given(self, hidden: Tensor) -> Any:
        """Return its arguments with other hidden states."""
        assert self.spec is not None
        leaves = [*self.leaves[: self.at], hidden, *self.leaves[self.at + 1 :]]
        return tree_unflatten(leaves, self.spec)

    @property
    def intact(self) -> bool:
        """True while nobody has written to what is kept."""
        return all(tensor._version == version for tensor, version in self.versions)


def note_of(log: Log, name: str) -> Note | None:
    """Read from a log how a block's output lies; nothing of what it was given is kept there."""
    for call in reversed(log.calls):
        if call.name == name and call.spec is not None:
            leaves: list[Any] = [call.leaves[0], *(None for _ in call.leaves[1:])]
            return Note([], 0, None, tree_unflatten(leaves, call.spec), [])
    return None


def foreign_blocks(groups: Iterable[Group]) -> set[str]:
    """Name the blocks that run at other places than their own."""
    return {
        block
        for group in groups
        for place, route in group.routes
        for branch in route
        for block in branch
        if block != place
    }


def run_route(
    place: str,
    route: Route,
    call: Any,
    blocks: Mapping[str, Callable[..., Any]],
    notes: Mapping[str, Note],
    note: Note | None,
) -> Any:
    """Return what a route gives for the arguments that its place is called with."""
    call = hidden_first(call)
    ends = [_end(place, branch, call, blocks, notes) for branch in route]
    if note is None:
        return merged(ends, first_tensor(call))  # the unchanged network does not come here
    hidden = _zeros(tree_leaves(note.out)[0]) if route == NOTHING else merged(ends, ends[0])
    return with_hidden(note.out, hidden)


def _end(
    place: str,
    branch: Collection[str],
    call: Any,
    blocks: Mapping[str, Callable[..., Any]],
    notes: Mapping[str, Note],
) -> Tensor:
    hidden = first_tensor(call).clone()
    for block in branch:
        given = with_first(call, hidden) if block == place else notes[block].given(hidden)
        args, kwargs = given
        hidden = first_tensor(blocks[block](*args, **kwargs))
    return hidden


def _zeros(form: Form) -> Tensor:
    lies = torch.empty_strided(form.size, form.stride, dtype=form.dtype, device=form.device)
    return torch.zeros_like(lies)
