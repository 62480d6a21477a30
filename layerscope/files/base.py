"""What a checkpoint is, wherever it is; and one that is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from layerscope import data
from layerscope.errors import CheckpointError

__all__ = ["Memory", "Signature", "Source"]

Signature = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of every tensor by name."""


class Source(Protocol):
    """One checkpoint, wherever it is."""

    where: str

    def signature(self) -> Signature:
        """Shape and type of every tensor, without reading them."""
        ...

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        ...

    def digest(self) -> str:
        """SHA-256 of the content."""
        ...


class Memory:
    """A state dict held in memory."""

    def __init__(self, state: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._state = {name: t for name, t in state.items() if torch.is_tensor(t)}
        if not self._state:
            raise CheckpointError(f"{where} holds no tensors; give a network's state_dict().")

    def signature(self) -> Signature:
        """Shape and type of every tensor."""
        return {name: (tuple(t.shape), t.dtype) for name, t in self._state.items()}

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        return {name: self._state[name].detach().to("cpu", copy=True) for name in names}

    def tensor(self, name: str) -> Tensor:
        """One tensor itself, not a copy."""
        return self._state[name]

    def memory(self) -> frozenset[int]:
        """Where the tensors lie; empty where they hold nothing."""
        return frozenset(t.data_ptr() for t in self._state.values() if t.numel())

    def digest(self) -> str:
        """SHA-256 over names and tensors."""
        seen = hashlib.sha256()
        data.digest(seen, self._state)
        return seen.hexdigest()
