"""A ``.safetensors`` file, of which a tensor is read without the rest."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.base.tensors import fill
from layerscope.core.checkpoints._memory import Signature
from layerscope.core.checkpoints._single import WholeFile
from layerscope.errors import CheckpointError

__all__ = ["SafeTensors"]

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


@dataclass(frozen=True)
class _Entry:
    """One tensor's form, and the bytes of the file that it takes."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    stop: int


class SafeTensors(WholeFile):
    """A ``.safetensors`` file; single tensors are read without the rest.

    They are read where they are to stay and not mapped: in a mapping nothing is aligned, on which
    the last bits of a matrix product depend, and what was looked at of it counts as memory of the
    process, beside the copy.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._entries = _read_header(path, self._stamp[0])

    def signature(self) -> Signature:
        """Shape and type of every tensor, from the header."""
        self._unchanged()
        return {name: (entry.shape, entry.dtype) for name, entry in self._entries.items()}

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        self._unchanged()
        with open(self.path, "rb", buffering=0) as file:
            return {name: self._tensor(file, self._entries[name]) for name in names}

    def _tensor(self, file: FileIO, entry: _Entry) -> Tensor:
        found = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        file.seek(entry.start)
        if not fill(found, file):
            raise CheckpointError(f"{self.path} was cut short while it was read.")
        return found


def _read_header(path: Path, size: int) -> dict[str, _Entry]:
    """Read where every tensor lies.

    Raises
    ------
    CheckpointError
        If the file is shorter or longer than its header says, or the header makes no sense.
    """
    with open(path, "rb") as file:
        lead = file.read(8)
        length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else size
        try:
            header = json.loads(file.read(min(length, size)))
            held = {str(name): told for name, told in header.items() if name != "__metadata__"}
            expected = 8 + length + max(told["data_offsets"][1] for told in held.values())
        except (ValueError, TypeError, LookupError, AttributeError):
            raise CheckpointError(
                f"{path} ({size:,} bytes) is truncated or not a safetensors file."
            ) from None
    if size != expected:
        raise CheckpointError(f"{path} is {size:,} bytes long, expected {expected:,}: truncated?")
    entries = {name: _entry(path, name, told, 8 + length) for name, told in held.items()}
    # So that no two share a byte, and none is of nobody.
    if sum(entry.stop - entry.start for entry in entries.values()) != size - 8 - length:
        raise CheckpointError(f"{path} can't be read as safetensors: its tensors overlap.")
    return entries


def _entry(path: Path, name: str, told: Any, begin: int) -> _Entry:
    if str(told.get("dtype")) not in _DTYPES:
        raise CheckpointError(
            f"{path} holds tensors of type {told.get('dtype')}; layerscope reads "
            f"{', '.join(_DTYPES)}."
        )
    dtype = _DTYPES[str(told["dtype"])]
    try:
        shape = tuple(int(n.__index__()) for n in told["shape"])
        start, stop = (int(n.__index__()) for n in told["data_offsets"])
        fits = min(shape, default=0) >= 0 <= start
        fits = fits and stop - start == math.prod(shape) * dtype.itemsize
    except (LookupError, TypeError, AttributeError, ValueError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{path} can't be read as safetensors: its header says of {name} what can't be."
        )
    return _Entry(shape, dtype, begin + start, begin + stop)
