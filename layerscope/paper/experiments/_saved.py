"""Results of a finished run in the place of its trainings and sweeps, so that it is judged again.

What a notebook asks for is compared with what each saved Dataset says of itself: network, recipe,
seeds, examples, view, epochs, draws, rows. Nothing is computed, and what does not fit is refused.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.base import files
from layerscope.errors import ResultError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from layerscope.paper.experiments._spreading import Training

__all__ = ["SAVED_VARIABLE", "SavedTraining", "find_sweep", "find_table", "saved_folder"]

SAVED_VARIABLE = "LAYERSCOPE_SAVED"
"""Environment variable with the folder of a finished run that is judged again."""

_LONGEST_TABLE = 2**24  # bytes
_OF_THE_DEVICE = ("autocast",)  # settled only where a network is trained


@dataclass(frozen=True)
class SavedTraining:
    """Trained network of which there is no more than what its sweeps say."""

    manifest: Mapping[str, Any]
    folder: Path | None = field(default=None, init=False)

    @classmethod
    def of(cls, asked: Training) -> SavedTraining:
        """Describe a training that was asked for."""
        from torch import nn

        from layerscope.zoo import models

        if isinstance(asked.network, nn.Module):
            raise ResultError(
                "a network that was handed over is not described by the Datasets of its sweeps; "
                "run the experiment again instead of judging it."
            )
        network = models.configure(
            asked.network, inputs=asked.data.shape, classes=asked.data.classes
        )
        return cls(
            {
                "network": network.plain(),
                "data": {"name": asked.data.name, "sha256": asked.data.train.fingerprint},
                "recipe": asked.recipe.describe(),
                "seed": asked.seed,
            }
        )


def saved_folder() -> Path | None:
    """Return the folder of the run that is judged again; None where this is an ordinary run."""
    folder = os.environ.get(SAVED_VARIABLE)
    return Path(folder) if folder else None


def find_sweep(
    folder: Path,
    runs: Sequence[SavedTraining],
    examples: Any,
    options: Mapping[str, Any],
    kept_as: str | None = None,
) -> xr.Dataset:
    """Open the Dataset that a sweep of these trainings left.

    Parameters
    ----------
    folder : Path
        Of the run.
    runs : sequence of SavedTraining
    examples : data
        Swept over.
    options : mapping
        As `layerscope.sweep` was given them.
    kept_as : str, optional
        Name of the file without its suffix, where several fit.

    Raises
    ------
    ResultError
        If none fits, or several do that differ.
    """
    found = {
        path.stem: ds
        for path, ds in _datasets(folder).items()
        if _fits(ds, runs, examples, options) and kept_as in (None, path.stem)
    }
    first = next(iter(found.values()), None)
    # The same sweep may have been kept by two names.
    if first is None or not all(first["value"].equals(ds["value"]) for ds in found.values()):
        said = "several Datasets that differ fit" if found else "no Dataset fits"
        raise ResultError(
            f"{said} a sweep that the notebook asks for, in {folder}"
            f"{': ' + ', '.join(found) if found else ''}; run the experiment again instead of "
            "judging it."
        )
    return first


def find_table(folder: Path, name: str, **where: Any) -> pd.DataFrame:
    """Read a table that a run left, or those of its rows that have values in columns.

    Raises
    ------
    ResultError
        If it is not there, or has no such rows.
    """
    import pandas as pd

    path = folder / f"{name}.csv"
    text = files.read_text(path, error=ResultError, what="a table of a run", most=_LONGEST_TABLE)
    table = pd.read_csv(io.StringIO(text))
    texts = table.select_dtypes(["object", "string"]).columns
    table[texts] = table[texts].fillna("")
    columns = [column.replace("_", " ") for column in where]
    for column, value in zip(columns, where.values(), strict=True):
        if column in table:
            table = table[table[column] == value]
    if table.empty:
        raise ResultError(
            f"{path} has no rows with {where}; run the experiment again instead of judging it."
        )
    return table.drop(columns=columns, errors="ignore").reset_index(drop=True)


@cache
def _datasets(folder: Path) -> Mapping[Path, xr.Dataset]:
    """Open every Dataset of a run, once in a process: a notebook asks for them one by one."""
    from layerscope import results

    return {path: results.open_dataset(path) for path in sorted(folder.glob("*.nc"))}


def _fits(
    ds: xr.Dataset, runs: Sequence[SavedTraining], examples: Any, options: Mapping[str, Any]
) -> bool:
    from layerscope import results

    about = results.settings(ds)
    trainings = [each.get("training") for each in about.get("runs", [])]
    return (
        len(trainings) == len(runs)
        and all(map(_is_of, trainings, runs))
        and about["data"]["sha256"] == getattr(examples, "fingerprint", None)
        and _has_rows(about, options)
        and _has_options(about, options)
    )


def _is_of(training: Mapping[str, Any] | None, run: SavedTraining) -> bool:
    """Compare what a Dataset says of a training with one that is asked for.

    What only one of the two knows does not count: an option that came later has its default.
    """
    if training is None or training["network"] is None:
        return False
    asked = json.loads(json.dumps(run.manifest))
    same = training["seed"] == asked["seed"]
    same &= training["data"]["sha256"] == asked["data"]["sha256"]
    for part in ("network", "recipe"):
        both = (training[part].keys() & asked[part].keys()) - set(_OF_THE_DEVICE)
        same &= all(training[part][key] == asked[part][key] for key in both)
    return bool(same)


def _has_rows(about: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    from layerscope import results

    rows = set(about["layers"])
    whole = results.FULL_MODEL in rows
    if whole != options.get("whole", True):
        return False
    wanted = options.get("layers")
    return wanted is None or rows - {results.FULL_MODEL} == set(map(str, wanted))


def _has_options(about: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    same = about["view"] == options.get("view", "leaf")
    if "norms" in options:
        same &= about["norms"]["parameters"] == options["norms"]
    for name in ("epochs", "perturbations"):
        if name in options:
            same &= list(about[name]) == [*options[name]]
    return bool(same and about["draws"] == options.get("draws", about["draws"]))
