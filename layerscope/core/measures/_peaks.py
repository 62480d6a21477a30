"""Peaks: the largest values that each channel of a module is given and gives, over all tokens."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core.measures._branches import first_tensor
from layerscope.core.measures._measuring import mask_of
from layerscope.core.measures._watching import counted
from layerscope.core.probe import Probe
from layerscope.core.running import explain_mismatch, hidden_first

__all__ = ["Peaks", "find_peaks"]


class Peaks(NamedTuple):
    """Largest absolute values by channel, in double precision on the CPU: (in,) and (out,)."""

    given: Tensor
    gave: Tensor


def find_peaks(probe: Probe, paths: Iterable[str]) -> dict[str, Peaks]:
    """Run a pass over the data and find the peaks of modules; those never called are left out.

    Parameters
    ----------
    probe : Probe
    paths : iterable of str
        Modules, by dotted name, whose channels stand in the last dimension, as of linear ones.
    """
    with Undo() as undo, undo:
        watch = undo.enter(_PeakWatch(probe.subject.model, paths))
        for inputs, _ in probe.subject.data:
            watch.mask = mask_of(inputs)
            with explain_mismatch(inputs):
                probe.plain(partial(probe.subject.call, inputs))
        found: dict[str, Peaks] = watch.found
        return found


class _PeakWatch(Undo):
    def __init__(self, model: nn.Module, paths: Iterable[str]) -> None:
        super().__init__()
        self._modules = {model.get_submodule(path): path for path in paths}
        self.found: dict[str, Peaks] = {}
        self.mask: Tensor | None = None

    def begin(self) -> _PeakWatch:
        self.add(self._unhook)
        for module in self._modules:
            module.register_forward_hook(self._see, with_kwargs=True)
        return self

    def _unhook(self) -> None:
        for module in self._modules:
            for key in [key for key, hook in module._forward_hooks.items() if hook == self._see]:
                del module._forward_hooks[key]
                module._forward_hooks_with_kwargs.pop(key, None)

    def _see(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given, gave = first_tensor(hidden_first((args, kwargs))), first_tensor(output)
        if given is None or gave is None or not given.is_floating_point():
            return
        now = Peaks(self._largest(given), self._largest(gave))
        before = self.found.get(self._modules[module])
        if before is not None:
            now = Peaks(*(torch.maximum(a, b) for a, b in zip(now, before, strict=True)))
        self.found[self._modules[module]] = now

    def _largest(self, values: Tensor) -> Tensor:
        # Rows that were put together, as for experts, say no more which of them is padding.
        fits = self.mask is not None and values.shape[:-1] == self.mask.shape
        tokens = counted(values, self.mask) if fits else values.flatten(0, -2)
        return devices.double(tokens.abs().amax(0)).cpu()
