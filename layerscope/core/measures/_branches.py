"""Residual branches of a block: what its attention, and its MLP, add to the hidden states.

Where a block adds what is not told by its modules: of what one calls a norm before the MLP another
makes a norm after attention, and some add both at once. So it is found out from one pass: from the
tensors that the modules right inside the block are given and give, and which sums of these turn up
again, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations

import torch
from torch import Tensor, nn

from layerscope.core.measures._named import OF_ATTENTION, OF_MLP

__all__ = ["Branch", "Call", "find_branches", "first_tensor"]

_ATTENDS = ("attn", "attention", "self_att", "mha")
_MIXES = ("mixer", "mamba", "ssm", "rnn", "conv")


@dataclass(frozen=True)
class Call:
    """A module's call in a pass: its name in the block, what it was given and what it gave."""

    name: str
    given: Tensor
    gave: Tensor


@dataclass(frozen=True)
class Branch:
    """A part of a block that adds to the hidden states.

    Attributes
    ----------
    role : {"attention", "mlp", ""}
    adds : str
        The module whose output is added, by its name in the block.
    before : tuple of str
        Modules whose outputs were added before, in this order.
    modules : tuple of str
        All that lie on the way to it.
    """

    role: str
    adds: str
    before: tuple[str, ...]
    modules: tuple[str, ...]

    def hidden_states(self, entered: Tensor, gave: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Hidden states before and after, as the network adds them up."""
        before = entered
        for name in self.before:
            before = before + gave[name]
        return before, before + gave[self.adds]


@dataclass
class _Sum:
    """The hidden states, and what was added to them so far."""

    value: Tensor
    added: tuple[str, ...] = ()


@dataclass
class _Search:
    """Facts of a block while its calls are gone through."""

    now: _Sum
    ways: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    found: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def see(self, call: Call) -> None:
        # One that passes on what it is given, as dropout does, may stand in several places.
        if torch.equal(call.given, call.gave):
            return
        self.advance(call.given)
        way = next((n for n, gave in reversed(self.outputs) if torch.equal(gave, call.given)), None)
        self.ways[call.name] = (*(self.ways[way] if way is not None else ()), call.name)
        self.outputs.append((call.name, call.gave))

    def advance(self, value: Tensor) -> None:
        """Look for a sum that is `value`: with one of the outputs, or with two at once."""
        start, waiting = self.now, [(n, gave) for n, gave in reversed(self.outputs)]
        if torch.equal(start.value, value):
            return
        for name, gave in waiting:
            if torch.equal(start.value + gave, value):
                self._take(value, (name,))
                return
        for (one, first), (other, second) in permutations(waiting, 2):
            sums = (start.value + first) + second, (first + second) + start.value
            if any(torch.equal(each, value) for each in sums):
                self._take(value, (one, other))
                return

    def _take(self, value: Tensor, names: Sequence[str]) -> None:
        # Of several that are added at once, each is added to what was there before.
        self.found += [(name, self.now.added) for name in names]
        self.now = _Sum(value, (*self.now.added, *names))
        self.outputs = []


def find_branches(
    block: nn.Module, entered: Tensor, calls: Sequence[Call], left: Tensor
) -> list[Branch]:
    """Find the residual branches of a block from one of its passes.

    Parameters
    ----------
    block : nn.Module
    entered, left : Tensor
        The hidden states that it was given, and those that it gave.
    calls : sequence of Call
        Of the modules right inside, in their order; those with hidden states of another shape are
        left out.

    Returns
    -------
    list of Branch
        Those that were recognised; of a block that normalises what it added, its last is none.
    """
    search = _Search(_Sum(entered))
    for call in calls:
        search.see(call)
    search.advance(left)
    return [
        Branch(_role(block, search.ways[name]), name, before, search.ways[name])
        for name, before in search.found
    ]


def _role(block: nn.Module, way: Sequence[str]) -> str:
    said = [f"{name} {type(block.get_submodule(name)).__name__}".lower() for name in way]
    plain = [each for each in said if "norm" not in each]
    if any(word in each for each in plain for word in _ATTENDS):
        return OF_ATTENTION
    return "" if any(word in each for each in plain for word in _MIXES) else OF_MLP


def first_tensor(value: object) -> Tensor | None:
    """The first tensor of what a module was given or gave, which are its hidden states."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "values") and not isinstance(value, Tensor):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        return next((each for each in map(first_tensor, value) if each is not None), None)
    return None
