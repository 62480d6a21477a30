"""The inside of a ``.pt`` file, looked at before PyTorch is given it.

Since 2020 it is a zip whose records are the memory of tensors. PyTorch maps a record where its zip
says that it begins, and reads as many bytes as tensors need. Whether these bytes are the record as
it is, and whether there are as many, it does not ask. Before, it was five pickles, and the memory
behind them.
"""

from __future__ import annotations

import copy
import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

from layerscope.base import files
from layerscope.core.checkpoints._pickles import MAGIC, PickleReader, TooMuchError
from layerscope.errors import CheckpointError

__all__ = ["MORE_THAN_WEIGHTS", "mappable", "require_undamaged"]

MORE_THAN_WEIGHTS = (
    "{} holds more than weights, or is damaged, and is not unpickled. Where you trust its origin, "
    "load it yourself and save model.state_dict() again."
)

_WHAT = "a checkpoint of PyTorch's"
_ENCRYPTED = 1  # a bit of a record's flags
_BESIDE = 64 * 2**20  # bytes of all records that are not memory of tensors
_PIECE = 2**22
_OLD_PICKLES = 5
_TAR, _TAR_AT = b"ustar", 257
_AGAIN = "Save or copy it again."

_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError),
    *(RuntimeError, TypeError, ValueError, struct.error, zipfile.BadZipFile, zlib.error),
    TooMuchError,
)


def mappable(path: Path) -> bool:
    """Tell whether tensors of a file can be read where they lie: all stored, none packed.

    False for files of PyTorch's old form, which are read as a whole.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint, asks for more memory or work than weights do, or a record is
        shorter than the tensors that lie in it.
    """
    with files.open_file(path, error=CheckpointError, what=_WHAT) as file:
        start = file.read(_TAR_AT + len(_TAR))
        try:
            if start.startswith(b"PK\x03\x04"):
                return _is_zip_mappable(path)
            if start.endswith(_TAR) and len(start) == _TAR_AT + len(_TAR):
                raise CheckpointError(
                    f"{path} is a tar archive, as PyTorch wrote checkpoints before 2017, and is "
                    "not unpacked. Where you trust its origin, load it yourself and save "
                    "model.state_dict() again."
                )
            file.seek(0)
            _follow_old(file)
        except pickle.UnpicklingError:
            raise CheckpointError(MORE_THAN_WEIGHTS.format(path)) from None
        # Whatever a damaged file leads to.
        except _DAMAGE as why:
            reason = str(why) or type(why).__name__
            raise CheckpointError(
                f"{path} is damaged or not a checkpoint: {reason}. {_AGAIN}"
            ) from None
    return False


def require_undamaged(path: Path) -> None:
    """Compare the memory of tensors in a mapped file with the CRC-32 that stands beside each.

    PyTorch compares them where it reads a file, and not where it maps one. Files saved without
    (``torch.utils.serialization.config.save.compute_crc32 = False``) have 0 in their place.

    Raises
    ------
    CheckpointError
        Names the first record that is other than it was written.
    """
    with (
        files.open_file(path, error=CheckpointError, what=_WHAT) as file,
        zipfile.ZipFile(file) as opened,
    ):
        for record in opened.infolist():
            if not record.CRC or record.is_dir():
                continue
            try:
                with opened.open(record) as content:
                    while content.read(_PIECE):
                        pass
            except _DAMAGE:
                raise CheckpointError(
                    f"{path} is damaged: its record {record.filename} is other than it was "
                    f"written (CRC-32). {_AGAIN}"
                ) from None


def _is_zip_mappable(path: Path) -> bool:
    records = _records(path)
    for record, need in records:
        if need is not None and record.file_size < need:
            raise CheckpointError(
                f"{path} is damaged: its record {record.filename} holds {record.file_size:,} bytes "
                f"of {need:,}. {_AGAIN}"
            )
    return all(
        need is not None
        and record.compress_type == zipfile.ZIP_STORED
        and not record.flag_bits & _ENCRYPTED
        for record, need in records
    )


def _records(path: Path) -> list[tuple[zipfile.ZipInfo, int | None]]:
    """Every record that holds memory of tensors, and how many bytes they need of it."""
    entries = files.zip_entries(path, error=CheckpointError, what=_WHAT)
    held = {info.filename: info for info in entries}
    if len({name.lower() for name in held}) != len(entries):
        # Of two PyTorch takes one, and we might look at the other.
        raise ValueError("two of its records have the same name")
    described = [name for name in held if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(described) != 1:
        raise ValueError(f"it has {len(described)} records data.pkl")
    index = described[0]
    folder = index.removesuffix("data.pkl")
    if f"{folder}constants.pkl" in held:
        raise CheckpointError(
            f"{path} is an archive of TorchScript, which holds code. Where you trust its origin, "
            "load it with torch.jit.load and save model.state_dict()."
        )
    if held[index].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("its records are packed in a way that PyTorch does not unpack")
    beside = [info for name, info in held.items() if not name.startswith(f"{folder}data/")]
    if sum(info.file_size for info in beside) > _BESIDE:
        raise TooMuchError("its description of the weights is too long")
    with (
        files.open_file(path, error=CheckpointError, what=_WHAT) as file,
        zipfile.ZipFile(file) as opened,
    ):
        reader = PickleReader(io.BytesIO(_content(opened, held[index])))
        reader.load()
        wanted = {f"{folder}data/{key}": need for key, need in reader.storages.items()}
        if gone := wanted.keys() - held.keys():
            raise ValueError(f"its record {min(gone)} is missing")
        for record in (held[name] for name in wanted):
            if record.compress_type == zipfile.ZIP_STORED and not record.flag_bits & _ENCRYPTED:
                # Where a record is mapped from hangs on what stands before it.
                opened.open(record).close()
    return [(held[name], need) for name, need in wanted.items()]


def _content(opened: zipfile.ZipFile, record: zipfile.ZipInfo) -> bytes:
    if not record.CRC:  # 0 where PyTorch was to compute none; zipfile would compare it
        record = copy.copy(record)
        del record.CRC
    return opened.read(record)


def _follow_old(file: io.BufferedReader) -> None:
    """Follow the pickles of the old form, and see that there is as much memory behind them."""
    if file.peek(1)[:1] != b"\x80":
        raise ValueError("it does not begin as one")
    for at in range(_OLD_PICKLES):
        reader = PickleReader(file)
        found = reader.load()
        if at == 0 and found != MAGIC:
            raise pickle.UnpicklingError
        need, size = sum(filter(None, reader.storages.values())), os.fstat(file.fileno()).st_size
        if need > size:
            raise ValueError(f"it has {size:,} bytes, and its weights would take {need:,}")
