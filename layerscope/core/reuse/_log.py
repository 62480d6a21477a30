"""The log of one pass: every operator, the module call it ran in, the storages it touched."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten

from layerscope.base import devices
from layerscope.core.reuse._forms import (
    CONSTANT,
    Form,
    Group,
    Plan,
    RefusedError,
    form_of,
    formless,
    given_in,
    obstacle,
    signature_of,
    tensors_in,
)
from layerscope.core.reuse._state import loose_tensors
from layerscope.core.running import hidden_first

# Ways past the dispatcher: memory read or replaced without an operator.
_ESCAPES = {
    "numpy", "tolist", "data_ptr", "storage", "untyped_storage", "_typed_storage",
    "__array__", "__dlpack__", "to_dlpack", "share_memory_",
}  # fmt: skip


@dataclass(slots=True)
class Operator:
    """One operator of the log; `call` is the innermost module call it ran in, or -1."""

    call: int
    reads: frozenset[int]
    writes: frozenset[int]
    leaks: bool
    random: bool


@dataclass(slots=True)
class Call:
    """One module call of the log: operators ``start`` to ``end``, calls up to ``after``.

    `given` and `taken` are the tensors and storages it was given, `obstacle` says why it can't be
    passed over, `formless` why nothing else can be returned in its form, `more` that it returns
    more than hidden states, and `steers` that it, or a call in it, has an effect on the program
    that no operator shows.
    """

    name: str
    parent: int
    start: int
    end: int = -1
    after: int = -1
    reason: str = ""
    spec: TreeSpec | None = None
    leaves: list[Any] = field(default_factory=list)
    given: list[Form | None] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    obstacle: str = "raises an exception"
    formless: str = "raises an exception"
    more: bool = False
    steers: bool = False


@dataclass(slots=True)
class Spread:
    """Reach of a change: operators in order, storages since when, and the end of certainty."""

    reached: list[int]
    since: dict[int, int]
    cut: int | None


class EscapeMode(TorchFunctionMode):
    """Notice calls that reach a tensor's memory behind the dispatcher's back.

    Attributes
    ----------
    found : set of str
    deaf : bool
        True while it is not the network that runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.deaf = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = "" if self.deaf else getattr(func, "__name__", "")
        if name in _ESCAPES:
            self.found.add(f"{name}()")
        if name == "__set__" and getattr(func, "__self__", None) is Tensor.data:
            self.found.add("an assignment to .data")
        return func(*args, **(kwargs or {}))


class Log(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Log of one pass, operator by operator, and what follows from it for a change."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[Operator] = []
        self.calls: list[Call] = []
        self.signatures: list[tuple[object, ...]] = []
        self.stack: list[int] = []
        self.sizes: dict[int, int] = {}
        self.born: dict[int, int] = {}
        self.inputs: set[int] = set()
        self.unknown: set[int] = set()
        self.plans: dict[Group, Plan] = {}
        # A weak reference keeps a storage's address from being given to another one.
        self._held: dict[int, StorageWeakRef] = {}
        self._objects: dict[int, list[weakref.ref[Tensor]]] = {}
        self.parameters = {self._existing(p) for p in model.parameters()}
        self.owned: dict[str, set[int]] = {}
        for name, module in model.named_modules():
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            self.owned[name] = {self._existing(tensor) for tensor in own}
            for tensor in loose_tensors(module):
                self._existing(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else PyTorch loads its compiler for the first operator: seconds, and 150 MB. Nothing is
        # compiled under a log: compiled modules run outside of it.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        before = devices.random_states() if seeded else []
        reads = self.keys((args, kwargs))
        written = self.keys([
            args[i] if i < len(args) else kwargs.get(argument.name)
            for i, argument in enumerate(func._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ])  # fmt: skip
        out = func(*args, **kwargs)
        drawn = seeded and not devices.same_states(before, devices.random_states())
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
            raise RefusedError(f"it uses {kind} tensors")
        storage = tensor.untyped_storage()
        key = int(storage._cdata)
        if key not in self._held:
            self._held[key] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        self.sizes[key] = max(storage.nbytes(), self.sizes.get(key, 0))
        return key

    def keys(self, tree: object) -> set[int]:
        """Name the storages of the tensors of a nested structure."""
        return {self.key(tensor) for tensor in tensors_in(tree)}

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
        op = Operator(call, frozenset(reads), fresh.union(written), leaks, random)
        self.operators.append(op)

    def open(self, name: str, args: tuple[Any, Any]) -> int:
        """Note that a module call begins; return its index."""
        if not self.stack:
            self.signatures.append(signature_of(args))
            self.inputs |= {self._existing(tensor) for tensor in tensors_in(args)}
        parent = self.stack[-1] if self.stack else -1
        start, taken, given = len(self.operators), self.keys(args), given_in(hidden_first(args))
        self.calls.append(Call(name, parent, start, given=given, taken=taken))
        self.stack.append(len(self.calls) - 1)
        return self.stack[-1]

    def close(self, index: int) -> None:
        """Note that a module call ends."""
        self.stack.pop()
        self.calls[index].end = len(self.operators)
        self.calls[index].after = len(self.calls)

    def describe(self, index: int, out: object) -> None:
        """Note what a call returned, and whether that can be made again."""
        call = self.calls[index]
        call.obstacle, call.formless = obstacle(call.given, out), formless(out)
        leaves, call.spec = tree_flatten(out)
        call.more = any(leaf is not None for leaf in leaves[1:])
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
                    leaf = form_of(leaf, key, self._number(leaf, key))
            elif not isinstance(leaf, CONSTANT):
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

    def bar(self, index: int, reason: str, *, steers: bool = False) -> None:
        """Never skip a call, nor those around it."""
        while index >= 0:
            call = self.calls[index]
            call.steers = call.steers or steers
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
            raise RefusedError("it changes its own parameters")
        self.steered = self.spread(self.inputs).cut is not None

    def spread(
        self, seeds: Collection[int], over: Collection[int] = (), stop: int | None = None
    ) -> Spread:
        """Follow a change of the storages `seeds` through the log, the calls `over` left out.

        What such a call wrote is then other than it was. From the operator `stop` on nothing is
        certain.
        """
        since = dict.fromkeys((*seeds, *self.unknown), -1)
        left_out = {at for i in over for at in range(self.calls[i].start, self.calls[i].end)}
        reached = []
        for position, op in enumerate(self.operators[:stop]):
            gone = position in left_out
            if gone or op.random or not since.keys().isdisjoint(op.reads):
                reached.append(position)
                # In a call that is left out, a leak steers nothing.
                if op.leaks and not gone:
                    return Spread(reached, since, position)
                for key in op.writes:
                    since.setdefault(key, position)
        return Spread(reached, since, stop)


def _leaks(func: Any, args: tuple[Any, ...]) -> bool:
    """Tell whether Python can see values that go through this operator."""
    if torch.Tag.data_dependent_output in func.tags:
        return True
    if func.namespace != "aten" and any("Tensor" not in str(r.type) for r in func._schema.returns):
        return True
    if func is torch.ops.aten.index.Tensor:
        # Its shape depends on values only if the index is a mask.
        return any(index.dtype in (torch.bool, torch.uint8) for index in tensors_in(args[1]))
    return torch.Tag.dynamic_output_shape in func.tags
