"""The folder of a run: written beside its place, put there whole, found again unchanged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layerscope.errors import ResultError

__all__ = ["HASH", "MANIFEST", "draft", "finished", "list_files"]

MANIFEST = "manifest.json"
HASH = "notebook_sha256"


def finished(
    folder: Path, identity: Mapping[str, Any], same_as: Sequence[str]
) -> dict[str, Any] | None:
    """Return the manifest of a finished run that is the same in all that matters."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return None
    wanted = json.loads(json.dumps(identity))
    if str(about.get(HASH)).startswith(tuple(same_as)):
        wanted.pop(HASH)
    same = all(about.get(key) == value for key, value in wanted.items())
    intact = all(
        (folder / name).is_file() and _sha256(folder / name) == entry["sha256"]
        for name, entry in about.get("files", {}).items()
    )
    return about if same and intact else None


@contextmanager
def draft(folder: Path) -> Iterator[Path]:
    """Work in a folder beside the run's, and put it in place only when all is done."""
    folder = Path(os.path.realpath(folder))  # a link to a folder stays one
    place = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    except OSError as error:
        raise ResultError(
            f"can't write to {folder.parent}: {error.strerror}. Choose another folder with --out."
        ) from None
    try:
        yield place
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old.tmp")
        if folder.exists():
            folder.replace(old)
        place.replace(folder)
        _hand_on(old, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _hand_on(old: Path, folder: Path) -> None:
    """Move into a new run's folder what the run before it did not leave, and remove the rest.

    Files of the user's are that, and files of the run that were edited since; one whose name is
    taken gets the suffix ``.kept``.
    """
    left = _left(old / MANIFEST)
    for path in [each for each in old.rglob("*") if each.is_symlink() or not each.is_dir()]:
        name = path.relative_to(old)
        # Nothing else is opened: a pipe would never end.
        plain = path.is_file() and not path.is_symlink()
        if name.as_posix() == MANIFEST and left:
            continue
        if plain and _sha256(path) == left.get(name.as_posix()):
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
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return {str(name): str(each["sha256"]) for name, each in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def list_files(folder: Path, first: str) -> dict[str, dict[str, Any]]:
    """List the files of a folder, `first` before the others, with their sizes and hashes."""
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    names.sort(key=lambda name: name != first)
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in names
        if not name.endswith(".tmp.json")
    }


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
