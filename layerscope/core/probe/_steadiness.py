"""Refusing networks whose answers hang on the batches before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layerscope.base.tensors import marks
from layerscope.base.undoing import Undo
from layerscope.core.probe._subject import Subject
from layerscope.core.reuse import Recorder
from layerscope.core.running import explain_mismatch
from layerscope.errors import LayerscopeError

__all__ = ["refuse_carried", "require_same", "require_steady", "require_unwritten"]


def require_steady(
    subject: Subject, recorder: Recorder, first: Callable[[Any], object] | None = None
) -> None:
    """Refuse a network whose passes change its weights, or its answers to later batches.

    Parameters
    ----------
    subject : Subject
    recorder : Recorder
    first : callable, optional
        Runs the network on inputs of the first batch, as often as it likes; once by default.

    Raises
    ------
    LayerscopeError
    """
    own = dict(subject.model.named_parameters())
    before = marks(own)
    few = [subject.few(batch)[0] for batch in itertools.islice(subject.data, 2)]
    begin = first or subject.call
    try:
        with explain_mismatch(few[0]):
            differs = _carries(subject, recorder, few, lambda: begin(few[0]))
        changed = [name for name, mark in marks(own).items() if mark != before[name]]
    finally:
        _repair(subject, own, before)
    _refuse(changed, differs=differs)


def require_unwritten(subject: Subject, again: Callable[[], object]) -> None:
    """Refuse a network whose first pass wrote to its weights.

    Parameters
    ----------
    subject : Subject
    again : callable
        Runs it once more: one that came alone has no checkpoint to be compared with.

    Raises
    ------
    LayerscopeError
    """
    own = dict(subject.model.named_parameters())
    changed = []
    if subject.alone:
        before = marks(own)
        again()
        _refuse([name for name, mark in marks(own).items() if mark != before[name]])
        return
    for name, parameter in own.items():
        stored = torch.empty_like(parameter).copy_(subject.trained([name])[name])
        if marks({name: stored}) != marks({name: parameter}):
            changed.append(name)
            parameter.detach().copy_(stored)
    _refuse(changed)


def _refuse(changed: Sequence[str], *, differs: bool = False) -> None:
    if not changed and not differs:
        return
    how = f"writes to its weights ({changed[0]})" if changed else "keeps something of a batch"
    raise LayerscopeError(
        f"the network {how} in evaluation mode, and answers otherwise afterwards, as with a "
        "layer that initialises itself from the first batch; so a value would hang on the "
        "order of the batches. Run a batch through it before its checkpoints are saved, and "
        "before the sweep."
    )


def refuse_carried(
    subject: Subject, recorder: Recorder, swap: Callable[[], Undo], what: str
) -> None:
    """Refuse a change if what the network then says of the second batch depends on the first.

    Raises
    ------
    LayerscopeError
    """

    def within(batches: Sequence[Any]) -> Tensor:
        with Undo() as undo, undo:
            undo.enter(swap())
            return _last(subject, recorder, batches)

    both = [inputs for inputs, _ in itertools.islice(subject.data, 2)]
    if not _same(within(both[1:]), within(both)):
        raise LayerscopeError(
            f"{what} initialises itself from the first batch that it sees, so a value would hang "
            "on the order of the batches. Leave the layer or the epoch out, or pass all data as a "
            "single batch."
        )


def require_same(once: Tensor, again: Tensor) -> None:
    """Refuse a network that gave different outputs for the same batch.

    Raises
    ------
    LayerscopeError
    """
    if not _same(once, again):
        raise LayerscopeError(
            "the network gives different outputs for the same batch in evaluation mode, so no "
            "cell could be compared with another. Does it use dropout as a function, or sample?"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Compare values; NaN equals itself."""
    # Whole copies without NaN are made only where there may be some, and example by example.
    if torch.equal(a, b):
        return True
    if a.shape != b.shape or a.ndim == 0:
        return torch.equal(a.nan_to_num(), b.nan_to_num())
    pairs = zip(a, b, strict=True)
    return all(torch.equal(one.nan_to_num(), two.nan_to_num()) for one, two in pairs)


def _carries(
    subject: Subject, recorder: Recorder, few: Sequence[Any], first: Callable[[], object]
) -> bool:
    def after_first() -> Tensor:
        first()
        return subject.call(few[1])

    if len(few) < 2:
        recorder.plain(first)
        return False
    once = _last(subject, recorder, few[1:])
    # One that gives something else each time is refused for that, elsewhere.
    return not _same(once, recorder.plain(after_first)) and _same(
        once, _last(subject, recorder, few[1:])
    )


def _last(subject: Subject, recorder: Recorder, batches: Sequence[Any]) -> Tensor:
    """Logits of the last of several batches, each answered from the state that the others left."""
    return recorder.plain(lambda: [subject.call(inputs) for inputs in batches][-1])


def _repair(subject: Subject, own: Mapping[str, Tensor], before: Mapping[str, int]) -> None:
    """Write the trained values back into weights that a pass has written to: they may be shared."""
    for name, mark in marks(own).items():
        if mark != before[name]:
            own[name].detach().copy_(subject.trained([name])[name])
