"""Hidden states of one pass, where they enter and leave: seen by hooks, summed and let go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core.measures._branches import Branch, Call, find_branches, first_tensor
from layerscope.core.measures._named import Measure
from layerscope.core.running import hidden_first

__all__ = ["Key", "Span", "Watch", "counted", "last_counted"]

Span = tuple[str, ...]
"""Modules that follow one another, by dotted name."""

Key = tuple[str, Span]
"""A kind of place, and where: ("stream", span), ("attention" or "mlp", (block,)), ("output", …)."""

_PIECE = 2**22  # elements that are in double precision at a time

_TWICE = "is called {} times in a pass, so that no hidden states are its own"
_APART = "does not begin with what {} gives, so that they are no range of one stream"


class _UnfitError(Exception):
    """Hidden states that have no tokens to compare."""


@dataclass
class Sums:
    """The running sums of one measure at one place, in double precision on the CPU."""

    measure: Measure
    total: Tensor | None = None
    count: int = 0

    def add(self, values: Tensor) -> None:
        """Add the numbers of several tokens, or keep the largest."""
        found = values.detach().cpu().double()
        if self.measure.per_output is not None:
            self.total = found if self.total is None else torch.maximum(self.total, found)
            return
        total = found.sum(0)
        self.total = total if self.total is None else self.total + total
        self.count += len(found)

    @property
    def value(self) -> float:
        """The measure; NaN where nothing was seen."""
        if self.total is None:
            return float("nan")
        return self.measure.finish(self.total / max(self.count, 1))


@dataclass
class _Block:
    """A block's residual branches, and tensors of it that were seen in this pass."""

    branches: list[Branch] | None = None
    entered: Tensor | None = None
    calls: list[Call] = field(default_factory=list)

    @property
    def wanted(self) -> set[str] | None:
        """Modules right inside whose outputs are needed; None for all."""
        if self.branches is None:
            return None
        return {name for b in self.branches for name in (*b.before, b.adds)}


