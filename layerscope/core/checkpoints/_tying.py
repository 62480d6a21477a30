"""Tensors that the network ties, and whether a checkpoint has one value for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from layerscope.base.tensors import byte_range, shared_groups
from layerscope.core.checkpoints import _source as files
from layerscope.errors import CheckpointError

__all__ = ["require_one_value"]


def require_one_value(
    wanted: Mapping[str, Tensor], checkpoint: files.Checkpoint, names: Mapping[str, str]
) -> None:
    """Refuse a checkpoint that holds several values for one memory of the network.

    Parameters
    ----------
    wanted : mapping
        The network's tensors by name.
    checkpoint : Source
    names : mapping
        From each name in the network to that in the checkpoint.

    Raises
    ------
    CheckpointError
        Names the first such tensors.
    """
    own = list(wanted)
    for cluster in shared_groups(list(wanted.values())):
        stored = {own[index]: names[own[index]] for index in cluster}
        if len(set(stored.values())) == 1:
            continue
        values = _values(checkpoint, sorted(set(stored.values())))
        if len({_place(tensor) for tensor in values.values()}) == 1:
            continue  # one tensor under several names there too
        if not _agree([(wanted[name], values[held]) for name, held in stored.items()]):
            raise CheckpointError(
                f"{checkpoint.where} holds different values for {' and '.join(stored.values())}, "
                "which are one tensor in the network. Was it trained with both apart? Build the "
                "network so (tie_word_embeddings=False), or leave out the one that is not used."
            )


def _values(checkpoint: files.Checkpoint, names: list[str]) -> dict[str, Tensor]:
    """Find values; of what is in memory without a copy, which may be as large as all else."""
    if isinstance(checkpoint, files.InMemory):
        return {name: checkpoint.tensor(name).detach() for name in names}
    return checkpoint.read(names)


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device


def _agree(pairs: list[tuple[Tensor, Tensor]]) -> bool:
    """Lay values out on one memory as the network's tensors lie, and see if each is still there."""
    tensors = [tensor for tensor, _ in pairs]
    if any(t.dtype != tensors[0].dtype or 0 in t.stride() for t in tensors):
        return True  # several types in one memory, or an element that stands for many
    start, stop = byte_range(tensors)
    size = tensors[0].element_size()
    memory = torch.zeros((stop - start) // size, dtype=tensors[0].dtype)
    views = [
        memory.as_strided(t.shape, t.stride(), int(t.storage_offset()) - start // size)
        for t in tensors
    ]
    for view, (_, value) in zip(views, pairs, strict=True):
        view.copy_(value)
    return all(_equal(view, value.to(view)) for view, (_, value) in zip(views, pairs, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    # NaN, which is refused elsewhere, equals itself; it is looked for only where need be.
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
