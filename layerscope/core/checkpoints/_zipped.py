"""The inside of a ``.pt`` file: a zip whose records are the memory of tensors.

PyTorch maps a record where its zip says that it begins, and reads as many bytes as tensors need.
Whether these bytes are the record as it is, and whether there are as many, it does not ask.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from layerscope.errors import CheckpointError

__all__ = ["mappable"]

_ENCRYPTED = 1  # a bit of a record's flags

# Bytes of one element; a file with other kinds is not mapped.
_SIZES = {
    "UntypedStorage": 1,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "IntStorage": 4,
    "FloatStorage": 4,
    "LongStorage": 8,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
}


def mappable(path: Path) -> bool:
    """Tell whether tensors of a file can be read where they lie: all stored, none packed.

    False for what is no such zip, as files of PyTorch's old form: these are read as a whole.

    Raises
    ------
    CheckpointError
        If a record is shorter than the tensors that lie in it.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    try:
        records = _records(path)
    except Exception:  # noqa: BLE001 - whatever a damaged zip or pickle leads to
        return False
    for record, need in records:
        if record.file_size < need:
            raise CheckpointError(
                f"{path} is damaged: its record {record.filename} holds {record.file_size:,} bytes "
                f"of {need:,}. Save or copy it again."
            )
    return all(
        record.compress_type == zipfile.ZIP_STORED and not record.flag_bits & _ENCRYPTED
        for record, _ in records
    )


def _records(path: Path) -> list[tuple[zipfile.ZipInfo, int]]:
    """Every record that holds memory of tensors, and how many bytes they need of it."""
    with zipfile.ZipFile(path) as opened:
        held = {info.filename: info for info in opened.infolist()}
        (index,) = (name for name in held if name.count("/") == 1 and name.endswith("/data.pkl"))
        reader = _Reader(io.BytesIO(opened.read(index)))
        reader.load()
        folder = index.removesuffix("data.pkl")
        return [(held[f"{folder}data/{key}"], need) for key, need in reader.found.items()]


class _Inert:
    """Stands for whatever a pickle makes, and does nothing."""

    def __init__(self, *_args: Any, **_options: Any) -> None:
        pass

    def __call__(self, *_args: Any, **_options: Any) -> _Inert:
        return self

    __setitem__ = __setstate__ = append = extend = add = __call__


class _Reader(pickle.Unpickler):
    """Follows a pickle without importing or calling what it names."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.found: dict[str, int] = {}

    def find_class(self, _module: str, name: str) -> Any:
        return _SIZES[name] if name.endswith("Storage") else _Inert

    def persistent_load(self, pid: Any) -> _Inert:
        _, size, key, _, count = pid
        self.found[str(key)] = int(count) * size
        return _Inert()
