"""One pass with something else in place of every module's forward, which leaves no trace."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from layerscope.base.tensors import as_bytes
from layerscope.base.undoing import Undo
from layerscope.core.reuse._forms import Form, form_of, tensors_in
from layerscope.core.reuse._log import Log
from layerscope.core.reuse._routing import Note, note_of, run_route
from layerscope.core.reuse._state import State, is_opaque
from layerscope.core.running import Route

T = TypeVar("T")
Args = tuple[Any, ...]
Kwargs = dict[str, Any]
Forward = Callable[..., Any]
Handler = Callable[[str, Forward, Args, Kwargs], Any]


class Passes:
    """A network whose modules run through a handler while a pass lasts."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.passes: Counter[str] = Counter()
        self._names = {module: name for name, module in model.named_modules()}
        # By any of its names: looking modules up by path takes a third of a sweep over ranges.
        every = model.named_modules(remove_duplicate=False)
        self._first_names = {name: self._names[module] for name, module in every}
        self._opaque = {name for name, module in model.named_modules() if is_opaque(module)}
        self._suspects: list[nn.Module] = []
        self._logs: dict[object, Log] = {}
        self._log: Log | None = None
        self._fresh: dict[Form, Tensor] = {}
        self._routes: dict[str, Route] = {}
        self._blocks: dict[str, Forward] = {}
        self._noting: Collection[str] = ()
        self._notes: dict[str, Note] = {}
        self._wrappers = list(self._wrap())

    def _pass(
        self,
        handler: Handler,
        call: Callable[[], T],
        *,
        routes: Iterable[tuple[str, Route]] = (),
        noting: Collection[str] = (),
        watched: bool = False,
    ) -> tuple[T, State]:
        """Run one pass with `handler` in place of every module's forward; leave no trace.

        Handlers that know of it go by `routes`; of the modules `noting` is kept what routes need.
        """
        state = State(self.model.modules() if watched else self._suspects)
        self._careful = watched or any(log.writes_inputs for log in self._logs.values())
        self._handler, self._depth, self._cursor = handler, 0, 0
        self._routes, self._noting = dict(routes), noting
        self._inputs: list[tuple[Tensor, Tensor]] = []
        with Undo() as undo, undo:
            undo.enter(_Pass(self, state, note=watched))
            return self._own(call()), state

    @property
    def restless(self) -> set[nn.Module]:
        """Modules that a pass of the unchanged network changes; they are put back after each."""
        return set(self._suspects)

    def _own(self, out: T) -> T:
        """Take outputs out of the memory of inputs that will be put back."""
        lent = {tensor.untyped_storage()._cdata for tensor, _ in self._inputs}
        if not lent:
            return out

        def taken(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata in lent:
                return form_of(leaf).on(leaf.untyped_storage().clone())  # type: ignore[no-untyped-call]
            return leaf

        return cast("T", tree_map(taken, out))

    def _wrap(self) -> Iterator[tuple[dict[str, Any], str, Forward, Forward | None]]:
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
                self._blocks[name] = forward = getattr(module, key)
                wrapper = self._wrapper(name, forward)
                yield vars(module), key, wrapper, vars(module).get(key)

    def _wrapper(self, name: str, forward: Forward) -> Forward:
        @functools.wraps(forward)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if torch.compiler.is_compiling():
                return forward(*args, **kwargs)
            if self._careful and not self._depth:
                tensors = tensors_in((args, kwargs))
                self._inputs += [(tensor, tensor.clone()) for tensor in tensors]
            self._depth += 1
            try:
                out = self._handler(name, forward, args, kwargs)
                if name in self._noting:
                    self._notes[name] = Note.of((args, kwargs), out)
                return out
            finally:
                self._depth -= 1

        return wrapper

    # What stands in for a module's forward, one handler for each kind of pass.

    def _run(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        if name in self._routes:
            call, route, known = (args, kwargs), self._routes[name], self._note(name)
            return run_route(name, route, call, self._blocks, self._notes, known)
        return forward(*args, **kwargs)

    def _note(self, name: str) -> Note | None:
        """Find how a block's output lies in the unchanged pass."""
        return self._notes.get(name) or (note_of(self._log, name) if self._log else None)


class _Pass(Undo):
    """While it lasts, the modules of a network run through a handler."""

    def __init__(self, passes: Passes, state: State, *, note: bool) -> None:
        super().__init__()
        self._passes, self._state, self._note = passes, state, note

    def begin(self) -> None:
        gradients = torch.is_grad_enabled()
        self.add(lambda: torch.set_grad_enabled(gradients))
        self.add(self._tidy)
        self.add(self._unwrap)
        torch.set_grad_enabled(False)
        for namespace, key, wrapper, _ in self._passes._wrappers:
            namespace[key] = wrapper

    def _unwrap(self) -> None:
        for namespace, key, _, previous in self._passes._wrappers:
            if previous is None:
                namespace.pop(key, None)
            else:
                namespace[key] = previous

    def _tidy(self) -> None:
        self._state.restore(note=self._note)
        for tensor, copy in self._passes._inputs:
            if not torch.equal(as_bytes(tensor), as_bytes(copy)):
                tensor.copy_(copy)
        self._passes._inputs, self._passes._fresh = [], {}
