"""Costs of a batch that a network sees, and of the questions about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from layerscope.base import devices
from layerscope.base.tensors import named_tensors, owner_name
from layerscope.core import metrics
from layerscope.core.batches import Batch, iterate_tensors
from layerscope.core.metrics import NOT_FINITE
from layerscope.core.probe._cell import Question
from layerscope.core.probe._probe import Probe
from layerscope.core.probe._sums import tallies_of
from layerscope.core.reuse import Group, PassCosts, time_passes

__all__ = ["BatchCosts", "time_batch"]

_TIMES = 3
"""Times that a brief act is timed; the shortest counts."""

_BRIEF_S = 0.2


@dataclass(frozen=True)
class BatchCosts:
    """Costs of the first batch.

    Attributes
    ----------
    passes : PassCosts
    scoring : float
        Seconds that measuring what the network gave takes, and summing it up.
    asking : float
        Seconds that a question takes beside its pass and its weights.
    reference : int
        Bytes of what the trained network gave, if metrics compare with it.
    """

    passes: PassCosts
    scoring: float
    asking: float
    reference: int = 0


def time_batch(probe: Probe, groups: Sequence[Group]) -> BatchCosts:
    """Measure what the first batch and questions of these groups take, without asking any.

    Parameters
    ----------
    probe : Probe
        Fitted to its batches; afterwards it remembers nothing.
    groups : sequence of Group
        In execution order.
    """
    subject, outputs = probe.subject, list[Any]()
    batch = subject.data.first
    few = subject.few(batch)

    def call(inputs: Any) -> Any:
        outputs[:] = [subject.call(inputs)]
        return outputs[0]

    run, run_few = partial(call, batch[0]), partial(subject.call, few[0])
    passes = time_passes(
        probe.recorder, run, run_few, _share(few[0], batch[0]), groups, subject.device
    )
    wanted = [*subject.metrics, NOT_FINITE]

    def score() -> None:
        devices.wait(subject.device)
        found = metrics.measure(wanted, outputs[0], batch[1], outputs[0])
        tallies_of(found, found)

    compared = any(metric.uses_reference for metric in subject.metrics)
    held = outputs[0].nbytes if compared else 0
    return BatchCosts(passes, _seconds(score), _asking(probe, few, groups), held)


def _asking(probe: Probe, few: Batch, groups: Sequence[Group]) -> float:
    """Ask about a few examples with one module as it is, beside replaying alone."""
    plain = [group for group in groups if group.changed and not group.routes]
    if not plain:
        return 0.0
    group, model = plain[-1], probe.subject.model
    tensors = named_tensors(model)
    least = min(
        (name for name in tensors if owner_name(name) in group.changed),
        key=lambda name: tensors[name].numel(),
    )
    question = Question(group, lambda: {least: tensors[least].clone()}, "a trial")
    seen = probe.see(1, few, [group])
    replayed = partial(probe.recorder.replay, partial(probe.subject.call, few[0]), group)
    both = _seconds(lambda: probe.ask(seen, question)) - _seconds(replayed)
    return max(both, 0.0)


def _seconds(act: Callable[[], object]) -> float:
    """Time an act that is brief, some times; the shortest counts."""
    seconds: list[float] = []
    while len(seconds) < _TIMES and sum(seconds) < _BRIEF_S:
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _share(few: Any, batch: Any) -> float:
    """Tell how many of the examples of a batch some of them are."""
    counts = [next(iterate_tensors(each)).shape[0] for each in (few, batch)]
    return float(counts[0] / counts[1]) if counts[1] else 1.0
