"""Manifest of a finished run: what it must hold, and how it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from layerscope.base import files, validate
from layerscope.errors import ResultError
from layerscope.paper.experiments import Summary

__all__ = ["HASH", "MANIFEST", "Manifest", "find_files", "read_manifest", "read_with_all", "sha256"]

MANIFEST = "manifest.json"
HASH = "notebook_sha256"

_WHAT = "the manifest of a run"
_LONGEST_NAME = 255


class _File(files.Schema):
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    sha256: str = ""


class _Machine(files.Schema):
    device: str = ""


class _Data(files.Schema):
    name: str = ""


class _Judged(files.Schema):
    at: str = ""
    layerscope: str = ""
    rules: str = ""


class Manifest(files.Schema):
    """Content of the file that `run` writes; of software and versions nothing is read."""

    experiment: str
    parameters: dict[str, Any]
    files: dict[str, _File]
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    title: str = ""
    command: str = ""
    started: str = ""
    training_seconds: tuple[float, ...] = ()
    data: _Data = msgspec.field(default_factory=_Data)
    machine: _Machine = msgspec.field(default_factory=_Machine)
    judged: _Judged | None = None
    summary: Summary | None = None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises
    ------
    ResultError
        If it is none, or names a file outside of its folder.
    """
    return read_with_all(path)[0]


def read_with_all(path: Path) -> tuple[Manifest, dict[str, Any]]:
    """Read a manifest, and all that stands in it beside; errors as of `read_manifest`."""
    content = files.read_json(path, error=ResultError, what=_WHAT)
    found = files.fit_schema(content, Manifest, where=path, error=ResultError, what=_WHAT)
    for name in found.files:
        if not _is_inside(name):
            raise ResultError(
                f"{path} is not {_WHAT}: it names {name[:_LONGEST_NAME]!r} among its files, which "
                "is not the name of a file in its folder."
            )
    return found, content


def find_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """Find those files of a run that are there and, also where they are links, in its folder."""
    root = folder.resolve()
    there = [folder / name for name in names if files.is_file(folder / name)]
    return [path for path in there if path.resolve().is_relative_to(root)]


def sha256(path: Path) -> str:
    """Digest of a file.

    Raises
    ------
    ResultError
        If it can't be read.
    """
    with files.open_file(path, error=ResultError, what="a file of a run") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_inside(name: str) -> bool:
    try:
        validate.path(name, "name", "figure.png")
    except ValueError:
        return False
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts
