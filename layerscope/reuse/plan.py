"""What a replay with some modules changed may skip, worked out from the log."""

from __future__ import annotations

from bisect import bisect_left

from layerscope.reuse.forms import COPIED, SHARED, STAND_IN, Form, Group, Item, Plan
from layerscope.reuse.log import Call, Log, Spread


def plan_for(log: Log, changed: Group) -> Plan:
    """Work out what a replay with these modules changed may skip."""
    if changed not in log.plans:
        seeds = set().union(*(log.owned[name] for name in changed))
        spread = log.spread(seeds)
        barred: set[int] = set()
        while True:
            skips = _skips(log, spread, barred)
            plan, wrong = _judge(log, skips, uncertain=spread.cut is not None)
            if not wrong:
                break
            barred |= wrong
        log.plans[changed] = plan
    return log.plans[changed]


def _skips(log: Log, spread: Spread, barred: set[int]) -> list[int]:
    """List the outermost calls that the change does not reach."""
    skips = []
    index = 0
    while index < len(log.calls):
        call = log.calls[index]
        if not call.reason and index not in barred and _clean(call, spread):
            skips.append(index)
            index = call.after
        else:
            index += 1
    return skips


def _clean(call: Call, spread: Spread) -> bool:
    if spread.cut is not None and call.end > spread.cut:
        return False
    first = bisect_left(spread.reached, call.start)
    if first < len(spread.reached) and spread.reached[first] < call.end:
        return False
    forms = [leaf for leaf in call.leaves if isinstance(leaf, Form)]
    return all(spread.since.get(form.key, call.end) >= call.end for form in forms)


def _judge(log: Log, skips: list[int], *, uncertain: bool) -> tuple[Plan, set[int]]:
    """Find a way to hand back every tensor of the skipped calls, or the skips to give up."""
    owner = [-1] * len(log.operators)
    holders: dict[int, list[tuple[int, int]]] = {}
    for index in skips:
        call = log.calls[index]
        owner[call.start : call.end] = [index] * (call.end - call.start)
        for leaf, form in enumerate(call.leaves):
            if isinstance(form, Form):
                holders.setdefault(form.key, []).append((index, leaf))
        for op in log.operators[call.start : call.end]:
            for key in op.writes:
                if log.born[key] < call.start:
                    holders.setdefault(key, [])
    plan = Plan(skips)
    wrong: set[int] = set()
    for key, places in holders.items():
        wrong |= _judge_storage(log, plan, key, places, owner, uncertain)
    return plan, wrong


def _judge_storage(
    log: Log,
    plan: Plan,
    key: int,
    places: list[tuple[int, int]],
    owner: list[int],
    uncertain: bool,
) -> set[int]:
    """Choose how one storage is handed back; return the skips that this rules out."""
    touches = log.touches.get(key, [])
    running = [(at, writes) for at, writes in touches if owner[at] < 0]
    skipped = [(at, owner[at]) for at, writes in touches if writes and owner[at] >= 0]
    mode = SHARED
    wrong: set[int] = set()
    if not running and not uncertain:
        mode = STAND_IN
    elif log.born[key] < 0 or owner[log.born[key]] < 0:
        # Made by what runs: the running program has its own, which a skipped write misses,
        # and which a remembered alias of it does not follow.
        last = max((at for at, writes in running if writes), default=-1)
        wrong = {index for _, index in skipped}
        # Nor does a version counter tell anything of an input that is put back.
        never = uncertain or key in log.inputs & log.written
        wrong |= {i for i, _ in places if never or log.calls[i].end <= last}
    else:
        first = running[0][0] if running else len(owner)
        wrong = {index for at, index in skipped if at > first}
        if any(writes for _, writes in running):
            # The state to hand out is the one after the last skipped write.
            last_writer = skipped[-1][1]
            source = [place for place in places if place[0] == last_writer]
            if source:
                mode = COPIED
                plan.copies[key] = Item(COPIED, *source[0])
                plan.sources.add(plan.copies[key])
            else:
                wrong.add(last_writer)
    plan.modes.update(dict.fromkeys(places, mode))
    if mode == SHARED:
        plan.sources.update(Item(SHARED, *place) for place in places)
    if mode != STAND_IN:
        plan.sizes[key, plan.copies[key].call if mode == COPIED else -1] = log.sizes[key]
    return wrong
