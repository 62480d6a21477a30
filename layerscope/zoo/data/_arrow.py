"""Texts as the package datasets saves them (``save_to_disk``), read by pyarrow.

Not by datasets itself, which takes names of files from what it reads wherever they lead, and does
not look whether the strings in them lie where their offsets say: a file made for it reads other
memory than its own.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from layerscope.base import files
from layerscope.base.extras import extra
from layerscope.errors import DataError

__all__ = ["INDEX", "SavedTexts"]

INDEX = "dataset_dict.json"
_STATE = "state.json"
_COLUMN = "text"


class _Index(files.Schema):
    splits: list[str]


class _File(files.Schema):
    filename: str


class _State(files.Schema):
    data_files: list[_File] = msgspec.field(name="_data_files")


class SavedTexts:
    """One part of a saved data set, its column ``text``.

    Parameters
    ----------
    folder : Path
        Of the whole.
    part : str
        Such as ``"train"``.

    Raises
    ------
    DataError
        If there is no such part, or it is damaged or no text.
    """

    def __init__(self, folder: Path, part: str) -> None:
        with extra("data", f"reading {folder} (the official plain files need nothing)"):
            import pyarrow  # noqa: F401 - missed before anything is opened
        index = folder / INDEX
        what = "a data set saved by the package datasets"
        parts = files.read_manifest(index, _Index, error=DataError, what=what).splits
        if part not in parts:
            raise DataError(f"{index} names no part {part!r}; it has {', '.join(parts) or 'none'}.")
        state = files.file_beside(index, part, error=DataError) / _STATE
        about = files.read_manifest(state, _State, error=DataError, what="a part of " + what)
        self.files = [
            files.file_beside(state, each.filename, error=DataError) for each in about.data_files
        ]
        self.counts = [sum(len(column) for column in _columns(file)) for file in self.files]

    def __len__(self) -> int:
        return sum(self.counts)

    @property
    def bytes(self) -> int:
        """Bytes of the files."""
        return sum(file.stat().st_size for file in self.files)

    def lines(self, start: int = 0, end: int | None = None) -> list[str]:
        """Lines from one number to before another, without those that are blank."""
        found = itertools.islice(self._every(start), None if end is None else max(end - start, 0))
        return [line for line in found if line and line.strip()]

    def _every(self, start: int) -> Iterator[str | None]:
        for file, count in zip(self.files, self.counts, strict=True):
            if start >= count:
                start -= count
                continue
            for column in _columns(file):
                if start < len(column):
                    yield from column.slice(start).to_pylist()
                start = max(start - len(column), 0)


def _columns(path: Path) -> Iterator[Any]:
    """Yield the column of texts, batch by batch, each checked before it is looked into."""
    import pyarrow as pa

    files.open_file(path, error=DataError, what="an Arrow file").close()
    try:
        with pa.memory_map(str(path)) as source:
            _refuse_packed(source)
            source.seek(0)
            with pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    yield _column(batch)
    # Of a damaged file whatever comes of it, by pyarrow's version.
    except Exception as error:  # noqa: BLE001
        raise DataError(
            f"{path} is damaged, or no texts as the package datasets saves them: {error}. Save or "
            "copy it again."
        ) from None


def _column(batch: Any) -> Any:
    from pyarrow import types

    kinds = {field.name: field.type for field in batch.schema}
    kind = kinds.get(_COLUMN)
    if kind is None or not (types.is_string(kind) or types.is_large_string(kind)):
        listed = ", ".join(f"{name}: {each}" for name, each in kinds.items())
        raise ValueError(f"it has the columns {listed}, and not {_COLUMN}: string")
    column = batch.column(_COLUMN)
    column.validate(full=True)
    return column


def _refuse_packed(source: Any) -> None:
    """Refuse batches whose content is packed, which datasets never writes: it unfolds at once."""
    import pyarrow as pa

    for message in pa.ipc.MessageReader.open_stream(source):
        if message.type == "record batch" and _is_packed(message.metadata.to_pybytes()):
            raise ValueError("it is packed")


def _is_packed(message: bytes) -> bool:
    """Tell whether the header of a batch says how its content is packed (Arrow's Message.fbs)."""
    root = struct.unpack_from("<I", message)[0]
    header = _slot(message, root, 2)
    if header == 0:
        raise ValueError("a batch has no header")
    table = header + struct.unpack_from("<I", message, header)[0]
    return _slot(message, table, 3) != 0


def _slot(content: bytes, table: int, number: int) -> int:
    """Place of a field of a table of FlatBuffers; 0 where it is not there."""
    fields = table - struct.unpack_from("<i", content, table)[0]
    length = struct.unpack_from("<H", content, fields)[0]
    at = 4 + 2 * number
    offset = struct.unpack_from("<H", content, fields + at)[0] if at < length else 0
    return table + offset if offset else 0
