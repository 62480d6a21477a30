"""Forward passes with changed weights that compute only what the change can reach.

A sweep asks the same question many times: what does the network say about this batch if one
layer has other weights? Most of each answer is known already. A `Recorder` runs the network once
over the batch, keeps what later passes will ask for, and lets whole modules hand that back:

>>> with Recorder(model) as recorder:                             # doctest: +SKIP
...     for group in recorder.walk(lambda: model(inputs), [{"conv1"}, {"fc"}]):
...         # here the caller swaps parameters: model.fc.weight.data = other
...         outputs = recorder.replay(lambda: model(inputs), group)

Every output has the bits that a copy of the network with those weights would give.

Why that holds
--------------
Nothing is assumed about the network's source; it is watched. For each new form of input, one
extra pass under a dispatch mode writes a log of every operator: the module call it ran in, the
storages it read and wrote. Storages, not tensors, so that views, tied weights, ``.data`` and
in-place operations are seen for what they are. From the log, for one group of changed modules:

1. *What the change reaches.* An operator is reached if it reads a storage that holds a changed
   tensor, a random number or memory of unknown origin, or that a reached operator wrote. A value
   that becomes a Python number may steer the program, so once a reached one does, all that
   follows is reached.
2. *What is skipped.* The outermost module calls without a reached operator and without a reached
   output, which therefore compute what they computed before. It does not matter whether they
   come before the changed module or beside it. Calls with any other effect are never skipped,
   nor is what contains them: own state, random numbers, user's hooks, compiled code.
3. *What they hand back.* The very tensors, so that strides and alignment stay; that is right if
   whatever still runs reads them only after the last write. Where something that still runs
   writes to them, each pass gets its own copy of the whole storage, on which the tensors are laid
   out as before, so that what was an alias stays one. What only skipped modules read is a stand-in
   of the right form that takes no memory. A skip for which none of this is right is given up, and
   the calls inside it are considered instead.

The recording itself runs without the mode, as plainly as any other pass, and is compared with the
log: the calls, their order, the outputs' forms, the version counters. Each replay checks that the
calls come in order, and afterwards that no remembered tensor was changed. Whatever does not fit
is run again plainly and counted.

Taken on trust: the network is deterministic; it reads tensors through PyTorch's operators (the
usual ways around them, such as ``numpy()`` and ``tolist()``, are noticed, a C extension that is
given a bare tensor is not); it does not catch errors that an operator raises because of the
values it got; it has no effect on Python objects other than its modules. `call` runs the network
over the same batch each time, and enters ``autocast``, if at all, inside itself, since autocast
caches cast weights. Don't use the network in two threads at once.
"""

from __future__ import annotations

import functools
import operator
import pickle
import random
import weakref
from bisect import bisect_left
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_map, tree_unflatten

from layerscope.errors import LayerError

__all__ = ["Recorder"]

T = TypeVar("T")
Group = frozenset[str]
_Args = tuple[Any, ...]
_Kwargs = dict[str, Any]
_Forward = Callable[..., Any]
_Handler = Callable[[str, _Forward, _Args, _Kwargs], Any]

# How a skipped call's tensor is handed back.
SHARED, COPIED, STAND_IN = "shared", "copied", "stand-in"

_CONSTANT = (int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size)
_REGISTRIES = ("_parameters", "_buffers", "_modules")
_CONTAINER = (list, dict, set, OrderedDict, deque)
# Ways past the dispatcher: memory read or replaced without an operator.
_ESCAPES = {
    "numpy", "tolist", "data_ptr", "storage", "untyped_storage", "_typed_storage",
    "__array__", "__dlpack__", "to_dlpack", "share_memory_",
}  # fmt: skip


class _RefusedError(Exception):
    """Nothing can be proven about this network; says why."""


class _DivergedError(BaseException):
    """A pass does not follow the log; a network's ``except Exception`` must not catch it."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Where in which storage a tensor lies, enough to lay it out again.

    `number` tells the objects on one storage apart, for what a pass returned twice it returns
    twice again.
    """

    key: int
    number: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    device: torch.device

    def like(self, tensor: Tensor) -> bool:
        return (tensor.size(), tensor.stride(), tensor.storage_offset(), tensor.dtype) == (
            self.size, self.stride, self.offset, self.dtype
        )  # fmt: skip

    def on(self, storage: torch.UntypedStorage) -> Tensor:
        empty = torch.empty(0, dtype=self.dtype, device=self.device)
        return empty.set_(storage, self.offset, self.size, self.stride)


@dataclass(slots=True)
class _Operator:
    """One operator of the log; `call` is the innermost module call it ran in, or -1."""

    call: int
    reads: frozenset[int]
    writes: frozenset[int]
    leaks: bool
    random: bool


