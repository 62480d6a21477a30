"""Routes: what runs at the place of a block, in terms of the network's own blocks.

A block is called with its hidden states, which are the first tensor that it is given, and with
arguments of its own beside them, such as a mask, rotary embeddings or the numbers of positions.
Where all come by name, in whatever order, hidden states are what is called so. It
returns hidden states, alone or as the first tensor of a tuple or mapping. So blocks of one form can
run at one another's places, each with its own other arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from layerscope.errors import LayerError

__all__ = [
    "NOTHING",
    "PASSED",
    "Route",
    "first_tensor",
    "hidden_first",
    "merged",
    "with_first",
    "with_hidden",
]

Route = tuple[tuple[str, ...], ...]
"""A mean over branches, each a sequence of blocks by name, one after the other.

``((),)``, an empty branch, hands on what comes in; ``()``, no branch, gives zeros, as befits a part
whose output is added to the hidden states.
"""

_HIDDEN = ("hidden_states", "hidden", "x", "input")
"""What hidden states are called where they come by name, the likeliest first."""

PASSED: Route = ((),)
"""The route of a place that is passed over."""

NOTHING: Route = ()
"""The route of a place that contributes nothing."""


def hidden_first(call: tuple[Any, Any]) -> tuple[Any, Any]:
    """Let a call's arguments begin with the hidden states, where they come by name after others.

    Examples
    --------
    >>> mask, hidden = torch.ones(2, 1), torch.zeros(2, 3)
    >>> list(hidden_first(((), {"attention_mask": mask, "hidden_states": hidden}))[1])
    ['hidden_states', 'attention_mask']
    """
    args, kwargs = call
    if not kwargs or any(isinstance(leaf, Tensor) for leaf in tree_leaves(args)):
        return call
    name = next((name for name in _HIDDEN if isinstance(kwargs.get(name), Tensor)), None)
    return call if name is None else (args, {name: kwargs[name], **kwargs})


def first_tensor(tree: object) -> Tensor:
    """Find the hidden states among what a block is given, or in what it returns.

    Raises
    ------
    LayerError
        If there is no tensor.
    """
    found = next((leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)), None)
    if found is None:
        raise LayerError(
            "a block is called with hidden states and returns such, but there is no tensor."
        )
    return found


def with_first(tree: Any, hidden: Tensor) -> Any:
    """Put other hidden states in place of the first tensor."""
    leaves, spec = tree_flatten(tree)
    first = first_tensor(leaves)
    at = next(index for index, leaf in enumerate(leaves) if leaf is first)
    return tree_unflatten([*leaves[:at], hidden, *leaves[at + 1 :]], spec)


def with_hidden(out: Any, hidden: Tensor) -> Any:
    """Return hidden states in the form of what a block returned; what else it returned is None."""
    leaves, spec = tree_flatten(out)
    return tree_unflatten([hidden, *(None for _ in leaves[1:])], spec)


def merged(ends: list[Tensor], out: Tensor) -> Tensor:
    """Average what the branches of a route gave; without any, zeros like `out`."""
    if not ends:
        return torch.zeros_like(out)
    return ends[0] if len(ends) == 1 else torch.stack(ends).mean(0)
