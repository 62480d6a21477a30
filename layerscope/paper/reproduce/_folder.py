"""The folder of a run: written beside its place, put there whole, found again unchanged."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from layerscope.base import owners
from layerscope.base.writing import failures, make_folder, sync_files, sync_folder
from layerscope.errors import ResultError
from layerscope.paper.reproduce._manifest import (
    HASH,
    MANIFEST,
    find_files,
    read_manifest,
    read_with_all,
    sha256,
)

__all__ = ["draft", "finished", "list_files", "recover"]

_ASIDE = "old"
"""Suffix of a run's folder that another run is to take the name of."""


def finished(
    folder: Path, identity: Mapping[str, Any], same_as: Sequence[str]
) -> dict[str, Any] | None:
    """Return the manifest of a finished run that is the same in all that matters."""
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    try:
        found, about = read_with_all(path)
    except ResultError:
        return None
    wanted = json.loads(json.dumps(identity))
    if str(about.get(HASH)).startswith(tuple(same_as)):
        wanted.pop(HASH)
    same = all(about.get(key) == value for key, value in wanted.items())
    there = {path.relative_to(folder).as_posix(): path for path in find_files(folder, found.files)}
    intact = same and all(
        name in there and sha256(there[name]) == each.sha256 for name, each in found.files.items()
    )
    return about if intact else None


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """Work in a folder beside the run's, and put it in place only when all is done."""
    folder = _real(folder)
    place = make_folder(owners.draft_of(folder), folder)
    owners.keep_touching(place)
    try:
        yield place
        with failures(folder):
            _publish(place, folder)
    finally:
        owners.stop_touching(place)
        shutil.rmtree(place, ignore_errors=True)


def recover(folder: Path) -> None:
    """Finish what a process that is gone was at when it put a run in place; remove what it left.

    A run that was moved aside comes back, unless the new one is whole; then that one takes its
    place, as it would have.
    """
    folder = _real(folder)
    aside = owners.left_beside(folder, _ASIDE, mine=True)
    if aside and not os.path.lexists(folder):
        new = next((each for each in owners.left_beside(folder) if _is_whole(each)), None)
        with suppress(OSError):  # another process may be doing the same
            (new or aside[0]).replace(folder)
    for old in aside:
        if folder.is_dir() and old.is_dir():
            _hand_on(old, folder)
    owners.sweep_drafts(folder.parent, [folder.name])


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))  # a link to a folder stays one


def _publish(place: Path, folder: Path) -> None:
    """Give a whole run its name, to last; what the run before it did not leave stays."""
    sync_files(place)
    if not os.path.lexists(folder):
        place.replace(folder)
    else:
        # The name says that what is in it belongs into the folder, whichever of the two it is.
        old = place.replace(place.with_suffix(f".{_ASIDE}"))
        if not _exchange(old, folder):
            _put_aside(old.replace(place), folder, old)
        _hand_on(old, folder)
    sync_folder(folder.parent)


def _put_aside(place: Path, folder: Path, old: Path) -> None:
    """Let a run take the place of another by two renames, of which both or none is done."""
    folder.replace(old)
    try:
        place.replace(folder)
    except OSError:
        old.replace(folder)
        raise


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders swap names at once; False where the system can't.

    So there is no moment at which a finished run is missing.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), swap) == 0)


def _is_whole(place: Path) -> bool:
    """Check that a draft holds all that its manifest lists; the manifest is written last."""
    files = _left(place / MANIFEST)
    return bool(files) and all(
        (place / name).is_file() and sha256(place / name) == digest
        for name, digest in files.items()
    )


def _hand_on(old: Path, folder: Path) -> None:
    """Move into a new run's folder what the run before it did not leave, and remove the rest.

    Files of the user's are that, and files of the run that were edited since; one whose name is
    taken gets the suffix ``.kept``. Cut short and done again, it ends the same.
    """
    left = _left(old / MANIFEST)
    for path in [each for each in old.rglob("*") if each.is_symlink() or not each.is_dir()]:
        name = path.relative_to(old)
        if name.as_posix() == MANIFEST and left:
            continue  # it says whose the others are, so it goes last
        # Nothing else is opened: a pipe would never end.
        plain = path.is_file() and not path.is_symlink()
        if plain and sha256(path) == left.get(name.as_posix()):
            with suppress(OSError):
                path.unlink()
            continue
        target = folder / name
        while os.path.lexists(target):
            target = target.with_name(f"{target.name}.kept")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _left(manifest: Path) -> dict[str, str]:
    """SHA-256 of the files that a run left, by name; empty where nothing says."""
    try:
        return {name: each.sha256 for name, each in read_manifest(manifest).files.items()}
    except ResultError:
        return {}


def list_files(folder: Path, first: str) -> dict[str, dict[str, Any]]:
    """List the files of a folder, `first` before the others, with their sizes and hashes."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    names.sort(key=lambda name: name != first)
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in names
        if not name.endswith(".tmp.json")
    }
