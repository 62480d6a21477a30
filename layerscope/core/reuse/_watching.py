"""The pass that writes a log."""

from __future__ import annotations

import functools
import operator
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.overrides import _pop_mode_temporarily
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import TreeSpec, tree_flatten

from layerscope.base import devices
from layerscope.core.reuse._forms import CONTAINER, RefusedError, tensors_in
from layerscope.core.reuse._log import EscapeMode, Log
from layerscope.core.reuse._passes import Args, Forward, Kwargs, Passes
from layerscope.core.reuse._state import is_hooked, picture_of, unchanged


class Watcher(Passes):
    """Watches a pass, operator by operator."""

    def _written_log(self, call: Callable[[], object]) -> Log:
        self._log = None
        before = pickle.dumps((random.getstate(), np.random.get_state()))
        escapes = EscapeMode()

        def noticed() -> None:
            with escapes:
                call()

        _, state = self._pass(self._run_outside, noticed, watched=True)
        if escapes.found:
            raise RefusedError(f"it uses {' and '.join(sorted(escapes.found))}")
        # Who changes a suspect is only seen by watching it, so a new one takes another pass.
        while True:
            known = len(self._suspects)
            self._suspects += [m for m in dict.fromkeys(state.changed) if m not in self._suspects]
            if self._log is not None and len(self._suspects) == known:
                break
            self.passes["watched"] += 1
            self._log = log = Log(self.model)
            _, state = self._pass(
                self._watch_call, functools.partial(_logged, log, call), watched=True
            )
        if pickle.dumps((random.getstate(), np.random.get_state())) != before:
            raise RefusedError("it draws random numbers outside PyTorch")
        if not log.keys(state.written) <= log.written:
            raise RefusedError("it changes tensors that it keeps past PyTorch's operators")
        return log

    def _run_outside(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
        if name not in self._opaque:
            return forward(*args, **kwargs)
        with _pop_mode_temporarily():
            return forward(*args, **kwargs)

    def _watch_call(self, name: str, forward: Forward, args: Args, kwargs: Kwargs) -> Any:
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
            out = (self._watch_opaque if name in self._opaque else self._run)(
                name, forward, args, kwargs
            )
        except BaseException:
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


def _logged(log: Log, call: Callable[[], object]) -> None:
    with log:
        out = call()
    log.finish(out)


def _same_tree(before: tuple[list[Any], TreeSpec], after: tuple[list[Any], TreeSpec]) -> bool:
    same = len(before[0]) == len(after[0]) and all(map(operator.is_, before[0], after[0]))
    return same and before[1] == after[1]
