"""Recording a pass and replaying it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from layerscope.core.reuse._forms import (
    COPIED,
    SHARED,
    DivergedError,
    Form,
    Group,
    Item,
    Plan,
    Recording,
    RefusedError,
    signature_of,
)
from layerscope.core.reuse._inspecting import Inspector
from layerscope.core.reuse._log import Log
from layerscope.core.reuse._passes import Args, Forward, Kwargs, T
from layerscope.core.reuse._plan import plan_for
from layerscope.core.reuse._routing import foreign_blocks
from layerscope.core.reuse._watching import mark_of
from layerscope.core.running import Route


class Recorder(Inspector, AbstractContextManager["Recorder"]):
    """Remember one pass over one batch; replay it with the weights of some modules changed.

    Between passes the network is untouched: only while one runs do its modules have another
    ``forward``. Every pass starts from the state the network was in and puts it back, buffers
    and inputs that the network changes in place included.

    Parameters
    ----------
    model : nn.Module
        The network, in ``eval()``, with its unchanged weights while it is recorded.
    budget : int, optional
        Bytes that may be kept at a time. What does not fit at once is recorded in several rounds;
        a group that does not fit alone is replayed plainly.

    Attributes
    ----------
    plain_modules : dict of str to str
        Modules that always run, and why.
    plain_groups : dict of Group to str
        Groups that were replayed plainly although something could be reused, and why.
    refusal : str
        Why nothing of this network can be reused; empty if something can.
    remembered : list of Group
        The groups that can be replayed now.
    kept_bytes : int
        Bytes of what is remembered for these.
    repeats : bool
        Whether the last pass that was watched and then recorded gave the same outputs both times.
    passes : Counter of str
        How many passes were "watched", "recorded", "replayed" and "plain".
    most : int
        The most bytes that were kept of one batch.
    """

    remembered: list[Group]
    kept_bytes: int
    _loaded: dict[Group, Plan]
    _uses: Counter[Item]
    _memory: dict[Item, Any]

    def __init__(self, model: nn.Module, *, budget: int | None = None) -> None:
        super().__init__(model)
        self.budget = budget
        self.plain_modules: dict[str, str] = {}
        self.plain_groups: dict[Group, str] = {}
        self.refusal = ""
        self.repeats = False
        self.most = 0
        self._clear()

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything; a pass that was interrupted leaves nothing behind."""
        self._clear()
        self._logs.clear()

    def watch(self, call: Callable[[], T]) -> T:
        """Run a pass over a batch operator by operator, and keep the log for passes to come.

        Returns
        -------
        What `call` returns; its last bits may be others than those of a plain pass.
        """
        self._clear()
        found = self._watch(call)
        return found[0] if found else self._plain(call)

    def record(self, call: Callable[[], T], groups: Iterable[Group], *, seen: bool = False) -> T:
        """Run one plain pass over a batch and remember what replays of `groups` need.

        Parameters
        ----------
        call : callable
            Runs the network over the batch and returns what it returns.
        groups : iterable of Group
            For each coming replay the modules whose own parameters or buffers will be changed, and
            the routes to go, best in execution order. Of these as many as fit the budget, from
            the first, are then in `remembered`.
        seen : bool
            The last pass that was watched was one over this batch.

        Returns
        -------
        The network's output with its present weights.

        Raises
        ------
        LayerError
            If the network has no module of one of the names.
        """
        wanted = [self._group(group) for group in groups]
        noting = {place for group in wanted for place in group.places} | foreign_blocks(wanted)
        # The values of another batch may lead a pass elsewhere.
        steered = not seen and any(log.steered for log in self._logs.values())
        for attempt in range(3):
            if attempt == 2:
                if self._apart:
                    break
                # It may do otherwise while ways past PyTorch are looked for.
                self._apart = True
            self._clear()
            try:
                if not self.refusal and (steered or attempt):
                    self._watch(call)
                if not self.refusal:
                    out = self._record(call, wanted, noting)
                    if seen or steered or attempt:
                        self.repeats = self._mark == mark_of(out)
                    return out
            except DivergedError:
                pass
        self._clear()
        self.refusal = self.refusal or "its passes over the same batch differ"
        self.remembered += wanted
        return self._plain(call, noting=noting)

    def replay(self, call: Callable[[], T], group: Group) -> T:
        """Run a pass over the recorded batch while a group of modules is changed or rerouted.

        Parameters
        ----------
        call : callable
            As it was for `record`.
        group : Group
            One of those given to `record`, or any other: what is remembered may serve it too, as
            what comes before one layer serves all groups that begin there; then `prepare` it. The
            weights of its changed modules are others by now; its routes are gone here.

        Returns
        -------
        What `call` returns, with the bits of a plain pass through a copy of the network that goes
        the same routes.

        Raises
        ------
        LayerError
            If a module that is to be passed over is called with no tensor.
        """
        group = self._group(group)
        plan = self._loaded.get(group) or self._covered(group)
        if plan is None or not plan.skips:
            return self._plain(call, group.routes)
        if self._intact(plan):
            self._plan, self._skipped = plan, set(plan.skips)
            try:
                out, _ = self._pass(self._replay_call, call, routes=group.routes)
                if self._intact(plan):
                    self.passes["replayed"] += 1
                    return out
            except DivergedError:
                pass
        # What is remembered may be spoilt, so it is not used again.
        self.plain_groups[group] = "a replay did not follow the recorded pass"
        self._loaded.clear()
        self._memory.clear()
        return self._plain(call, group.routes)

    def prepare(self, call: Callable[[], object], group: Group) -> None:
        """See, while all weights are unchanged, what the routes of a group need to know.

        Nothing is done where the recording of the batch has seen it.
        """
        known = self._group(group)
        needed = foreign_blocks([known]) | (known.places if self._log is None else set())
        if any(name not in self._notes or not self._notes[name].intact for name in needed):
            self._plain(call, noting=needed)

    def plain(self, call: Callable[[], T]) -> T:
        """Run a pass of which nothing is remembered, and that leaves no trace."""
        return self._pass(self._run, call, watched=True)[0]

    def forget(self, group: Group) -> None:
        """Free what only replays of this group need."""
        plan = self._loaded.pop(self._group(group), None)
        for item in plan.sources if plan else ():
            self._uses[item] -= 1
            if not self._uses[item]:
                self._memory.pop(item, None)

    def set_aside(self) -> Recording:
        """Hand out what is remembered of a batch, so that another can be recorded meanwhile."""
        recording = Recording(
            self._log, self.remembered, self._loaded, self._uses, self._memory, self._notes
        )
        self._clear()
        return recording

    def take_up(self, recording: Recording) -> None:
        """Go on with a batch that was set aside; what is remembered now is forgotten."""
        self._clear()
        self._log, self.remembered = recording.log, recording.remembered
        self._loaded, self._uses = recording.loaded, recording.uses
        self._memory, self._notes = recording.memory, recording.notes

    def walk(self, call: Callable[[], object], groups: Iterable[Group]) -> Iterator[Group]:
        """Record, yield each group while it can be replayed, and free what is no longer needed.

        The unchanged weights must be back before the next group is asked for.
        """
        waiting = [self._group(group) for group in groups]
        while waiting:
            self.record(call, waiting)
            for group in list(self.remembered):
                yield group
                self.forget(group)
            waiting = waiting[len(self.remembered) :]

    # What the public methods are made of.

    def _group(self, group: Group) -> Group:
        routes = (self._way(place, route) for place, route in group.routes)
        return Group(self._known(group.changed), frozenset(routes))

    def _clear(self) -> None:
        self._log = None
        self.remembered, self.kept_bytes = [], 0
        self._loaded = {}
        self._uses = Counter()
        self._memory, self._notes = {}, {}
        self._scratch: dict[torch.device, torch.UntypedStorage] = {}
        self._stand_ins: dict[Form, Tensor] = {}
        self._fresh = {}

    def _plain(
        self,
        call: Callable[[], T],
        routes: Iterable[tuple[str, Route]] = (),
        noting: Collection[str] = (),
    ) -> T:
        self.passes["plain"] += 1
        return self._pass(self._run, call, routes=routes, noting=noting)[0]

    def _watch(self, call: Callable[[], T]) -> list[T]:
        """Write the log of one pass, or note why it can't be done; return what it gave, if it is.

        One more pass raises the error again if it is the network's own.
        """
        try:
            out, log = self._written_log(call)
        except RefusedError as refused:
            self.refusal = str(refused)
            return []
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the plain way remains
            plain = self._plain(call)
            self.refusal = f"it can't be watched: {error!r}"
            return [plain]
        self._logs[log.signatures[0] if log.signatures else None] = log
        self.plain_modules.update({c.name: c.reason for c in log.calls if c.reason})
        return [out]

    def _record(self, call: Callable[[], T], wanted: list[Group], noting: Collection[str]) -> T:
        self._wanted, self._log, self._outermost = wanted, None, 0
        out, _ = self._pass(self._record_call, call, noting=noting)
        log = self._log
        if log is None or self._cursor != len(log.calls):
            raise DivergedError
        for item, kept in self._memory.items():
            if item.mode == SHARED:
                tensor, version, form, end = kept
                predicted = any(w and at >= end for at, w in log.touches.get(form.key, ()))
                if predicted != (tensor._version != version) or not form.like(tensor):
                    self.refusal = "it changes memory in a way that can't be followed"
                    raise DivergedError
                self._memory[item] = (tensor, tensor._version)
        self.passes["recorded"] += 1
        return out

    def _admit(self, log: Log) -> None:
        """Choose the groups whose plans fit the budget together, and what to keep for them."""
        sizes: dict[tuple[int, int], int] = {}
        for group in self._wanted:
            plan = plan_for(log, group)
            if plan.refusal:
                self.plain_groups[group] = plan.refusal
            together = sizes | plan.sizes
            if self.budget is not None and sum(together.values()) > self.budget:
                needed = sum(plan.sizes.values())
                if needed <= self.budget:
                    break
                self.plain_groups[group] = f"needs {needed} bytes of {self.budget}"
            else:
                sizes = together
                self._loaded[group] = plan
                self._uses.update(plan.sources)
            self.remembered.append(group)
        self.kept_bytes = sum(sizes.values())
        self.most = max(self.most, self.kept_bytes)
        self._wants: dict[int, list[Item]] = {}
        for plan in self._loaded.values():
            for index in plan.skips:
                self._wants.setdefault(index, [])
        for item in self._uses:
            self._wants[item.call].append(item)

    def _covered(self, group: Group) -> Plan | None:
        """Plan a replay of a group that was not recorded, if all that it needs is remembered."""
        if self._log is None or not self._memory:
            return None
        plan = plan_for(self._log, group)
        if plan.refusal or not all(item in self._memory for item in plan.sources):
            return None
        self._loaded[group] = plan
        self._uses.update(plan.sources)
        return plan

    def _intact(self, plan: Plan) -> bool:
        """Tell whether the remembered tensors are what they were when the recording ended."""
        kept = (self._memory[item] for item in plan.sources if item.mode == SHARED)
        return all(tensor._version == version for tensor, version in kept)

    # What stands in for a module's forward, one handler for each kind of pass.

    def _record_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        if self._depth == 1:
            self._choose_log((args, kwargs))
        index = self._step(name)
        out = forward(*args, **kwargs)
        if index in self._wants:
            self._remember(index, out)
        return out

    def _choose_log(self, args: object) -> None:
        """Find the log of a pass that got inputs of the same form."""
        signature = signature_of(args)
        if self._log is None:
            self._log = self._logs.get(signature)
            if self._log is None:
                raise DivergedError
            self._admit(self._log)
        if self._log.signatures[self._outermost : self._outermost + 1] != [signature]:
            raise DivergedError
        self._outermost += 1

    def _step(self, name: str) -> int:
        """Say which call of the log this is."""
        assert self._log is not None
        index = self._cursor
        if index >= len(self._log.calls) or self._log.calls[index].name != name:
            raise DivergedError
        self._cursor = index + 1
        return index

    def _remember(self, index: int, out: object) -> None:
        assert self._log is not None
        call = self._log.calls[index]
        leaves = tree_leaves(out)
        if len(leaves) != len(call.leaves):
            raise DivergedError
        for leaf, form in zip(leaves, call.leaves, strict=True):
            if isinstance(form, Form) and not (isinstance(leaf, Tensor) and form.like(leaf)):
                raise DivergedError
        for item in self._wants[index]:
            tensor = leaves[item.leaf]
            if item.mode == COPIED:
                self._memory[item] = tensor.untyped_storage().clone()
            else:
                self._memory[item] = (tensor, tensor._version, call.leaves[item.leaf], call.end)

    def _replay_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        assert self._log is not None
        index = self._step(name)
        call = self._log.calls[index]
        if name in self._routes:
            self._cursor = call.after
        if index not in self._skipped:
            return self._run(name, forward, args, kwargs)
        self._cursor = call.after
        if index == self._plan.skips[-1]:
            # From here the changed weights may steer the network elsewhere.
            self._handler = self._run
        assert call.spec is not None
        leaves = [
            self._made(index, number, leaf) if isinstance(leaf, Form) else leaf
            for number, leaf in enumerate(call.leaves)
        ]
        return tree_unflatten(leaves, call.spec)

    def _made(self, index: int, leaf: int, form: Form) -> Tensor:
        """Make a tensor of a skipped call in the way the plan says."""
        mode = self._plan.modes[index, leaf]
        if mode == SHARED:
            tensor: Tensor = self._memory[Item(SHARED, index, leaf)][0]
            return tensor
        made = self._fresh if mode == COPIED else self._stand_ins
        if form not in made:
            made[form] = form.on(self._copy(form) if mode == COPIED else self._scratch_for(form))
        return made[form]

    def _copy(self, form: Form) -> torch.UntypedStorage:
        """Return this pass's own copy of a storage."""
        for other, tensor in self._fresh.items():
            if other.key == form.key:
                return tensor.untyped_storage()
        copy: torch.UntypedStorage = self._memory[self._plan.copies[form.key]].clone()
        return copy

    def _scratch_for(self, form: Form) -> torch.UntypedStorage:
        """Return memory that is never read: all stand-ins on a device share it."""
        assert self._log is not None
        size = self._log.sizes[form.key]
        scratch = self._scratch.get(form.device)
        if scratch is None or scratch.nbytes() < size:
            made = torch.empty(size, dtype=torch.uint8, device=form.device)
            scratch = made.untyped_storage()
            self._scratch[form.device] = scratch
        return scratch
