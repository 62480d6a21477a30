"""Finished parts of a sweep on disk, each file written whole or not at all.

A folder holds ``sweep.json`` (which sweep it is), ``parts-…`` (what each part of each batch gave,
one write-once file each), ``partial.nc`` (the Dataset as far as it is known) and, at the end,
``sweep.nc``. A part is recorded at most once, completely or not at all. Killing a process costs
the part it was at; the same call goes on with what is missing, to the same Dataset. Several
processes may run the same sweep into the same folder: each takes parts that nobody is at. Claims
only save work. Where one is wrong, a part is computed twice, to the same bits, and the first file
stays.

Every file carries a digest of the sweep's identity. One that does not is the user's or another
sweep's: it is neither read as a result nor replaced nor removed. What the finished Dataset was
made of is removed only once that Dataset was opened.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results
from layerscope.base import files, owners, writing
from layerscope.core.sweep._claims import SUFFIX, Claims
from layerscope.core.sweep._differences import differences, going_on
from layerscope.errors import ResultError

__all__ = [
    "DATASET",
    "IDENTITY",
    "OUTCOMES",
    "PARTIAL",
    "FinishedElsewhere",
    "Parts",
    "Store",
    "digest",
]

DATASET = "sweep.nc"
PARTIAL = "partial.nc"
OUTCOMES = results.OUTCOMES
IDENTITY = "identity"
"""The attribute of a Dataset, and the array of a part, that holds the digest of its sweep."""

_LONGEST_CHUNK = 2**16
_IDENTITY = "sweep.json"
PARTS = "parts-"
_DRAFT = re.compile(r"\..+\.npz\.[0-9a-f]+\.tmp")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ELSEWHERE = "Choose another folder with out= (--out)"

Arrays = Mapping[str, npt.NDArray[Any]]


class FinishedElsewhere(Exception):  # noqa: N818 - not an error
    """Another process has finished the sweep."""


def digest(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 of an identity, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class Store:
    """The folder of one sweep; with `look` nothing is written to it.

    Parameters
    ----------
    folder : Path
    identity : mapping
        Everything that the values depend on, as plain values.

    Attributes
    ----------
    digest : str
        Of the identity; every Dataset that is handed over must carry it as ``attrs["identity"]``.

    Raises
    ------
    ResultError
        If the folder belongs to another sweep, holds files of another's under the names that this
        one needs, or can't be written to.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, look: bool = False) -> None:
        self.folder = folder
        self._identity = json.loads(json.dumps(identity))
        self.digest = digest(identity)
        # Without outcomes=True a file of that name is none of ours.
        self._names = [DATASET, PARTIAL] + [OUTCOMES] * bool(identity.get("outcomes"))
        path = folder / _IDENTITY
        owners.sweep_drafts(folder, [*self._names, _IDENTITY])
        if path.is_file():
            self._compare(_read(path))
        try:
            self._require_own_files()
        except ResultError:
            if path.is_file():  # of another process that began meanwhile: that says more
                self._compare(_read(path))
            raise
        if look:
            return
        # Not before: the folder may be another sweep's that lost this file.
        if not path.is_file():
            writing.write_bytes(path, json.dumps(self._identity, indent=1).encode(), once=True)
        # In any case: another process may have been first, since the first look as well.
        self._compare(_read(path))

    def _require_own_files(self) -> None:
        for name in self._names:
            self._require_own(name)
        for part in self._parts():
            _require_owner(part, _owner(part) or self.digest, self.digest)

    def parts(self, batch_size: int) -> Parts:
        """Open the parts of this sweep at one batch size."""
        return Parts(self, self.folder / f"{PARTS}{batch_size}")

    def finished(self) -> xr.Dataset | None:
        """Return the Dataset of the finished sweep, or None while there is none.

        Raises
        ------
        ResultError
            If it is damaged or another sweep's, or its outcomes are gone.
        """
        if not self.is_finished():
            return None
        for name in self._names:
            self._require_own(name)
        try:
            ds = results.open_dataset(self.folder / DATASET)
        except ResultError as error:
            raise self._unusable(str(error).rstrip(".")) from None
        if OUTCOMES in self._names and not (self.folder / OUTCOMES).is_file():
            raise ResultError(
                f"{self.folder / OUTCOMES} is gone, but the sweep is finished: remove "
                f"{self.folder / DATASET} to compute it again, or leave outcomes=True away and "
                f"{_ELSEWHERE[0].lower()}{_ELSEWHERE[1:]}."
            )
        self._clear()
        return ds

    def is_finished(self) -> bool:
        """Tell whether the sweep is finished, by whichever process."""
        return (self.folder / DATASET).is_file()

    def show(self, ds: xr.Dataset) -> None:
        """Write the Dataset as far as it is known, in place of what was known before."""
        results.save(ds, self.folder / PARTIAL)

    def keep_outcomes(self, ds: xr.Dataset) -> Path:
        """Write what every example gave, in chunks of one cell and metric, unless it is there."""
        sizes = ds["outcome"].sizes
        chunk = (1, 1, min(sizes["example"], _LONGEST_CHUNK))
        packed = {"chunksizes": chunk, "compression": "gzip", "compression_opts": 1}
        with self._telling_what_is_safe():
            return results.save(ds, self.folder / OUTCOMES, {"outcome": packed}, once=True)

    def finish(self, ds: xr.Dataset) -> Path:
        """Write the Dataset of the finished sweep, then remove what it was made of.

        A Dataset that another process has finished meanwhile stays.

        Raises
        ------
        ResultError
            If it can't be written, or can't be opened again; nothing is removed then.
        """
        with self._telling_what_is_safe():
            path = results.save(ds, self.folder / DATASET, once=True)
        self.finished()
        return path

    @contextmanager
    def _telling_what_is_safe(self) -> Iterator[None]:
        try:
            yield
        except ResultError as error:
            error.add_note(
                f"{len(self._parts())} finished parts are safe in {self.folder}; the same call "
                "goes on from there."
            )
            raise

    def _clear(self) -> None:
        """Remove what the finished Dataset was made of, also what was left by a kill just then."""
        if not self._foreign(PARTIAL):
            with suppress(OSError):  # what can't be removed now is removed the next time
                (self.folder / PARTIAL).unlink()
        for folder in self._part_folders():
            _remove_parts(folder, self.digest)

    def _part_folders(self) -> list[Path]:
        """Folders of the names that parts are in; others may be in them as well."""
        folders = _paths_in(self.folder, f"{PARTS}*")
        return [f for f in folders if f.name.removeprefix(PARTS).isdecimal() and f.is_dir()]

    def _parts(self) -> list[Path]:
        return [path for folder in self._part_folders() for path in _paths_in(folder, "*.npz")]

    def _compare(self, theirs: Mapping[str, Any]) -> None:
        if differing := differences(self._identity, theirs):
            raise ResultError(
                f"{self.folder} belongs to another sweep: {', '.join(differing)} differ. "
                f"{going_on(self._identity, theirs)}{_ELSEWHERE}. Are only data shuffled?"
            )

    def _require_own(self, name: str) -> None:
        if why := self._foreign(name):
            raise self._unusable(why)

    def _foreign(self, name: str) -> str:
        """Say why a file is not this sweep's; empty where it is, or where there is none."""
        path = self.folder / name
        if not os.path.lexists(path):
            return ""
        try:
            about = results.read_settings(path)
        except ResultError as error:
            # Another process may have finished, and removed it.
            return str(error).rstrip(".") if os.path.lexists(path) else ""
        if about.get(IDENTITY) == self.digest:
            return ""
        if IDENTITY not in about:
            return f"{path} does not say of which sweep it is, so it is not taken for this one's"
        differing = differences(self._identity, {key: about.get(key) for key in self._identity})
        return f"{path} is of another sweep: {', '.join(differing) or 'more'} differ"

    def _unusable(self, why: str) -> ResultError:
        return ResultError(
            f"{why}. Nothing was removed. {_ELSEWHERE}, or move that file away; the same call then "
            "goes on from the parts that are finished."
        )


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
        owners.sweep_drafts(folder)
        self._claims = Claims(folder)

    def __len__(self) -> int:
        return len(_paths_in(self._folder, "*.npz"))

    def names(self) -> list[str]:
        """List the parts that are recorded."""
        return [path.stem for path in _paths_in(self._folder, "[!.]*.npz")]

    def has(self, name: str) -> bool:
        """Tell whether a part is recorded."""
        return self._path(name).is_file()

    def read(self, name: str) -> dict[str, npt.NDArray[Any]] | None:
        """Return the arrays of a part, or None if it is not recorded.

        Raises
        ------
        ResultError
            If it is no part of this sweep.
        """
        path = self._path(name)
        try:
            # Read as a whole, so that the CRC of every array is checked here.
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except FileNotFoundError:
            return None
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError):
            self.set_aside(name)
            return None
        _require_owner(path, str(arrays.pop(IDENTITY, "")), self.store.digest)
        return arrays

    def set_aside(self, name: str) -> None:
        """Move a part that is damaged out of the way, for it to be computed again."""
        self.damaged.append(name)
        # What can't be read can't say whose it is, so its name does.
        path = self._path(name)
        with writing.failures(path), suppress(FileNotFoundError):  # another process was first
            path.replace(path.with_suffix(f".{_mark(self.store.digest)}"))

    def write(self, name: str, arrays: Arrays) -> None:
        """Record a part, unless another process was first.

        Raises
        ------
        ResultError
            If it can't be written, for example on a full disk.
        """
        content = _packed({IDENTITY: np.array(self.store.digest), **arrays})
        try:
            writing.write_bytes(self._path(name), content, once=True)
        except ResultError as error:
            error.add_note(f"{len(self)} finished parts are safe in {self.store.folder}.")
            raise

    def taken(self) -> list[str]:
        """List the parts that other processes are at."""
        return self._claims.taken()

    def free(self, name: str) -> bool:
        """Tell whether a part is neither recorded nor being computed."""
        return not self.has(name) and self._claims.free(name)

    def claim(self, name: str) -> AbstractContextManager[bool]:
        """Take a part that nobody is at; False where another process is."""
        return self._claims.claim(name)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"


