"""One file: looked at before it is opened, never unpickled blindly."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.base import files
from layerscope.core.checkpoints._digests import file_digest
from layerscope.core.checkpoints._memory import Signature, require_spread, unwrap
from layerscope.core.checkpoints._zipped import MORE_THAN_WEIGHTS, mappable, require_undamaged
from layerscope.errors import CheckpointError

__all__ = ["TorchFile", "WholeFile"]


class WholeFile:
    """A file that must not change while it is in use: it may be mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        _sniff(path)
        self._stamp = self._stat()

    def digest(self) -> str:
        """SHA-256 of the file."""
        self._unchanged()
        return file_digest(self.path)

    def _stat(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise CheckpointError(f"can't read {self.path}: {error.strerror}.") from None
        return found.st_size, found.st_mtime_ns

    def _unchanged(self) -> None:
        # Reading a mapped file that was cut short would kill the process.
        now = self._stat()
        if now != self._stamp:
            raise CheckpointError(
                f"{self.path} changed while it was in use ({self._stamp[0]:,} → {now[0]:,} bytes); "
                "open the series again once nothing writes to it."
            )


class TorchFile(WholeFile):
    """A ``.pt`` or ``.pth`` file, read with ``weights_only=True``."""

    def signature(self) -> Signature:
        """Shape and type of every tensor."""
        return {name: (tuple(t.shape), t.dtype) for name, t in self._state().items()}

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        state = self._state()
        if not self._compared and self._mappable:
            require_undamaged(self.path)
        self._compared = True
        return {name: state[name].detach().clone() for name in names}

    _compared = False  # what is mapped, with its checksums: once, before the first value is read

    @cached_property
    def _mappable(self) -> bool:
        return mappable(self.path)

    def beside(self, name: str) -> int | None:
        """A whole number that stands beside the weights, such as Lightning's global_step."""
        content = self._content()
        found = content.get(name) if isinstance(content, Mapping) else None
        return found if isinstance(found, int) and not isinstance(found, bool) else None

    def _state(self) -> dict[str, Tensor]:
        state = unwrap(self._content(), self.where)
        require_spread(state, self.where)
        return state

    def _content(self) -> Any:
        self._unchanged()
        mapped = self._mappable
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
        except pickle.UnpicklingError:
            # torch's own message advises weights_only=False, which would run the file's code.
            raise CheckpointError(MORE_THAN_WEIGHTS.format(self.path)) from None
        except _DAMAGE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{self.path} ({self._stamp[0]:,} bytes) is damaged or not a checkpoint: {reason}"
            ) from None


# What the unpickler runs into in a damaged file: it trusts what it reads.
_DAMAGE = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    struct.error,
)

_IMPOSTORS = {
    b"version https://git-lfs": (
        "a git-lfs pointer, not the file it points to; run 'git lfs pull' where it came from"
    ),
    b"<!doctype html": "an HTML page, not a checkpoint; download the file itself",
    b"<html": "an HTML page, not a checkpoint; download the file itself",
}


def _sniff(path: Path) -> None:
    with files.open_file(path, error=CheckpointError, what="a checkpoint") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes).")
    for mark, meaning in _IMPOSTORS.items():
        if start.lstrip().lower().startswith(mark):
            raise CheckpointError(f"{path} is {meaning}.")
