"""Weights in several files, and an index that says which tensor is in which."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from layerscope.base import files
from layerscope.core.checkpoints._memory import Checkpoint, Signature
from layerscope.errors import CheckpointError

__all__ = ["INDEX", "ShardedFiles"]

INDEX = ".index.json"
"""How the name of an index ends."""

_WHAT = "an index of weights, whose 'weight_map' goes from each tensor to a file beside it"


class ShardedFiles:
    """Weights in several files beside an index, as Hugging Face writes large networks.

    Parameters
    ----------
    path : Path
        Of the index, such as ``model.safetensors.index.json``.
    opened : callable
        Opens one of the files.

    Raises
    ------
    CheckpointError
        If it is no index, a file is missing or damaged, or holds not what the index says.
    """

    def __init__(self, path: Path, opened: Callable[[Path], Checkpoint]) -> None:
        self.where = str(path)
        self._where_is = _read_index(path)
        shards = sorted(set(self._where_is.values()))
        gone = [name for name in shards if not files.is_file(path.parent / name)]
        if gone:
            raise CheckpointError(
                f"{path} names {len(shards)} files, of which {len(gone)} are missing, the first "
                f"{gone[0]}; put it beside the index."
            )
        self._shards = {name: opened(path.parent / name) for name in shards}
        self._index = path

    def signature(self) -> Signature:
        """Shape and type of every tensor."""
        held = {name: shard.signature() for name, shard in self._shards.items()}
        for name, shard in self._where_is.items():
            if name not in held[shard]:
                raise CheckpointError(f"{self.where} says that {name} is in {shard}; it is not.")
        return {name: held[shard][name] for name, shard in self._where_is.items()}

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        found: dict[str, Tensor] = {}
        for shard, source in self._shards.items():
            inside = [name for name in names if self._where_is[name] == shard]
            found |= source.read(inside) if inside else {}
        return {name: found[name] for name in names}

    def digest(self) -> str:
        """SHA-256 over the index and the digests of the files."""
        seen = hashlib.sha256(files.read_bytes(self._index, error=CheckpointError))
        for name, shard in self._shards.items():
            seen.update(f"{name} {shard.digest()}\n".encode())
        return seen.hexdigest()


class _Index(files.Schema, kw_only=True):
    """An index: the file of each tensor."""

    weight_map: dict[str, str]


def _read_index(path: Path) -> dict[str, str]:
    found = files.read_manifest(path, _Index, error=CheckpointError, what=_WHAT).weight_map
    if not found:
        raise CheckpointError(f"{path} is not {_WHAT}: its weight_map is empty.")
    # An index is the word of others: it may not point out of its own folder.
    for file in set(found.values()):
        files.file_beside(path, file, error=CheckpointError)
        if file.endswith(INDEX):
            raise CheckpointError(f"{path} is not {_WHAT}: {file}, which it names, is one itself.")
    return found
