"""What is finished of a sweep, kept on disk, each file written whole or not at all.

A folder holds ``sweep.json`` (which sweep it is), ``parts-…`` (what each part of each batch gave,
one write-once file each), ``partial.nc`` (the Dataset as far as it is known) and, at the end,
``sweep.nc``. A part is recorded at most once, completely or not at all. Killing a process costs
the part it was at; the same call goes on with what is missing, to the same Dataset. Several
processes may run the same sweep into the same folder: each takes parts that nobody is at. Claims
only save work. Where one is wrong, a part is computed twice, to the same bits, and the first file
stays.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results
from layerscope.errors import ResultError

__all__ = ["DATASET", "OUTCOMES", "PARTIAL", "Parts", "Store"]

DATASET = "sweep.nc"
PARTIAL = "partial.nc"
OUTCOMES = results.OUTCOMES
_LONGEST_CHUNK = 2**16
_IDENTITY = "sweep.json"
_PARTS = "parts-"
_SILENT_S = 600.0
"""A claim that was not renewed for so long is nobody's."""

_BEAT_S = 10.0

Arrays = Mapping[str, npt.NDArray[Any]]


class Store:
    """The folder of one sweep.

    Parameters
    ----------
    folder : Path
    identity : mapping
        Everything that the values depend on, as plain values.

    Raises
    ------
    ResultError
        If the folder belongs to another sweep, or can't be written to.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        mine = json.loads(json.dumps(identity))
        path = folder / _IDENTITY
        if not path.is_file():
            results.write_bytes(path, json.dumps(mine, indent=1).encode(), once=True)
        theirs = _read(path)
        differing = sorted(key for key in theirs | mine if theirs.get(key) != mine.get(key))
        if differing:
            raise ResultError(
                f"{folder} belongs to another sweep: {', '.join(differing)} differ. "
                "Choose another folder with out= (--out). Where only data differ, is it shuffled?"
            )

    def parts(self, batch_size: int) -> Parts:
        """Open the parts of this sweep at one batch size."""
        return Parts(self, self.folder / f"{_PARTS}{batch_size}")

    def finished(self) -> xr.Dataset | None:
        """Return the Dataset of the finished sweep, or None while there is none."""
        if not self.is_finished():
            return None
        self._clear()
        return results.open_dataset(self.folder / DATASET)

    def is_finished(self) -> bool:
        """Tell whether the sweep is finished, by whichever process."""
        return (self.folder / DATASET).is_file()

    def show(self, ds: xr.Dataset) -> None:
        """Write the Dataset as far as it is known, in place of what was known before."""
        results.save(ds, self.folder / PARTIAL)

    def keep_outcomes(self, ds: xr.Dataset) -> Path:
        """Write what every example gave, in chunks of one cell and metric."""
        sizes = ds["outcome"].sizes
        chunk = (1, 1, min(sizes["example"], _LONGEST_CHUNK))
        packed = {"chunksizes": chunk, "compression": "gzip", "compression_opts": 1}
        return results.save(ds, self.folder / OUTCOMES, {"outcome": packed})

    def finish(self, ds: xr.Dataset) -> Path:
        """Write the Dataset of the finished sweep, then remove what it was made of."""
        path = results.save(ds, self.folder / DATASET)
        self._clear()
        return path

    def _clear(self) -> None:
        """Remove what the finished Dataset was made of, also what was left by a kill just then."""
        (self.folder / PARTIAL).unlink(missing_ok=True)
        for folder in self.folder.glob(f"{_PARTS}*"):
            # Another process may be removing them as well.
            shutil.rmtree(folder, ignore_errors=True)


class Parts:
    """Write-once files by name, which several processes fill together.

    Parameters
    ----------
    store : Store
    folder : Path

    Attributes
    ----------
    damaged : list of str
        Parts whose file could not be read. They were moved aside, to be computed again.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.damaged: list[str] = []
        self._folder = folder
        self._claims: dict[Path, float] = {}
        self._sweep_strays()

    def __len__(self) -> int:
        return len(list(self._folder.glob("*.npz")))

    def has(self, name: str) -> bool:
        """Tell whether a part is recorded."""
        return self._path(name).is_file()

    def read(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of a part, or None if it is not recorded."""
        path = self._path(name)
        try:
            # Read as a whole, so that the CRC of every array is checked here.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError):
            self.damaged.append(name)
            path.replace(path.with_suffix(".damaged"))
            return None

    def write(self, name: str, arrays: Arrays) -> None:
        """Record a part, unless another process was first.

        Raises
        ------
        ResultError
            If it can't be written, for example on a full disk.
        """
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        try:
            results.write_bytes(self._path(name), content.getvalue(), once=True)
        except ResultError as error:
            error.add_note(f"{len(self)} finished parts are safe in {self.store.folder}.")
            raise

    def free(self, name: str) -> bool:
        """Tell whether a part is neither recorded nor being computed."""
        path = self._path(name).with_suffix(".claim")
        return not self.has(name) and (not path.is_symlink() or _abandoned(path))

    @contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Take a part that nobody is at; False where another process is."""
        path = self._path(name).with_suffix(".claim")
        mine = self._take(path) or (_abandoned(path) and self._retake(path))
        try:
            yield mine
        finally:
            if self._claims.pop(path, None) is not None:
                path.unlink(missing_ok=True)

    def beat(self) -> None:
        """Show that this process is still at what it claimed."""
        now = time.monotonic()
        for path, last in self._claims.items():
            if now - last > _BEAT_S:
                self._claims[path] = now
                with suppress(OSError):
                    os.utime(path, follow_symlinks=False)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"

    def _take(self, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # A link that leads nowhere is made with its content, or not at all.
            path.symlink_to(f"{os.getpid()}@{socket.gethostname()}")
        except FileExistsError:
            return False
        except OSError:
            return True  # claims only save work: where none can be made, go on
        self._claims[path] = time.monotonic()
        return True

    def _retake(self, path: Path) -> bool:
        path.unlink(missing_ok=True)
        return self._take(path)

    def _sweep_strays(self) -> None:
        """Remove what killed processes left half-written."""
        for path in self._folder.glob(".*.tmp"):
            # A file that another process is writing is younger.
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _SILENT_S:
                    path.unlink()


def _abandoned(path: Path) -> bool:
    """Whether the process that claimed a part is no more."""
    try:
        age = time.time() - path.lstat().st_mtime
        pid, _, host = str(path.readlink()).partition("@")
    except OSError:
        return True  # given back just now, or no claim of ours
    dead = host == socket.gethostname() and pid.isdigit() and not _alive(int(pid))
    return dead or age > _SILENT_S


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is there, and somebody else's
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(
            f"{path} is damaged or not layerscope's ({error}). "
            "Choose another folder with out= (--out). Where only data differ, is it shuffled?"
        ) from None