@dataclass(slots=True)
class _Call:
    """One module call of the log: operators ``start`` to ``end``, calls up to ``after``."""

    name: str
    parent: int
    start: int
    end: int = -1
    after: int = -1
    reason: str = ""
    spec: TreeSpec | None = None
    leaves: list[Any] = field(default_factory=list)


class _Item(NamedTuple):
    """One tensor to remember: leaf `leaf` of what call `call` returned."""

    mode: str
    call: int
    leaf: int


@dataclass(slots=True)
class _Plan:
    """What a replay of one group skips, and how it hands back every tensor of the skipped.

    `copies` names for each storage the item it is copied from, `sizes` the bytes of each storage
    that is kept, by storage and by when it is copied.
    """

    skips: list[int]
    modes: dict[tuple[int, int], str] = field(default_factory=dict)
    copies: dict[int, _Item] = field(default_factory=dict)
    sources: set[_Item] = field(default_factory=set)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)


@dataclass(slots=True)
class _Spread:
    """What a change reaches: operators in order, storages since when, and the end of certainty."""

    reached: list[int]
    since: dict[int, int]
    cut: int | None


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _form(tensor: Tensor, key: int = 0, number: int = 0) -> _Form:
    offset = int(tensor.storage_offset())
    return _Form(key, number, tensor.size(), tensor.stride(), offset, tensor.dtype, tensor.device)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def _random_states() -> list[Any]:
    states: list[Any] = [torch.get_rng_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return states


def _same_states(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(map(torch.equal, before, after))


def _signature(args: object) -> tuple[object, ...]:
    """What the control flow of a network may depend on without looking at values."""
    leaves, spec = tree_flatten(args)
    parts = [
        (leaf.size(), leaf.stride(), leaf.dtype, leaf.device)
        if isinstance(leaf, Tensor)
        else (leaf if isinstance(leaf, _CONSTANT) else type(leaf))
        for leaf in leaves
    ]
    return (str(spec), *parts)


def _picture(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Remember a module's attributes, and the contents of those that are containers."""
    return {
        key: (value, value.copy() if type(value) in _CONTAINER else None)
        for key, value in vars(module).items()
    }


def _same(value: Any, seen: Any, contents: Any) -> bool:
    if value is not seen:
        return isinstance(value, _CONSTANT) and type(value) is type(seen) and value == seen
    if contents is None:
        return True
    if isinstance(value, dict):
        return list(value) == list(contents) and all(value[k] is contents[k] for k in value)
    if isinstance(value, set):
        return bool(value == contents)
    return len(value) == len(contents) and all(a is b for a, b in zip(value, contents, strict=True))


def _unchanged(module: nn.Module, picture: dict[str, tuple[Any, Any]]) -> bool:
    now = vars(module)
    return now.keys() == picture.keys() and all(
        _same(now[key], seen, contents) for key, (seen, contents) in picture.items()
    )


def _repaint(module: nn.Module, picture: dict[str, tuple[Any, Any]]) -> None:
    """Give a module back the attributes it had."""
    now = vars(module)
    for key in now.keys() - picture.keys():
        del now[key]
    for key, (seen, contents) in picture.items():
        now[key] = seen
        if contents is not None and not _same(seen, seen, contents):
            seen.clear()
            (seen.update if isinstance(seen, dict | set) else seen.extend)(contents)


class _EscapeMode(TorchFunctionMode):
    """Notice calls that reach a tensor's memory behind the dispatcher's back."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = getattr(func, "__name__", "")
        if name in _ESCAPES:
            self.found.add(f"{name}()")
        if name == "__set__" and getattr(func, "__self__", None) is Tensor.data:
            self.found.add("an assignment to .data")
        return func(*args, **(kwargs or {}))


class _Log(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What one pass did, operator by operator, and what follows from it for a change."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[_Operator] = []
        self.calls: list[_Call] = []
        self.signatures: list[tuple[object, ...]] = []
        self.stack: list[int] = []
        self.sizes: dict[int, int] = {}
        self.born: dict[int, int] = {}
        self.inputs: set[int] = set()
        self.unknown: set[int] = set()
        self.plans: dict[Group, _Plan] = {}
        # A weak reference keeps a storage's address from being given to another one.
        self._held: dict[int, StorageWeakRef] = {}
        self._objects: dict[int, list[weakref.ref[Tensor]]] = {}
        self.parameters = {self._existing(p) for p in model.parameters()}
        self.owned: dict[str, set[int]] = {}
        for name, module in model.named_modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            self.owned[name] = {self._existing(tensor) for tensor in own}
            for tensor in _attributes(module):
                self._existing(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        before = _random_states() if seeded else []
        reads = self.keys((args, kwargs))
        written = self.keys([
            args[i] if i < len(args) else kwargs.get(argument.name)
            for i, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ])  # fmt: skip
        out = func(*args, **kwargs)
        drawn = seeded and not _same_states(before, _random_states())
        drawn = drawn or kwargs.get("generator") is not None
        if func is torch.ops.aten.lift_fresh.default:
            # A literal such as torch.tensor(1.0) appears here for the first time.
            reads = reads & self.born.keys()
        self.note(reads, written, self.keys(out), leaks=_leaks(func, args), random=drawn)
        return out

    def key(self, tensor: Tensor) -> int:
        """Name the storage of a tensor."""
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_inference():
            kind = "inference" if tensor.is_inference() else type(tensor).__name__
            raise _RefusedError(f"it uses {kind} tensors")
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        if key not in self._held:
            self._held[key] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self.sizes[key] = max(storage.nbytes(), self.sizes.get(key, 0))
        return key

    def keys(self, tree: object) -> set[int]:
        return {self.key(tensor) for tensor in _tensors(tree)}

    def _existing(self, tensor: Tensor) -> int:
        key = self.key(tensor)
        self.born[key] = -1
        return key

    def note(
        self,
        reads: Iterable[int],
        written: Iterable[int] = (),
        out: Iterable[int] = (),
        *,
        leaks: bool = False,
        random: bool = False,
    ) -> None:
        """Add one operator to the log."""
        for key in reads:
            if key not in self.born:
                self.born[key] = -1
                # Outside the network it is the caller, who gives the same values each time.
                if self.stack:
                    self.unknown.add(key)
        fresh = frozenset(key for key in out if key not in self.born)
        self.born.update(dict.fromkeys(fresh, len(self.operators)))
        call = self.stack[-1] if self.stack else -1
        op = _Operator(call, frozenset(reads), fresh.union(written), leaks, random)
        self.operators.append(op)

    def open(self, name: str, args: object) -> int:
        if not self.stack:
            self.signatures.append(_signature(args))
            self.inputs |= {self._existing(tensor) for tensor in _tensors(args)}
        parent = self.stack[-1] if self.stack else -1
        self.calls.append(_Call(name, parent, len(self.operators)))
        self.stack.append(len(self.calls) - 1)
        return self.stack[-1]

    def close(self, index: int) -> None:
        self.stack.pop()
        self.calls[index].end = len(self.operators)
        self.calls[index].after = len(self.calls)

    def describe(self, index: int, out: object) -> None:
        """Note what a call returned, and whether that can be made again."""
        call = self.calls[index]
        leaves, call.spec = tree_flatten(out)
        for leaf in leaves:
            reason = ""
            if isinstance(leaf, Tensor):
                key = self.key(leaf)
                if key not in self.born:
                    self.born[key] = -1
                    self.unknown.add(key)
                if leaf.is_nested or leaf.is_conj() or leaf.is_neg() or vars(leaf):
                    reason = "returns a tensor with more to it than memory and strides"
                else:
                    leaf = _form(leaf, key, self._number(leaf, key))
            elif not isinstance(leaf, _CONSTANT):
                reason = f"returns an object of type {type(leaf).__name__}"
            # Only this call is barred: to one around it, the object may be an internal matter.
            call.reason = call.reason or reason
            call.leaves.append(None if reason else leaf)

    def _number(self, tensor: Tensor, key: int) -> int:
        objects = self._objects.setdefault(key, [])
        for number, known in enumerate(objects):
            if known() is tensor:
                return number
        objects.append(weakref.ref(tensor))
        return len(objects) - 1

    def bar(self, index: int, reason: str) -> None:
        """Never skip a call, nor those around it."""
        while index >= 0:
            call = self.calls[index]
            call.reason = call.reason or reason
            if not reason.startswith("contains "):
                reason = f"contains {call.name or 'the network'!r}, which {reason}"
            index = call.parent

    def finish(self, out: object) -> None:
        """Prepare the log for questions, once the pass is over."""
        for op in self.operators[max((call.end for call in self.calls), default=0) :]:
            op.leaks = False  # the network has ended, the caller looks at the result
        self.note(self.keys(out))
        self.touches: dict[int, list[tuple[int, bool]]] = {}
        for position, op in enumerate(self.operators):
            for key in op.reads | op.writes:
                self.touches.setdefault(key, []).append((position, key in op.writes))
            if op.random:
                self.bar(op.call, "draws random numbers")
            if op.reads & self.unknown:
                self.bar(op.call, "reads a tensor that is not among its inputs")
            if any(self.born[key] < 0 and key not in self.inputs for key in op.writes):
                self.bar(op.call, "changes a tensor that outlives the pass")
        self.written = {k for k, touches in self.touches.items() if any(w for _, w in touches)}
        self.writes_inputs = bool(self.written & self.inputs)
        if self.written & self.parameters:
            raise _RefusedError("it changes its own parameters")
        self.steered = self.spread(self.inputs).cut is not None

    def spread(self, seeds: Collection[int]) -> _Spread:
        """Follow a change of the storages `seeds` through the log."""
        since = dict.fromkeys((*seeds, *self.unknown), -1)
        reached = []
        for position, op in enumerate(self.operators):
            if op.random or not since.keys().isdisjoint(op.reads):
                reached.append(position)
                if op.leaks:
                    return _Spread(reached, since, position)
                for key in op.writes:
                    since.setdefault(key, position)
        return _Spread(reached, since, None)

    def plan(self, changed: Group) -> _Plan:
        """Work out what a replay with these modules changed may skip."""
        if changed not in self.plans:
            seeds = set().union(*(self.owned[name] for name in changed))
            spread = self.spread(seeds)
            barred: set[int] = set()
            while True:
                skips = self._skips(spread, barred)
                plan, wrong = self._judge(skips, uncertain=spread.cut is not None)
                if not wrong:
                    break
                barred |= wrong
            self.plans[changed] = plan
        return self.plans[changed]

    def _skips(self, spread: _Spread, barred: set[int]) -> list[int]:
        """List the outermost calls that the change does not reach."""
        skips = []
        index = 0
        while index < len(self.calls):
            call = self.calls[index]
            if not call.reason and index not in barred and self._clean(call, spread):
                skips.append(index)
                index = call.after
            else:
                index += 1
        return skips

    def _clean(self, call: _Call, spread: _Spread) -> bool:
        if spread.cut is not None and call.end > spread.cut:
            return False
        first = bisect_left(spread.reached, call.start)
        if first < len(spread.reached) and spread.reached[first] < call.end:
            return False
        forms = [leaf for leaf in call.leaves if isinstance(leaf, _Form)]
        return all(spread.since.get(form.key, call.end) >= call.end for form in forms)

    def _judge(self, skips: list[int], *, uncertain: bool) -> tuple[_Plan, set[int]]:
        """Find a way to hand back every tensor of the skipped calls, or the skips to give up."""
        owner = [-1] * len(self.operators)
        holders: dict[int, list[tuple[int, int]]] = {}
        for index in skips:
            call = self.calls[index]
            owner[call.start : call.end] = [index] * (call.end - call.start)
            for leaf, form in enumerate(call.leaves):
                if isinstance(form, _Form):
                    holders.setdefault(form.key, []).append((index, leaf))
            for op in self.operators[call.start : call.end]:
                for key in op.writes:
                    if self.born[key] < call.start:
                        holders.setdefault(key, [])
        plan = _Plan(skips)
        wrong: set[int] = set()
        for key, places in holders.items():
            wrong |= self._judge_storage(plan, key, places, owner, uncertain)
        return plan, wrong

    def _judge_storage(
        self,
        plan: _Plan,
        key: int,
        places: list[tuple[int, int]],
        owner: list[int],
        uncertain: bool,
    ) -> set[int]:
        """Choose how one storage is handed back; return the skips that this rules out."""
        touches = self.touches.get(key, [])
        running = [(at, writes) for at, writes in touches if owner[at] < 0]
        skipped = [(at, owner[at]) for at, writes in touches if writes and owner[at] >= 0]
        mode = SHARED
        wrong: set[int] = set()
        if not running and not uncertain:
            mode = STAND_IN
        elif self.born[key] < 0 or owner[self.born[key]] < 0:
            # Made by what runs: the running program has its own, which a skipped write misses,
            # and which a remembered alias of it does not follow.
            last = max((at for at, writes in running if writes), default=-1)
            wrong = {index for _, index in skipped}
            # Nor does a version counter tell anything of an input that is put back.
            never = uncertain or key in self.inputs & self.written
            wrong |= {i for i, _ in places if never or self.calls[i].end <= last}
        else:
            first = running[0][0] if running else len(owner)
            wrong = {index for at, index in skipped if at > first}
            if any(writes for _, writes in running):
                # The state to hand out is the one after the last skipped write.
                last_writer = skipped[-1][1]
                source = [place for place in places if place[0] == last_writer]
                if source:
                    mode = COPIED
                    plan.copies[key] = _Item(COPIED, *source[0])
                    plan.sources.add(plan.copies[key])
                else:
                    wrong.add(last_writer)
        plan.modes.update(dict.fromkeys(places, mode))
        if mode == SHARED:
            plan.sources.update(_Item(SHARED, *place) for place in places)
        if mode != STAND_IN:
            plan.sizes[key, plan.copies[key].call if mode == COPIED else -1] = self.sizes[key]
        return wrong


def _leaks(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether Python can see values that go through this operator."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if func.namespace != "aten" and any("Tensor" not in str(r.type) for r in func._schema.returns):
        return True
    if func is torch.ops.aten.index.Tensor:
        # Its shape depends on values only if the index is a mask.
        return any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags


def _opaque(module: nn.Module) -> bool:
    """Tell whether a module runs code that a dispatch mode can't follow."""
    return (
        isinstance(module, torch.jit.ScriptModule)
        or type(module).__module__.startswith("torch._dynamo")
        or module._compiled_call_impl is not None
    )


def _hooked(module: nn.Module) -> bool:
    globally = nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return bool(module._forward_hooks or module._forward_pre_hooks or globally)


def _attributes(module: nn.Module) -> list[Tensor]:
    """List a module's tensors that are neither parameters nor buffers."""
    values = [v for k, v in vars(module).items() if k not in _REGISTRIES]
    tensors = _tensors([v for v in values if isinstance(v, Tensor | list | tuple | dict)])
    return [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]


def _same_tree(before: tuple[list[Any], TreeSpec], after: tuple[list[Any], TreeSpec]) -> bool:
    same = len(before[0]) == len(after[0]) and all(map(operator.is_, before[0], after[0]))
    return same and before[1] == after[1]


class _State:
    """The attributes and tensors that modules keep, so that a pass can leave no trace in them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._pictures = [(module, _picture(module)) for module in modules]
        self._copies = [
            (module, tensor, tensor.detach().clone())
            for module, _ in self._pictures
            for tensor in (*module.buffers(recurse=False), *_attributes(module))
        ]
        self.changed: list[nn.Module] = []
        self.written: list[Tensor] = []

    def restore(self) -> None:
        """Put everything back, and note what had to be."""
        for module, picture in self._pictures:
            if not _unchanged(module, picture):
                self.changed.append(module)
                _repaint(module, picture)
        for module, tensor, copy in self._copies:
            # Compared as bytes, for NaN differs from itself.
            if not torch.equal(_bytes(tensor), _bytes(copy)):
                self.changed.append(module)
                self.written.append(tensor)
                tensor.copy_(copy)


class Recorder(AbstractContextManager["Recorder"]):
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
    plain_groups : dict of frozenset to str
        Groups that were replayed plainly although something could be skipped, and why.
    refusal : str
        Why nothing of this network can be reused; empty if something can.
    remembered : list of frozenset
        The groups that can be replayed now.
    passes : Counter of str
        How many passes were "watched", "recorded", "replayed" and "plain".
    """

    def __init__(self, model: nn.Module, *, budget: int | None = None) -> None:
        self.model = model
        self.budget = budget
        self.plain_modules: dict[str, str] = {}
        self.plain_groups: dict[Group, str] = {}
        self.refusal = ""
        self.passes: Counter[str] = Counter()
        self._names = {module: name for name, module in model.named_modules()}
        self._opaque = {name for name, module in model.named_modules() if _opaque(module)}
        self._suspects: list[nn.Module] = []
        self._logs: dict[object, _Log] = {}
        self._wrappers = list(self._wrap())
        self._clear()

    def __exit__(self, *exc: object) -> None:
        self._clear()
        self._logs.clear()

    def record(self, call: Callable[[], T], groups: Iterable[Collection[str]]) -> T:
        """Run one plain pass over a batch and remember what replays of `groups` need.

        Parameters
        ----------
        call : callable
            Runs the network over the batch and returns what it returns.
        groups : iterable of collection of str
            For each coming replay the names of the modules whose own parameters or buffers will
            be changed, best in execution order. Of these as many as fit the budget, from the
            first, are then in `remembered`.

        Returns
        -------
        The network's output with its present weights.

        Raises
        ------
        LayerError
            If the network has no module of one of the names.
        """
        wanted = [self._group(group) for group in groups]
        steered = any(log.steered for log in self._logs.values())
        for attempt in range(2):
            self._clear()
            try:
                if not self.refusal and (steered or attempt):
                    self._watch(call)
                if not self.refusal:
                    return self._record(call, wanted)
            except _DivergedError:
                pass
        self._clear()
        self.refusal = self.refusal or "its passes over the same batch differ"
        self.remembered += wanted
        return self._plain(call)

    def replay(self, call: Callable[[], T], changed: Collection[str]) -> T:
        """Run a pass over the recorded batch while the weights of `changed` modules are others.

        Parameters
        ----------
        call : callable
            As it was for `record`.
        changed : collection of str
            One of the groups given to `record`.

        Returns
        -------
        What `call` returns, with the bits of a plain pass.
        """
        group = self._group(changed)
        plan = self._loaded.get(group)
        if plan is None or not plan.skips:
            return self._plain(call)
        if self._intact(plan):
            self._plan, self._skipped = plan, set(plan.skips)
            try:
                with self._pass(self._replay_call):
                    out = self._own(call())
                if self._intact(plan):
                    self.passes["replayed"] += 1
                    return out
            except _DivergedError:
                pass
        # What is remembered may be spoilt, so it is not used again.
        self.plain_groups[group] = "a replay did not follow the recorded pass"
        self._loaded.clear()
        return self._plain(call)

    def forget(self, changed: Collection[str]) -> None:
        """Free what only replays of this group need."""
        plan = self._loaded.pop(self._group(changed), None)
        for item in plan.sources if plan else ():
            self._uses[item] -= 1
            if not self._uses[item]:
                self._memory.pop(item, None)

    def walk(
        self, call: Callable[[], object], groups: Iterable[Collection[str]]
    ) -> Iterator[frozenset[str]]:
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

    def _group(self, changed: Collection[str]) -> Group:
        """Name modules as the log does: a module that has several names by the first."""
        try:
            return frozenset(self._names[self.model.get_submodule(name)] for name in changed)
        except (AttributeError, KeyError) as error:
            raise LayerError(f"the network lacks a module of {sorted(changed)}: {error}") from None

    def _clear(self) -> None:
        self._log: _Log | None = None
        self.remembered: list[Group] = []
        self._loaded: dict[Group, _Plan] = {}
        self._uses: Counter[_Item] = Counter()
        self._memory: dict[_Item, Any] = {}
        self._scratch: dict[torch.device, torch.UntypedStorage] = {}
        self._stand_ins: dict[_Form, Tensor] = {}
        self._fresh: dict[_Form, Tensor] = {}

    def _plain(self, call: Callable[[], T]) -> T:
        self.passes["plain"] += 1
        with self._pass(self._run):
            return self._own(call())

    def _watch(self, call: Callable[[], object]) -> None:
        """Write the log of one pass, or note why it can't be done."""
        try:
            log = self._written_log(call)
        except _RefusedError as refused:
            self.refusal = str(refused)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the plain way remains
            self._plain(call)  # raises the error again if it is the network's own
            self.refusal = f"it can't be watched: {error!r}"
        else:
            self._logs[log.signatures[0] if log.signatures else None] = log
            self.plain_modules.update({c.name: c.reason for c in log.calls if c.reason})

    def _written_log(self, call: Callable[[], object]) -> _Log:
        self._log = None
        before = pickle.dumps((random.getstate(), np.random.get_state()))
        with self._pass(self._run_outside, watched=True) as state, _EscapeMode() as escapes:
            call()
        if escapes.found:
            raise _RefusedError(f"it uses {' and '.join(sorted(escapes.found))}")
        # Who changes a suspect is only seen by watching it, so a new one takes another pass.
        while True:
            known = len(self._suspects)
            self._suspects += [m for m in dict.fromkeys(state.changed) if m not in self._suspects]
            if self._log is not None and len(self._suspects) == known:
                break
            self.passes["watched"] += 1
            self._log = log = _Log(self.model)
            with self._pass(self._watch_call, watched=True) as state:
                with log:
                    out = call()
                log.finish(out)
        if pickle.dumps((random.getstate(), np.random.get_state())) != before:
            raise _RefusedError("it draws random numbers outside PyTorch")
        if not log.keys(state.written) <= log.written:
            raise _RefusedError("it changes tensors that it keeps past PyTorch's operators")
        return log

    def _record(self, call: Callable[[], T], wanted: list[Group]) -> T:
        self._wanted, self._log, self._outermost = wanted, None, 0
        with self._pass(self._record_call):
            out = self._own(call())
        log = self._log
        if log is None or self._cursor != len(log.calls):
            raise _DivergedError
        for item, kept in self._memory.items():
            if item.mode == SHARED:
                tensor, version, form, end = kept
                predicted = any(w and at >= end for at, w in log.touches.get(form.key, ()))
                if predicted != (tensor._version != version) or not form.like(tensor):
                    self.refusal = "it changes memory in a way that can't be followed"
                    raise _DivergedError
                self._memory[item] = (tensor, tensor._version)
        self.passes["recorded"] += 1
        return out

    def _admit(self, log: _Log) -> None:
        """Choose the groups whose plans fit the budget together, and what to keep for them."""
        sizes: dict[tuple[int, int], int] = {}
        for group in self._wanted:
            plan = log.plan(group)
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
        self._wants: dict[int, list[_Item]] = {}
        for plan in self._loaded.values():
            for index in plan.skips:
                self._wants.setdefault(index, [])
        for item in self._uses:
            self._wants[item.call].append(item)

    def _intact(self, plan: _Plan) -> bool:
        """Tell whether the remembered tensors are what they were when the recording ended."""
        kept = (self._memory[item] for item in plan.sources if item.mode == SHARED)
        return all(tensor._version == version for tensor, version in kept)

    @contextmanager
    def _pass(self, handler: _Handler, *, watched: bool = False) -> Iterator[_State]:
        """Run one pass with `handler` in place of every module's forward; leave no trace."""
        state = _State(self.model.modules() if watched else self._suspects)
        self._careful = watched or any(log.writes_inputs for log in self._logs.values())
        self._handler, self._depth, self._cursor = handler, 0, 0
        self._inputs: list[tuple[Tensor, Tensor]] = []
        try:
            with torch.no_grad():
                for namespace, key, wrapper, _ in self._wrappers:
                    namespace[key] = wrapper
                yield state
        finally:
            for namespace, key, _, previous in self._wrappers:
                if previous is None:
                    namespace.pop(key, None)
                else:
                    namespace[key] = previous
            with torch.no_grad():
                state.restore()
                for tensor, copy in self._inputs:
                    if not torch.equal(_bytes(tensor), _bytes(copy)):
                        tensor.copy_(copy)
            self._inputs, self._fresh = [], {}

    def _own(self, out: T) -> T:
        """Take outputs out of the memory of inputs that will be put back."""
        lent = {tensor.untyped_storage()._cdata for tensor, _ in self._inputs}
        if not lent:
            return out

        def taken(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata in lent:
                return _form(leaf).on(leaf.untyped_storage().clone())  # type: ignore[no-untyped-call]
            return leaf

        return cast("T", tree_map(taken, out))

    def _wrap(self) -> Iterator[tuple[dict[str, Any], str, _Forward, _Forward | None]]:
        """Yield where each module's wrapper goes, and what is there between passes."""
        inside = {
            inner
            for name in self._opaque
            for inner in self.model.get_submodule(name).modules()
            if inner is not self.model.get_submodule(name)
        }
        for module, name in self._names.items():
            # A compiled module would be compiled anew if anything inside it were replaced.
            if module not in inside:
                compiled = module._compiled_call_impl is not None
                key = "_compiled_call_impl" if compiled else "forward"
                wrapper = self._wrapper(name, getattr(module, key))
                yield vars(module), key, wrapper, vars(module).get(key)

    def _wrapper(self, name: str, forward: _Forward) -> _Forward:
        @functools.wraps(forward)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return forward(*args, **kwargs)
            if self._careful and not self._depth:
                tensors = _tensors((args, kwargs))
                self._inputs += [(tensor, tensor.clone()) for tensor in tensors]
            self._depth += 1
            try:
                return self._handler(name, forward, args, kwargs)
            finally:
                self._depth -= 1

        return wrapper

    # What stands in for a module's forward, one handler for each kind of pass.

    def _run(self, _name: str, forward: _Forward, args: _Args, kwargs: _Kwargs) -> Any:
        return forward(*args, **kwargs)

    def _run_outside(self, name: str, forward: _Forward, args: _Args, kwargs: _Kwargs) -> Any:
        if name not in self._opaque:
            return forward(*args, **kwargs)
        with _pop_mode_temporarily():
            return forward(*args, **kwargs)

    def _watch_call(self, name: str, forward: _Forward, args: _Args, kwargs: _Kwargs) -> Any:
        log = self._log
        assert log is not None
        hooked = _hooked(self.model.get_submodule(name))
        if hooked:
            # The hooks run around this call, and may look at what goes in and out.
            log.bar(log.stack[-1] if log.stack else -1, f"contains {name!r}, which has hooks")
            log.note(log.keys((args, kwargs)))
        index = log.open(name, (args, kwargs))
        before = tree_flatten((args, kwargs))
        pictures = [(module, _picture(module)) for module in self._suspects]
        try:
            out = (self._watch_opaque if name in self._opaque else self._run)(
                name, forward, args, kwargs
            )
        except BaseException:
            log.close(index)
            log.bar(index, "raises an exception")
            raise
        log.close(index)
        log.describe(index, out)
        if not all(_unchanged(module, picture) for module, picture in pictures):
            log.bar(index, "changes attributes of a module")
        if not _same_tree(before, tree_flatten((args, kwargs))):
            log.bar(index, "changes a container it was given")
        if isinstance(out, _CONTAINER) and any(out is arg for arg in (*args, *kwargs.values())):
            log.bar(index, "returns a container it was given")
        if hooked:
            log.note(log.keys(out))
        return out

    def _watch_opaque(self, name: str, forward: _Forward, args: _Args, kwargs: _Kwargs) -> Any:
        """Log a whole compiled module as one operator that uses all it could."""
        log = self._log
        assert log is not None
        module = self.model.get_submodule(name)
        tensors = [*module.parameters(), *module.buffers(), *_tensors((args, kwargs))]
        versions = [tensor._version for tensor in tensors]
        numbers = _random_states()
        with _disable_current_modes():
            out = forward(*args, **kwargs)
            drawn = not _same_states(numbers, _random_states())
        written = [t for t, version in zip(tensors, versions, strict=True) if t._version != version]
        log.note(log.keys(tensors), log.keys(written), log.keys(out), random=drawn)
        log.bar(log.stack[-1], "is compiled or scripted")
        return out

    def _record_call(self, name: str, forward: _Forward, args: _Args, kwargs: _Kwargs) -> Any:
        if self._depth == 1:
            self._choose_log((args, kwargs))
        index = self._step(name)
        out = forward(*args, **kwargs)
        if index in self._wants:
            self._remember(index, out)
        return out

    def _choose_log(self, args: object) -> None:
        """Find the log of a pass that got inputs of the same form."""
        signature = _signature(args)
        if self._log is None:
            self._log = self._logs.get(signature)
            if self._log is None:
                raise _DivergedError
            self._admit(self._log)
        if self._log.signatures[self._outermost : self._outermost + 1] != [signature]:
            raise _DivergedError
        self._outermost += 1

    def _step(self, name: str) -> int:
        """Say which call of the log this is."""
        assert self._log is not None
        index = self._cursor
        if index >= len(self._log.calls) or self._log.calls[index].name != name:
            raise _DivergedError
        self._cursor = index + 1
        return index

    def _remember(self, index: int, out: object) -> None:
        assert self._log is not None
        call = self._log.calls[index]
        leaves = tree_leaves(out)
        if len(leaves) != len(call.leaves):
            raise _DivergedError
        for leaf, form in zip(leaves, call.leaves, strict=True):
            if isinstance(form, _Form) and not (isinstance(leaf, Tensor) and form.like(leaf)):
                raise _DivergedError
        for item in self._wants[index]:
            tensor = leaves[item.leaf]
            if item.mode == COPIED:
                self._memory[item] = tensor.untyped_storage().clone()
            else:
                self._memory[item] = (tensor, tensor._version, call.leaves[item.leaf], call.end)

    def _replay_call(self, name: str, forward: _Forward, args: _Args, kwargs: _Kwargs) -> Any:
        assert self._log is not None
        index = self._step(name)
        if index not in self._skipped:
            return forward(*args, **kwargs)
        call = self._log.calls[index]
        self._cursor = call.after
        if index == self._plan.skips[-1]:
            # From here the changed weights may steer the network elsewhere.
            self._handler = self._run
        assert call.spec is not None
        leaves = [
            self._made(index, number, leaf) if isinstance(leaf, _Form) else leaf
            for number, leaf in enumerate(call.leaves)
        ]
        return tree_unflatten(leaves, call.spec)

    def _made(self, index: int, leaf: int, form: _Form) -> Tensor:
        """Make a tensor of a skipped call in the way the plan says."""
        mode = self._plan.modes[index, leaf]
        if mode == SHARED:
            tensor: Tensor = self._memory[_Item(SHARED, index, leaf)][0]
            return tensor
        made = self._fresh if mode == COPIED else self._stand_ins
        if form not in made:
            made[form] = form.on(self._copy(form) if mode == COPIED else self._scratch_for(form))
        return made[form]

    def _copy(self, form: _Form) -> torch.UntypedStorage:
        """Return this pass's own copy of a storage."""
        for other, tensor in self._fresh.items():
            if other.key == form.key:
                return tensor.untyped_storage()
        copy: torch.UntypedStorage = self._memory[self._plan.copies[form.key]].clone()
        return copy

    def _scratch_for(self, form: _Form) -> torch.UntypedStorage:
        """Return memory that is never read: all stand-ins on a device share it."""
        assert self._log is not None
        size = self._log.sizes[form.key]
        scratch = self._scratch.get(form.device)
        if scratch is None or scratch.nbytes() < size:
            scratch = torch.UntypedStorage(size, device=form.device)  # type: ignore[no-untyped-call]
            self._scratch[form.device] = scratch
        return scratch
