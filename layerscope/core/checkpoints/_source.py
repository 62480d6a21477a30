"""Checkpoints of any origin, each read one tensor at a time where its form allows.

A state dict in memory, ``.safetensors``, ``.pt``, ``.pth`` and ``.ckpt`` files, weights in several
files with an index, folders as Hugging Face writes them, and revisions on its hub.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layerscope.core.checkpoints import _hub as hub
from layerscope.core.checkpoints._memory import Checkpoint, InMemory, Signature
from layerscope.core.checkpoints._sharded import INDEX, ShardedFiles
from layerscope.core.checkpoints._single import SafeTensors, TorchFile
from layerscope.errors import CheckpointError

__all__ = [
    "MERGE",
    "WEIGHTS",
    "Checkpoint",
    "InMemory",
    "SafeTensors",
    "ShardedFiles",
    "Signature",
    "TorchFile",
    "open_checkpoint",
]

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What holds the weights in a folder, in order of preference."""

MERGE = (
    "merge them, with PEFT's model.merge_and_unload(), and save that; or give the network with its "
    "adapter, and checkpoints that hold both"
)
"""What to do with an adapter."""


def open_checkpoint(item: Any, where: str) -> Checkpoint:
    """Turn a state dict, a path, a revision or a source into a source.

    Parameters
    ----------
    item : state dict, nn.Module, path, str or Source
        A folder holds one of `WEIGHTS`; ``"org/name@revision"`` is fetched from the Hugging Face
        hub, unless a file of that name is there.
    where : str
        What errors call it, where it has no name of its own.

    Raises
    ------
    CheckpointError
        If it is none of these, or the file is not what its name says.
    """
    if isinstance(item, (InMemory, SafeTensors, TorchFile, ShardedFiles)):
        return item
    if isinstance(item, torch.nn.Module):
        return InMemory(item.state_dict(), where)
    if isinstance(item, Mapping):
        return InMemory(item, where)
    if isinstance(item, (str, os.PathLike)):
        path = Path(item)
        revision = hub.REVISION.fullmatch(item) if isinstance(item, str) else None
        if revision and not path.exists():
            path = hub.fetch(revision["repo"], revision["revision"])
        return _opened(path)
    raise CheckpointError(
        f"{where} is a {type(item).__name__}; give a state dict, the path of a .safetensors, .pt, "
        ".pth or .ckpt file or of a folder with weights, or 'org/name@revision'."
    )


def _opened(path: Path) -> Checkpoint:
    if path.is_dir():
        held = [name for name in WEIGHTS if (path / name).is_file()]
        if not held and any(path.glob("adapter_model.*")):
            raise CheckpointError(
                f"the folder {path} holds an adapter alone, not the network that it changes; "
                f"{MERGE}."
            )
        if not held:
            raise CheckpointError(
                f"the folder {path} holds no weights; there must be one of {', '.join(WEIGHTS)}."
            )
        path = path / held[0]
    if path.name.endswith(INDEX):
        return ShardedFiles(path, _opened)
    return SafeTensors(path) if path.suffix == ".safetensors" else TorchFile(path)
