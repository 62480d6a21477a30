"""The pass that writes a log."""

from __future__ import annotations

import functools
import operator
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

from torch import nn
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten

from layerscope.base import devices
from layerscope.base.tensors import marks
from layerscope.core.reuse._draws import Draws
from layerscope.core.reuse._forms import CONTAINER, RefusedError, tensors_in
from layerscope.core.reuse._log import EscapeMode, Log
from layerscope.core.reuse._passes import Args, Forward, Kwargs, Passes, T
from layerscope.core.reuse._state import is_hooked, picture_of, unchanged

_SHY = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""Modules that take another way while somebody watches for ways past PyTorch."""


class Watcher(Passes):
    """Watches a pass, operator by operator.

    Ways past PyTorch are noticed in the same pass, where that makes no difference to the program;
    else in one of its own before.

    Attributes
    ----------
    called : dict of str to int
        When each module was first called in the last pass that was watched.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.called: dict[str, int] = {}
        shy = any(isinstance(module, _SHY) for module in model.modules())
        self._apart = shy or bool(self._opaque)
        self._escapes = EscapeMode()
        self._escaped: set[str] = set()
        self._mark: object = None

    def _notice(self, call: Callable[[], object]) -> None:
        """Run a pass and note what no log shows: ways past PyTorch, and which modules change."""
        escapes = EscapeMode()

        def noticed() -> object:
            with escapes:
                return call()

        _, state = self._pass(self._notice_call, noticed, watched=True)
        self._suspect(state.changed)
        self._escaped |= escapes.found

    def _suspect(self, changed: Iterable[nn.Module]) -> bool:
        """Remember modules that a pass changes; say whether any is new."""
        new = [module for module in dict.fromkeys(changed) if module not in self._suspects]
        self._suspects += new
        return bool(new)

    def _written_log(self, call: Callable[[], T]) -> tuple[T, Log]:
        """Run a pass under the log; return what it gave, and the log."""
        self._log, self.called = None, {}
        if self._apart:
            self._notice(call)
            self._refuse_escapes()
            return self._watched_log(call)
        self._escapes = escapes = EscapeMode()
        try:
            return self._watched_log(call)
        finally:
            self._escaped |= escapes.found
            self._refuse_escapes()

    def _refuse_escapes(self) -> None:
        if self._escaped:
            raise RefusedError(f"it uses {' and '.join(sorted(self._escaped))}")

    def _watched_log(self, call: Callable[[], T]) -> tuple[T, Log]:
        with Draws(own=threading.active_count() > 1) as drawn:
            out, log = self._settled_log(call)
        if drawn.any:
            raise RefusedError("it uses random numbers from outside PyTorch")
        return out, log

    def _settled_log(self, call: Callable[[], T]) -> tuple[T, Log]:
        # Who changes a suspect is only seen by watching it, so a new one takes another pass.
        new = True
        while new:
            self.passes["watched"] += 1
            self._log = log = Log(self.model)
            out, state = self._pass(
                self._watch_call, functools.partial(self._logged, log, call), watched=True
            )
            new = self._suspect(state.changed)
        self._mark = mark_of(out)
        for made in log.calls:
            self.called.setdefault(made.name, len(self.called))
        if not log.keys(state.written) <= log.written:
            raise RefusedError("it changes tensors that it keeps past PyTorch's operators")
        return out, log

    def _logged(self, log: Log, call: Callable[[], T]) -> T:
        with nullcontext() if self._apart else self._escapes, log:
            out = call()
        log.finish(out)
        return out

    def _notice_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        if name not in self._opaque:
            return forward(*args, **kwargs)
        with _pop_mode_temporarily():
            return forward(*args, **kwargs)

    def _watch_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        # Only what the network does of its own accord are ways past PyTorch.
        heard = not self._escapes.deaf
        self._escapes.deaf = True
        try:
            return self._log_call(name, forward, args, kwargs)
        finally:
            self._escapes.deaf = not heard

    def _log_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        log = self._log
        assert log is not None
        hooked = is_hooked(self.model.get_submodule(name))
        if hooked:
            # The hooks run around this call, and may look at what goes in and out.
            around = log.stack[-1] if log.stack else -1
            log.bar(around, f"contains {name!r}, which has hooks", steers=True)
            log.note(log.keys((args, kwargs)))
        index = log.open(name, (args, kwargs))
        before = tree_flatten((args, kwargs))
        pictures = [(module, picture_of(module)) for module in self._suspects]
        try:
            self._escapes.deaf = False
            out = (self._watch_opaque if name in self._opaque else self._run)(
                name, forward, args, kwargs
            )
            self._escapes.deaf = True
        except BaseException:
            self._escapes.deaf = True
            log.close(index)
            log.bar(index, "raises an exception")
            raise
        log.close(index)
        log.describe(index, out)
        if not all(unchanged(module, picture) for module, picture in pictures):
            log.bar(index, "changes attributes of a module", steers=True)
        if not _same_tree(before, tree_flatten((args, kwargs))):
            log.bar(index, "changes a container it was given", steers=True)
        if isinstance(out, CONTAINER) and any(out is arg for arg in (*args, *kwargs.values())):
            log.bar(index, "returns a container it was given")
        if hooked:
            log.note(log.keys(out))
        return out

    def _watch_opaque(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        """Log a whole compiled module as one operator that uses all it could."""
        log = self._log
        assert log is not None
        module = self.model.get_submodule(name)
        tensors = [*module.parameters(), *module.buffers(), *tensors_in((args, kwargs))]
        versions = [tensor._version for tensor in tensors]
        numbers = devices.random_states()
        with _disable_current_modes():
            out = forward(*args, **kwargs)
            drawn = not devices.same_states(numbers, devices.random_states())
        written = [t for t, version in zip(tensors, versions, strict=True) if t._version != version]
        log.note(log.keys(tensors), log.keys(written), log.keys(out), random=drawn)
        log.bar(log.stack[-1], "is compiled or scripted")
        return out


def mark_of(out: object) -> object:
    """Tell outputs from others without keeping them: one number for the bits of each tensor."""
    return marks({str(number): tensor for number, tensor in enumerate(tensors_in(out))})


def _same_tree(before: tuple[list[Any], TreeSpec], after: tuple[list[Any], TreeSpec]) -> bool:
    same = len(before[0]) == len(after[0]) and all(map(operator.is_, before[0], after[0]))
    return same and before[1] == after[1]
