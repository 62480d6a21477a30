"""Time and arithmetic of a pass, and of what replays leave of it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from layerscope.base import devices
from layerscope.core.reuse._forms import Group, Plan
from layerscope.core.reuse._log import Log
from layerscope.core.reuse._passes import Args, Forward, Kwargs
from layerscope.core.reuse._plan import plan_for, rerouted
from layerscope.core.reuse._recorder import Recorder

__all__ = ["PassCosts", "Work", "time_passes"]

_BRIEF_S = 0.5
"""Passes that take less are timed several times."""


class Work(NamedTuple):
    """Seconds, and floating-point operations as `torch.utils.flop_counter` counts them.

    It counts matrix products, convolutions and attention; of others there are few in comparison.
    """

    seconds: float
    flops: float


@dataclass(frozen=True)
class PassCosts:
    """Costs of passes over one batch.

    Attributes
    ----------
    whole : Work
        A pass of all modules.
    groups : dict
        By group, a pass of what its change reaches.
    kept : int
        The most bytes that are remembered at a time.
    recordings : int
        How often the pass is recorded, until all groups were remembered.
    """

    whole: Work
    groups: dict[Group, Work] = field(default_factory=dict)
    kept: int = 0
    recordings: int = 1


def time_passes(
    recorder: Recorder,
    call: Callable[[], Any],
    few: Callable[[], Any],
    share: float,
    groups: Sequence[Group],
    device: torch.device,
) -> PassCosts:
    """Measure what passes take: one over a batch, module by module; operations over a part of it.

    Parameters
    ----------
    recorder : Recorder
        Which has watched the pass over the batch; else it does.
    call, few : callable
        Run the network over the batch, and over some of its examples.
    share : float
        How many of its examples these are.
    groups : sequence of Group
        In execution order.
    device : torch.device
    """
    if not recorder._logs and not recorder.refusal:
        recorder.watch(call)
    # Of the whole batch: one of a part of it may be there as well.
    known = [] if recorder.refusal else recorder._logs.values()
    log = max(known, key=lambda each: sum(each.sizes.values()), default=None)
    counted = _counted(recorder, few)
    timed = _timed(recorder, call, device)
    whole = Work(timed.total, counted.total / share)
    if log is None:
        return PassCosts(whole, dict.fromkeys(groups, whole))
    names = [each.name for each in log.calls]
    shares = [seconds / max(timed.total, 1e-9) for seconds in timed.spent]
    if timed.names != names:  # another size of batch may take another way
        shares = [flops / max(counted.total, 1) for flops in counted.spent]
    flops = counted.spent if counted.names == names else [0.0] * len(names)
    spent = [
        Work(timed.total * seconds, each / share)
        for seconds, each in zip(shares, flops, strict=False)
    ]
    plans = {group: plan_for(log, group) for group in groups}
    left = {group: _left(log, group, plan, whole, spent) for group, plan in plans.items()}
    kept, recordings, plain = _kept(plans, recorder.budget)
    return PassCosts(whole, left | dict.fromkeys(plain, whole), kept, recordings)


@dataclass
class _Meter:
    """Meter of each module call of a pass, with the calls inside it."""

    read: Callable[[], float]
    run: Callable[..., Any]
    names: list[str] = field(default_factory=list)
    spent: list[float] = field(default_factory=list)
    total: float = 0.0

    def __call__(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        index = len(self.names)
        self.names.append(name)
        self.spent.append(0.0)
        before = self.read()
        out = self.run(name, forward, args, kwargs)
        self.spent[index] = self.read() - before
        return out

    def over(self, recorder: Recorder, call: Callable[[], Any]) -> _Meter:
        before = self.read()
        recorder._pass(self, call)
        self.total = self.read() - before
        return self


def _timed(recorder: Recorder, call: Callable[[], Any], device: torch.device) -> _Meter:
    def clock() -> float:
        devices.wait(device)
        return time.perf_counter()

    found = [_Meter(clock, recorder._run).over(recorder, call)]
    while sum(meter.total for meter in found) < _BRIEF_S and len(found) < 3:
        found.append(_Meter(clock, recorder._run).over(recorder, call))
    return min(found, key=lambda meter: meter.total)


def _counted(recorder: Recorder, call: Callable[[], Any]) -> _Meter:
    """Count operations; nothing where a network can't be run under a mode that looks at each."""
    counter = FlopCounterMode(display=False)

    def counting() -> Any:
        with counter:
            return call()

    meter = _Meter(lambda: float(counter.get_total_flops()), recorder._run)
    try:
        return meter.over(recorder, counting)
    except Exception:  # noqa: BLE001 - such as an operator of one's own
        return _Meter(lambda: 0.0, recorder._run)


def _left(log: Log, group: Group, plan: Plan, whole: Work, spent: Sequence[Work]) -> Work:
    """Subtract from a pass the calls that are skipped, and add those that run at places."""
    routes = dict(group.routes)
    over = rerouted(log, group.places)
    by_name: dict[str, list[Work]] = defaultdict(list)
    for call, work in zip(log.calls, spent, strict=False):
        by_name[call.name].append(work)
    instead = [
        by_name[name][0]
        for index in over
        for branch in routes[log.calls[index].name]
        for name in branch
        if by_name[name]
    ]
    gone = [spent[index] for index in (*plan.skips, *over) if index < len(spent)]
    return Work(*(
        max(all_ - sum(each[i] for each in gone) + sum(each[i] for each in instead), 0.0)
        for i, all_ in enumerate(whole)
    ))  # fmt: skip


def _kept(plans: dict[Group, Plan], budget: int | None) -> tuple[int, int, list[Group]]:
    """Go through groups as `Recorder.record` admits them; also name those too large to remember."""
    most, recordings, plain = 0, 1, []
    sizes: dict[tuple[int, int], int] = {}
    for group, plan in plans.items():
        needed = sum(plan.sizes.values())
        if budget is not None and needed > budget:
            plain.append(group)
            continue
        together = sizes | plan.sizes
        if budget is not None and sum(together.values()) > budget:
            recordings += 1
            together = dict(plan.sizes)
        sizes = together
        most = max(most, sum(sizes.values()))
    return most, recordings, plain
