"""Checkpoints of any origin, each read one tensor at a time where its form allows.

A state dict in memory, ``.safetensors``, ``.pt``, ``.pth`` and ``.ckpt`` files, GGUF files, weights
in several files with an index, folders as Hugging Face writes them, LoRA adapters on their base,
and revisions on the hub.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from layerscope.base.files import file_beside, is_file, is_folder
from layerscope.core.checkpoints import _hub as hub
from layerscope.core.checkpoints._adapter import (
    CONFIG,
    MERGE,
    WEIGHTS,
    AdaptedCheckpoint,
    base_of,
    is_adapter_alone,
)
from layerscope.core.checkpoints._gguf import GGUF, GGUFFile
from layerscope.core.checkpoints._memory import Checkpoint, InMemory, Signature
from layerscope.core.checkpoints._safe import SafeTensors
from layerscope.core.checkpoints._sharded import INDEX, ShardedFiles
from layerscope.core.checkpoints._single import TorchFile
from layerscope.errors import CheckpointError

__all__ = [
    "MERGE",
    "WEIGHTS",
    "AdaptedCheckpoint",
    "Checkpoint",
    "GGUFFile",
    "InMemory",
    "SafeTensors",
    "ShardedFiles",
    "Signature",
    "TorchFile",
    "is_adapter_alone",
    "open_checkpoint",
]


def open_checkpoint(item: Any, where: str, base: Checkpoint | None = None) -> Checkpoint:
    """Turn a state dict, a path, a revision or a source into a source.

    Parameters
    ----------
    item : state dict, nn.Module, path, str or Source
        A folder holds one of `WEIGHTS`, or a LoRA adapter; ``"org/name@revision"`` is fetched from
        the Hugging Face hub, unless a file of that name is there.
    where : str
        What errors call it, where it has no name of its own.
    base : Source, optional
        What an adapter belongs to, where what it names itself is not at hand.

    Raises
    ------
    CheckpointError
        If it is none of these, or the file is not what its name says.
    """
    known = (InMemory, SafeTensors, TorchFile, ShardedFiles, GGUFFile, AdaptedCheckpoint)
    if isinstance(item, known):
        return item
    if isinstance(item, torch.nn.Module):
        return InMemory(item.state_dict(), where)
    if isinstance(item, Mapping):
        return InMemory(item, where)
    if isinstance(item, (str, os.PathLike)):
        path = Path(item)
        revision = hub.REVISION.fullmatch(item) if isinstance(item, str) else None
        if revision and not (is_file(path) or is_folder(path)):
            path = hub.fetch(revision["repo"], revision["revision"])
        return _adapted(path, base) if is_adapter_alone(path) else _opened(path)
    raise CheckpointError(
        f"{where} is a {type(item).__name__}; give a state dict, the path of a .safetensors, .pt, "
        ".pth, .ckpt or .gguf file or of a folder with weights, or 'org/name@revision'."
    )


def _adapted(folder: Path, base: Checkpoint | None) -> Checkpoint:
    name, revision = base_of(folder) if base is None else ("", "")
    if base is None:
        there = is_file(name) or is_folder(name)
        where = name if there or "@" in name else f"{name}@{revision}"
        base = open_checkpoint(where, f"the base of {folder}")
    return AdaptedCheckpoint(folder, base, _opened)


def _opened(path: Path) -> Checkpoint:
    if is_folder(path):
        held = [name for name in WEIGHTS if is_file(path / name)]
        held = held or sorted(each.name for each in path.glob(f"*{GGUF}"))[:1]
        if not held and any(path.glob("adapter_model.*")):
            raise CheckpointError(
                f"the folder {path} holds an adapter without {CONFIG}, which says how it is "
                f"merged into its network; {MERGE}."
            )
        if not held:
            raise CheckpointError(
                f"the folder {path} holds no weights; there must be one of {', '.join(WEIGHTS)}."
            )
        path = file_beside(path / CONFIG, held[0], error=CheckpointError)
    if path.name.endswith(INDEX):
        return ShardedFiles(path, _opened)
    kinds: dict[str, Any] = {".safetensors": SafeTensors, GGUF: GGUFFile}
    opened: Checkpoint = kinds.get(path.suffix, TorchFile)(path)
    return opened