class Watch(Undo):
    """Watch a network's passes with hooks, which are gone afterwards.

    Parameters
    ----------
    model : nn.Module
    spans : sequence of Span
        Where the hidden states that enter the first module are compared with those that leave the
        last.
    blocks : sequence of str
        Blocks whose attention and MLP are to be looked at.
    projections : sequence of str
        Modules whose outputs are to be looked at.
    measures : sequence of Measure

    Attributes
    ----------
    sums : dict
        By place and name of the measure.
    reasons : dict
        By place, why nothing can be said of it.
    """

    def __init__(
        self,
        model: nn.Module,
        spans: Sequence[Span],
        blocks: Sequence[str],
        projections: Sequence[str],
        measures: Sequence[Measure],
    ) -> None:
        super().__init__()
        self._model, self._projections = model, set(projections)
        self._paths = {module: path for path, module in model.named_modules()}
        self._streams = [m for m in measures if m.per_token and m.between == "stream"]
        self._added = [m for m in measures if m.per_token and m.between != "stream"]
        self._outputs = [m for m in measures if m.per_output]
        self._ends: dict[str, list[Span]] = {}
        for span in dict.fromkeys(spans if self._streams else ()):
            self._ends.setdefault(span[-1], []).append(span)
        self._starts = {span[0] for spans_ in self._ends.values() for span in spans_}
        inside = (span for spans_ in self._ends.values() for span in spans_)
        self._pairs = {pair for span in inside for pair in pairwise(span)}
        self.blocks = {path: _Block() for path in blocks} if self._added else {}
        self.sums: dict[tuple[Key, str], Sums] = {}
        self.reasons: dict[Key, str] = {}
        self._broken: dict[tuple[str, str], bool] = {}
        self._clear(None)

    def begin(self) -> Watch:
        """Put the hooks in."""
        self.add(self._unhook)
        children = {
            f"{path}.{name}"
            for path in self.blocks
            for name, _ in self._model.get_submodule(path).named_children()
        }
        entering = {*self._starts, *self.blocks, *(second for _, second in self._pairs)}
        firsts = {first for first, _ in self._pairs}
        leaving = {*self._ends, *self.blocks, *self._projections, *children, *firsts}
        for module, path in self._paths.items():
            if path in entering:
                module.register_forward_pre_hook(self._enter, with_kwargs=True)
            if path in leaving:
                module.register_forward_hook(self._leave, with_kwargs=True)
        return self

    def next_batch(self, mask: Tensor | None) -> None:
        """Forget the last pass; `mask`, shape ``(n, T)``, says which of its tokens count."""
        self._count_calls()
        self._clear(mask)

    def close(self) -> None:
        """Take the hooks out."""
        self._count_calls()
        super().close()

    def _clear(self, mask: Tensor | None) -> None:
        self._mask = mask
        self._entered: dict[str, Tensor] = {}
        self._left: dict[str, Tensor] = {}
        self._called: dict[str, int] = {}
        self._open = {path: len(self._from(path)) for path in self._starts}

    def _from(self, start: str) -> list[Span]:
        return [span for spans in self._ends.values() for span in spans if span[0] == start]

    def _unhook(self) -> None:
        for module in self._paths:
            for hooks, named in (
                (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
                (module._forward_hooks, module._forward_hooks_with_kwargs),
            ):
                mine = [key for key, hook in hooks.items() if hook in (self._enter, self._leave)]
                for key in mine:
                    del hooks[key]
                    named.pop(key, None)

    # During a pass

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        path, given = self._paths[module], first_tensor(hidden_first((args, kwargs)))
        if given is None:
            return
        for first, second in self._pairs if path not in self._called else ():
            if second == path and (first, second) not in self._broken:
                before = self._left.pop(first, None)
                follows = before is not None and torch.equal(before, given)
                self._broken[first, second] = not follows
        if path in self._starts:
            self._entered[path] = given.clone()  # the network may go on in the same memory
        if path in self.blocks:
            self.blocks[path].entered, self.blocks[path].calls = given.clone(), []

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path, left = self._paths[module], first_tensor(output)
        self._called[path] = self._called.get(path, 0) + 1
        if left is None:
            return
        if any(pair[0] == path and pair not in self._broken for pair in self._pairs):
            self._left[path] = left.clone()
        for span in self._ends.get(path, ()):
            self._end(span, left)
        above, _, name = path.rpartition(".")
        if above in self.blocks:
            self._note(self.blocks[above], name, first_tensor(hidden_first((args, kwargs))), left)
        if path in self.blocks:
            self._add_up(path, left)
        if path in self._projections:
            key: Key = ("output", (path,))
            self._fold(key, self._outputs, [(left,)])

    def _end(self, span: Span, left: Tensor) -> None:
        key: Key = ("stream", span)
        entered = self._entered.get(span[0])
        if entered is None:
            self.reasons.setdefault(key, f"{span[0]} is given no tensor")
        else:
            self._fold(key, self._streams, [(entered, left)])
        self._open[span[0]] -= 1
        if not self._open[span[0]]:
            self._entered.pop(span[0], None)

    def _note(self, block: _Block, name: str, given: Tensor | None, gave: Tensor) -> None:
        """Keep what a module right inside a block was given and gave, as far as it is needed."""
        like = block.entered
        if like is None or not _is_like(given, like) or not _is_like(gave, like):
            return
        assert given is not None
        if block.wanted is None:
            given, gave = given.reshape(like.shape), gave.reshape(like.shape)
            block.calls.append(Call(name, given.clone(), gave.clone()))
        elif name in block.wanted:
            gave = gave.reshape(like.shape).clone()
            block.calls.append(Call(name, gave, gave))

    def _add_up(self, path: str, left: Tensor) -> None:
        block = self.blocks[path]
        if block.entered is None:
            return
        if block.branches is None:
            module = self._model.get_submodule(path)
            block.branches = find_branches(module, block.entered, block.calls, left)
        gave = {call.name: call.gave for call in block.calls}
        for branch in block.branches:
            if branch.role and gave.keys() >= {*branch.before, branch.adds}:
                wanted = [m for m in self._added if m.between == branch.role]
                states = branch.hidden_states(block.entered, gave)
                self._fold((branch.role, (path,)), wanted, [states])
        block.entered, block.calls = None, []

    def _fold(
        self, key: Key, measures: Iterable[Measure], states: Sequence[tuple[Tensor, ...]]
    ) -> None:
        """Add what the measures say of hidden states."""
        for measure in measures:
            sums = self.sums.setdefault((key, measure.name), Sums(measure))
            take = last_counted if measure.last else counted
            function = measure.per_token or measure.per_output
            assert function is not None
            try:
                for (*tensors,) in states:
                    if len({tensor.shape for tensor in tensors}) > 1:
                        shapes = " and ".join(str(tuple(t.shape)) for t in tensors)
                        raise _UnfitError(f"its hidden states change their shape: {shapes}")
                    for pieces in _pieces([take(tensor, self._mask) for tensor in tensors]):
                        sums.add(function(*pieces))
            except _UnfitError as error:
                self.reasons[key] = str(error)
                return

    def _count_calls(self) -> None:
        for spans in self._ends.values():
            for span in spans:
                self._check(span)

    def _check(self, span: Span) -> None:
        key: Key = ("stream", span)
        for path in span:
            if (times := self._called.get(path, 1)) != 1:
                self.reasons.setdefault(key, f"{path} {_TWICE.format(times)}")
        for first, second in pairwise(span):
            if self._broken.get((first, second)):
                self.reasons.setdefault(key, f"{second} {_APART.format(first)}")


def _is_like(tensor: Tensor | None, other: Tensor) -> bool:
    """Recognise hidden states of the same tokens, which may be flattened."""
    if tensor is None or tensor.dtype != other.dtype or not tensor.ndim:
        return False
    return tensor.numel() == other.numel() and tensor.shape[-1] == other.shape[-1]


def counted(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Take the tokens that count: shape ``(m, d)``.

    Parameters
    ----------
    hidden : Tensor
        Shape ``(n, T, d)``; or ``(n, d)``, one token for each example; of feature maps
        ``(n, channels, …)`` all of an example is one token.
    mask : Tensor of bool, optional
        Shape ``(n, T)``.
    """
    _require(hidden, mask)
    if hidden.ndim == 3:
        return hidden.flatten(0, 1) if mask is None else hidden[mask.to(hidden.device)]
    return hidden.flatten(1)


def last_counted(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Take the last token that counts of every example: shape ``(n, d)``."""
    _require(hidden, mask)
    if hidden.ndim != 3:
        return hidden.flatten(1)
    if mask is None:
        return hidden[:, -1]
    there = mask.any(1).to(hidden.device)
    last = mask.shape[1] - 1 - mask.flip(1).long().argmax(1).to(hidden.device)
    return hidden[torch.arange(len(hidden), device=hidden.device), last][there]


def _require(hidden: Tensor, mask: Tensor | None) -> None:
    if not hidden.is_floating_point() or hidden.ndim < 2:
        raise _UnfitError(
            f"it gives {hidden.dtype} of shape {tuple(hidden.shape)}, no hidden states"
        )
    if mask is not None and (hidden.ndim != 3 or hidden.shape[:2] != mask.shape):
        raise _UnfitError(
            f"its hidden states of shape {tuple(hidden.shape)} do not go with an attention mask of "
            f"shape {tuple(mask.shape)}"
        )


def _pieces(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Cut tensors of one shape into pieces of double precision, a few at a time."""
    rows = max(1, _PIECE // max(tensors[0].shape[-1], 1))
    for parts in zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True):
        yield [devices.double(part.detach()) for part in parts]
