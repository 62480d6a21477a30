"""A ``.safetensors`` file, of which a tensor is read without the rest."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Annotated, cast

import torch
from msgspec import Meta
from torch import Tensor

from layerscope.base import files
from layerscope.base.tensors import fill
from layerscope.core.checkpoints._memory import Signature
from layerscope.core.checkpoints._single import WholeFile
from layerscope.errors import CheckpointError

__all__ = ["SafeTensors"]

_WHAT = "a safetensors file"
_LONGEST = 64 * 2**20  # bytes of a header; one of 100,000 tensors has 10 MB
_VALUES = 2_000_000
_DIMENSIONS = 64

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
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

    Attributes
    ----------
    metadata : dict of str to str
        What its writer says beside the tensors.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._entries, self.metadata = _read_header(path, self._stamp[0])

    def signature(self) -> Signature:
        """Shape and type of every tensor, from the header."""
        self._unchanged()
        return {name: (entry.shape, entry.dtype) for name, entry in self._entries.items()}

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        self._unchanged()
        with files.open_file(self.path, error=CheckpointError, what=_WHAT) as file:
            raw = cast(FileIO, file.raw)
            return {name: self._tensor(raw, self._entries[name]) for name in names}

    def _tensor(self, file: FileIO, entry: _Entry) -> Tensor:
        try:
            found = torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
        except RuntimeError:
            raise CheckpointError(
                f"{self.path} holds a tensor of {entry.stop - entry.start:,} bytes, for which "
                "there is no memory."
            ) from None
        file.seek(entry.start)
        if not fill(found, file):
            raise CheckpointError(f"{self.path} was cut short while it was read.")
        return found


class _Told(files.Schema, kw_only=True):
    """A tensor, as the header says it."""

    dtype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, lt=2**48)]], Meta(max_length=_DIMENSIONS)]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


def _read_header(path: Path, size: int) -> tuple[dict[str, _Entry], dict[str, str]]:
    """Read where every tensor lies, and what is said beside them.

    Raises
    ------
    CheckpointError
        If the file is shorter or longer than its header says, or the header makes no sense.
    """
    with files.open_file(path, error=CheckpointError, what=_WHAT) as file:
        lead = file.read(8)
        length = struct.unpack("<Q", lead)[0] if len(lead) == 8 else size
        if 8 + length > size:
            raise CheckpointError(
                f"{path} ({size:,} bytes) is truncated or not {_WHAT}: its header is said to have "
                f"{length:,} bytes."
            )
        if length > _LONGEST:
            raise CheckpointError(
                f"{path} is not {_WHAT}: its header is said to have {length:,} bytes, expected at "
                f"most {_LONGEST:,}. Copy or save it again."
            )
        content = file.read(length)
    about = files.parse_json(content, where=path, error=CheckpointError, what=_WHAT, values=_VALUES)
    beside = about.pop("__metadata__", None) if isinstance(about, dict) else None
    metadata = files.fit_schema(
        beside or {}, dict[str, str], where=path, error=CheckpointError, what=_WHAT
    )
    held = files.fit_schema(about, dict[str, _Told], where=path, error=CheckpointError, what=_WHAT)
    expected = 8 + length + max((told.data_offsets[1] for told in held.values()), default=0)
    if size != expected or not held:
        raise CheckpointError(f"{path} is {size:,} bytes long, expected {expected:,}: truncated?")
    entries = {name: _entry(path, name, told, 8 + length) for name, told in held.items()}
    at = 8 + length
    # So that no two share a byte, and none is of nobody.
    for entry in sorted(entries.values(), key=lambda each: (each.start, each.stop)):
        if entry.start != at:
            raise CheckpointError(f"{path} can't be read as safetensors: its tensors overlap.")
        at = entry.stop
    return entries, metadata


def _entry(path: Path, name: str, told: _Told, begin: int) -> _Entry:
    if told.dtype not in _DTYPES:
        raise CheckpointError(
            f"{path} holds tensors of type {told.dtype[:20]}; layerscope reads "
            f"{', '.join(_DTYPES)}. Save them as one of these."
        )
    dtype = _DTYPES[told.dtype]
    start, stop = told.data_offsets
    within = math.prod(max(n, 1) for n in told.shape) < 2**48
    if not within or stop - start != math.prod(told.shape) * dtype.itemsize:
        raise CheckpointError(
            f"{path} can't be read as safetensors: its header says of {name} what can't be."
        )
    return _Entry(tuple(told.shape), dtype, begin + start, begin + stop)
