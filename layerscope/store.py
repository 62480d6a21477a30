"""What is finished of a sweep, kept on disk, each file written whole or not at all.

A folder holds ``sweep.json`` (which sweep it is), ``partial.json`` (the sums over the batches that
are done) and, at the end, ``sweep.nc``. Running the same sweep into the same folder goes on after
the last batch that was kept, to the same Dataset: the sums are kept to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.errors import ResultError
from layerscope.metrics import Metric, Tally

__all__ = ["DATASET", "Store"]

DATASET = "sweep.nc"
_IDENTITY = "sweep.json"
_PARTIAL = "partial.json"


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
            results.write_bytes(path, json.dumps(mine, indent=1).encode())
            return
        theirs = _read(path)
        differing = sorted(key for key in theirs | mine if theirs.get(key) != mine.get(key))
        if differing:
            raise ResultError(
                f"{folder} belongs to another sweep: {', '.join(differing)} differ. "
                "Choose another folder with out= (--out). Where only data differ, is it shuffled?"
            )

    def partial(self, metrics: Sequence[Metric] = ()) -> tuple[int, dict[str, dict[str, Tally]]]:
        """Read how many batches are done, and the tallies by cell and metric.

        What is not among `metrics` is read as a plain mean.
        """
        path = self.folder / _PARTIAL
        if not path.is_file():
            return 0, {}
        content = _read(path)
        known = {metric.name: metric for metric in metrics}
        tallies = {
            key: {name: Tally.from_list(sums, known.get(name)) for name, sums in by_metric.items()}
            for key, by_metric in content["tallies"].items()
        }
        return int(content["batches"]), tallies

    def keep(self, batches: int, tallies: Mapping[str, Mapping[str, Tally]]) -> None:
        """Keep the tallies after a number of batches, in place of what was kept before."""
        plain = {
            key: {name: tally.to_list() for name, tally in by_metric.items()}
            for key, by_metric in tallies.items()
        }
        content = json.dumps({"batches": batches, "tallies": plain})
        results.write_bytes(self.folder / _PARTIAL, content.encode())

    def finished(self) -> xr.Dataset | None:
        """Return the Dataset of the finished sweep, or None while there is none."""
        path = self.folder / DATASET
        return results.open_dataset(path) if path.is_file() else None

    def finish(self, ds: xr.Dataset) -> Path:
        """Write the Dataset of the finished sweep."""
        path = results.save(ds, self.folder / DATASET)
        (self.folder / _PARTIAL).unlink(missing_ok=True)
        return path


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ResultError(
            f"{path} is damaged or not layerscope's ({error}). "
            "Choose another folder with out= (--out). Where only data differ, is it shuffled?"
        ) from None
