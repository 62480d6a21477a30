"""The protocol of a checkpoint, wherever it is; and one that is in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from layerscope.base.tensors import update_digest
from layerscope.errors import CheckpointError

__all__ = ["Checkpoint", "InMemory", "Signature", "require_spread", "unwrap"]

_LARGE = 64 * 2**20
"""Bytes from which on a tensor must have memory of its own."""

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
        If there is none, or a tensor has no values that can be set one by one.
    """
    outer = content if isinstance(content, Mapping) else {}
    # Wrappers come first: beside one there may be tensors that are no weights, such as a
    # generator's state; in a state dict itself these names never stand for a mapping.
    for inner in (*map(outer.get, ("state_dict", "model_state_dict", "model")), outer):
        if isinstance(inner, Mapping):
            state = {str(name): t for name, t in inner.items() if torch.is_tensor(t)}
            if state:
                _require_dense(state, where)
                return state
    nothing = "nothing" if content is outer else f"a {type(content).__name__}"
    held = ", ".join(sorted(map(str, outer))) or nothing
    raise CheckpointError(
        f"{where} holds {held}, and no state dict; save or give model.state_dict(), alone or under "
        "'state_dict'."
    )


def require_spread(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that claim to be larger than the memory that they lie in, which copies are.

    Raises
    ------
    CheckpointError
        Names the first.
    """
    for name, tensor in state.items():
        size, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if size > max(held, _LARGE):
            raise CheckpointError(
                f"{where}: {name} of shape {tuple(tensor.shape)} takes {size:,} bytes, spread over "
                f"{held:,} that are there; save it with tensor.contiguous()."
            )


def _require_dense(state: Mapping[str, Tensor], where: str) -> None:
    """Refuse what is no row of numbers in memory."""
    for name, tensor in state.items():
        if tensor.is_meta:
            raise CheckpointError(
                f"{where} has tensors on the device meta, such as {name}, which hold no values; "
                "give a state dict of a network that was loaded."
            )
        if tensor.is_quantized:
            raise CheckpointError(
                f"{where}: {name} is quantised ({tensor.dtype}); give the network as it was before "
                "that, or tensor.dequantize()."
            )
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
            raise CheckpointError(
                f"{where}: {name} is a tensor of the layout {kind}, whose elements can't be set "
                "one by one; give it as tensor.to_dense()."
            )