def _paths_in(folder: Path, pattern: str = "*") -> list[Path]:
    """List what is in a folder, which another process that is done may remove at any moment."""
    return files.list_folder(folder, pattern, error=ResultError)


def _packed(arrays: Arrays) -> bytes:
    """Return arrays as the content of an ``.npz`` file."""
    content = io.BytesIO()
    try:
        np.savez(content, **arrays)  # type: ignore[arg-type]
    except ValueError as error:
        # Interrupted at the wrong instant, the archive refuses to be closed, and that is told.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise error.__context__ from None
        raise
    return content.getvalue()


def _remove_parts(folder: Path, owner: str) -> None:
    """Remove what a sweep recorded in a folder, and the folder if nothing else is in it."""
    owners.sweep_drafts(folder)
    paths: list[Path] = []
    with suppress(ResultError):  # of a folder that can't be read now
        paths = _paths_in(folder)
    for path in paths:
        # Another process may be removing them as well, or they can't be removed now.
        with suppress(OSError):
            if _is_recorded(path, owner):
                path.unlink()
    # A link to a folder stays, as do files that somebody put there.
    with suppress(OSError):
        folder.rmdir()


def _is_recorded(path: Path, owner: str) -> bool:
    """Recognise a part of a sweep, or what making one left behind."""
    if path.suffix == SUFFIX:
        return path.is_symlink() and not path.exists()
    if path.suffix == ".npz":
        return _owner(path) == owner
    return path.suffix == f".{_mark(owner)}" or bool(_DRAFT.fullmatch(path.name))


def _mark(owner: str) -> str:
    """Suffix of a damaged part."""
    return f"damaged-{owner[:12]}"


def _owner(path: Path) -> str:
    """Read of which sweep a part is, and nothing else; empty where it does not say."""
    try:
        with zipfile.ZipFile(path) as file, file.open(f"{IDENTITY}.npy") as array:
            said = str(np.lib.format.read_array(array, allow_pickle=False))
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, KeyError):
        return ""
    return said if _DIGEST.fullmatch(said) else ""


def _require_owner(path: Path, owner: str, wanted: str) -> None:
    if owner != wanted:
        raise ResultError(
            f"{path} is no part of this sweep, but of another or of nobody's. Nothing was removed. "
            f"{_ELSEWHERE}, or move {path.parent} away."
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(
            f"{path} is damaged or not layerscope's ({error}). "
            "Choose another folder with out= (--out). Where only data differ, is it shuffled?"
        ) from None
