"""The protocol of a checkpoint, wherever it is; and one that is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from layerscope.base.tensors import update_digest
from layerscope.errors import CheckpointError

__all__ = ["Checkpoint", "InMemory", "Signature", "unwrap"]

Signature = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of every tensor by name."""


class Checkpoint(Protocol):
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


class InMemory:
    """A state dict held in memory, bare or as a training loop wraps it up."""

    def __init__(self, state: Mapping[str, Any], where: str) -> None:
        self.where = where
        self._state = unwrap(state, where)
        if any(tensor.is_meta for tensor in self._state.values()):
            raise CheckpointError(
                f"{where} has tensors on the device meta, which hold no values; give a state dict "
                "of a network that was loaded."
            )

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
        """Addresses of the tensors; empty where they hold nothing."""
        return frozenset(t.data_ptr() for t in self._state.values() if t.numel())

    def digest(self) -> str:
        """SHA-256 over names and tensors."""
        seen = hashlib.sha256()
        update_digest(seen, self._state)
        return seen.hexdigest()


def unwrap(content: Any, where: str) -> dict[str, Tensor]:
    """Find the state dict in what a file holds, or held.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    outer = content if isinstance(content, Mapping) else {}
    # Wrappers come first: beside one there may be tensors that are no weights, such as a
    # generator's state; in a state dict itself these names never stand for a mapping.
    for inner in (*map(outer.get, ("state_dict", "model_state_dict", "model")), outer):
        if isinstance(inner, Mapping):
            state = {str(name): t for name, t in inner.items() if torch.is_tensor(t)}
            if state:
                return state
    nothing = "nothing" if content is outer else f"a {type(content).__name__}"
    held = ", ".join(sorted(map(str, outer))) or nothing
    raise CheckpointError(
        f"{where} holds {held}, and no state dict; save or give model.state_dict(), alone or under "
        "'state_dict'."
    )
