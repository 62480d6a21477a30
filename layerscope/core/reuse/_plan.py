"""Planning what a replay with some modules changed may skip, from the log."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping

from layerscope.core.reuse._forms import COPIED, SHARED, STAND_IN, Form, Group, Item, Plan
from layerscope.core.reuse._log import Call, Log, Spread
from layerscope.core.running import NOTHING, Route


def plan_for(log: Log, group: Group) -> Plan:
    """Work out what a replay of this group may skip."""
    if group not in log.plans:
        routes = dict(group.routes)
        over = rerouted(log, group.places)
        limit = _limit(log, over, routes)
        certain = [log.calls[index] for index in over if index < limit]
        refusals = [why for call in certain if (why := _steers(log, call, routes[call.name]))]
        plan = Plan([], refusals[0]) if refusals else _plan(log, group.changed, over, limit)
        log.plans[group] = plan
    return log.plans[group]


def _plan(log: Log, changed: frozenset[str], over: list[int], limit: int) -> Plan:
    seeds = set().union(*(log.owned[name] for name in changed))
    stop = log.calls[limit].start if limit < len(log.calls) else None
    spread = log.spread(seeds, over, stop)
    # What a place lies in runs, also if the log has no operator of the place.
    barred = {above for index in over for above in _above(log, index)}
    while True:
        skips = _skips(log, spread, barred, over, limit)
        plan, wrong = _judge(log, skips, over, uncertain=spread.cut is not None)
        if not wrong:
            return plan
        barred |= wrong


def _above(log: Log, index: int) -> Iterator[int]:
    while (index := log.calls[index].parent) >= 0:
        yield index


def rerouted(log: Log, places: Collection[str]) -> list[int]:
    """List the outermost calls of these modules."""
    over: list[int] = []
    index = 0
    while index < len(log.calls):
        call = log.calls[index]
        if call.name in places:
            over.append(index)
        index = call.after if call.name in places else index + 1
    return over


def _limit(log: Log, over: list[int], routes: Mapping[str, Route]) -> int:
    """Find the first call from which on the log does not hold.

    That is where another block runs, or where the program may see that what a block returned
    beside hidden states is missing.
    """
    unlike = (i for i in over if any(routes[log.calls[i].name]) or log.calls[i].more)
    return min(unlike, default=len(log.calls))


def _steers(log: Log, call: Call, route: Route) -> str:
    """Say how the program may see, without an operator, that a call was passed over."""
    why = call.formless if route == NOTHING else call.obstacle
    if call.steers or why:
        return f"passes over {call.name!r}, which {why or call.reason}"
    form = call.leaves[0]
    given = form if route == NOTHING else call.given[0]
    if not isinstance(form, Form) or given is None or not form.is_clone_of(given):
        return f"passes over {call.name!r}, whose output lies in memory otherwise than its input"
    # Such as its input: for Python the copy is another object, and shares no memory.
    if log.born[form.key] < call.start:
        return f"passes over {call.name!r}, which returns memory that was there before"
    return ""


def _skips(log: Log, spread: Spread, barred: set[int], over: list[int], limit: int) -> list[int]:
    """List the outermost calls before `limit` that the change does not reach."""
    skips = []
    left_out = set(over)
    index = 0
    while index < limit:
        call = log.calls[index]
        if index in left_out:
            index = call.after
        elif not call.reason and index not in barred and _clean(call, spread):
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


def _judge(
    log: Log, skips: list[int], over: list[int], *, uncertain: bool
) -> tuple[Plan, set[int]]:
    """Find a way to hand back every tensor of the skipped calls, or the skips to give up."""
    copied: dict[int, list[int]] = {}
    for index in over:
        for key in log.calls[index].taken:
            copied.setdefault(key, []).append(log.calls[index].start)
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
        wrong |= _judge_storage(log, plan, key, places, owner, copied.get(key, []), uncertain)
    return plan, wrong


def _judge_storage(
    log: Log,
    plan: Plan,
    key: int,
    places: list[tuple[int, int]],
    owner: list[int],
    copied: list[int],
    uncertain: bool,
) -> set[int]:
    """Choose how one storage is handed back; return the skips that this rules out."""
    touches = log.touches.get(key, [])
    running = [(at, writes) for at, writes in touches if owner[at] < 0]
    # What is passed over reads what it is given, to copy it, whatever else it did.
    running = sorted(running + [(at, False) for at in copied])
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
