"""Following zeros from where a part of a block would have returned something to where they add."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layerscope.core.reuse._forms import tensors_in

__all__ = ["Additions"]

_ADD = {torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor}


class Additions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches a pass in which parts of blocks return zeros, until these are added to something.

    A part is a residual branch if what comes of its zeros is still zeros where it is first added
    to what does not come of them: the hidden states stay as they were, whatever lies between, such
    as dropout, a scale or a norm without bias.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._own = {_key(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._open: list[tuple[str, set[int]]] = []
        self._reasons: dict[str, str] = {}
        self._added: set[str] = set()
        self._kept: list[Tensor] = []  # so that no memory is given out twice while it is followed

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as of the log

    def follow(self, name: str, zeros: Tensor) -> None:
        """Follow what a part returned."""
        self._kept.append(zeros)
        self._open.append((name, {_key(zeros)}))

    def reasons(self, names: Collection[str]) -> dict[str, str]:
        """Say of parts why they are no residual branches; without those that are."""
        lost = {name for name, _ in self._open} | (set(names) - self._added - self._reasons.keys())
        never = dict.fromkeys(lost, "is not added to hidden states")
        return never | self._reasons

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given = tensors_in((args, kwargs))
        if self._open and func in _ADD:
            self._add(given)  # before it may be done in place
        out = func(*args, **(kwargs or {}))
        if self._open:
            self._see(given, tensors_in(out))
        return out

    def _add(self, given: list[Tensor]) -> None:
        """Settle the parts of which something is added to what does not come of them."""
        still = []
        for name, held in self._open:
            ours = [tensor for tensor in given if _key(tensor) in held]
            others = {_key(tensor) for tensor in given} - held - self._own
            if ours and others:
                self._settle(name, ours)
            else:
                still.append((name, held))
        self._open = still

    def _see(self, given: list[Tensor], out: list[Tensor]) -> None:
        """Follow what comes of a part through an operator."""
        keys = {_key(tensor) for tensor in given}
        for _, held in self._open:
            if not held.isdisjoint(keys):
                self._kept += out
                held.update(map(_key, out))

    def _settle(self, name: str, ours: list[Tensor]) -> None:
        self._added.add(name)
        if any(bool(tensor.count_nonzero()) for tensor in ours):
            self._reasons[name] = "is normalised with a bias before it is added to hidden states"


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
