"""What is finished of a sweep, kept on disk: one small file per cell, written whole or not at all.

A folder holds ``sweep.json`` (which sweep it is), ``cells/`` and, at the end, ``sweep.nc``.
Running the same sweep into the same folder goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.errors import ResultError

__all__ = ["DATASET", "Store"]

DATASET = "sweep.nc"
_IDENTITY = "sweep.json"


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
        if path.is_file():
            theirs = _identity(path)
            differing = sorted(key for key in theirs | mine if theirs.get(key) != mine.get(key))
            if differing:
                raise ResultError(
                    f"{folder} belongs to another sweep: {', '.join(differing)} differ. "
                    "Choose another folder with out= (--out), or delete this one."
                )
        else:
            results.write_bytes(path, json.dumps(mine, indent=1).encode())

    def cells(self) -> dict[str, dict[str, Any]]:
        """Read every finished cell, by key."""
        return {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((self.folder / "cells").glob("*.json"))
        }

    def add(self, key: str, content: Mapping[str, Any]) -> None:
        """Keep one finished cell."""
        path = self.folder / "cells" / f"{key}.json"
        results.write_bytes(path, json.dumps(content).encode())

    def finished(self) -> xr.Dataset | None:
        """Return the Dataset of the finished sweep, or None while there is none."""
        path = self.folder / DATASET
        return results.open_dataset(path) if path.is_file() else None

    def finish(self, ds: xr.Dataset) -> Path:
        """Write the Dataset of the finished sweep."""
        return results.save(ds, self.folder / DATASET)


def _identity(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(
            f"{path} does not say which sweep it belongs to ({error}). "
            "Choose another folder with out= (--out), or delete this one."
        ) from None
