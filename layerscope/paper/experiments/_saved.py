"""Results of a finished run in the place of its trainings and sweeps, so that it is judged again.

What a notebook asks for is compared with what each saved Dataset says of itself: network, recipe,
seeds, examples, view, epochs, draws, rows; of a network that holds its weights, these. Nothing is
computed, and what does not fit is refused.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.base import files
from layerscope.errors import ResultError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from torch import nn

    from layerscope.paper.experiments._spreading import Training

__all__ = [
    "SAVED_VARIABLE",
    "SavedTraining",
    "find_network_sweep",
    "find_sweep",
    "find_table",
    "saved_folder",
]

SAVED_VARIABLE = "LAYERSCOPE_SAVED"
"""Environment variable with the folder of a finished run that is judged again."""

_LONGEST_TABLE = 2**24  # bytes
_OF_THE_DEVICE = ("autocast",)  # settled only where a network is trained


@dataclass(frozen=True)
class SavedTraining:
    """Trained network of which there is no more than what its sweeps say."""

    manifest: Mapping[str, Any]
    folder: Path | None = field(default=None, init=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by copies and displays
            raise AttributeError(name)
        raise ResultError(
            f"the weights of {self.manifest['data']['name']}'s training with seed "
            f"{self.manifest['seed']} are not among the Datasets that its run left, so that "
            f"{name!r} of them is not known; run the experiment again instead of judging it."
        )

    @classmethod
    def of(cls, asked: Training) -> SavedTraining:
        """Describe a training that was asked for."""
        from torch import nn

        from layerscope.zoo import models

        if isinstance(asked.network, nn.Module):
            raise ResultError(
                "a network that was handed over is not described by the Datasets of its sweeps: "
                "from which training it came, they do not say; run the experiment again instead of "
                "judging it."
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
    return _only(folder, lambda ds: _fits(ds, runs, examples, options), kept_as)


def find_network_sweep(
    folder: Path,
    model: nn.Module,
    examples: Any,
    options: Mapping[str, Any] | None,
    kept_as: str | None = None,
) -> xr.Dataset:
    """Open the Dataset that a sweep of a network with the weights that it holds left.

    Parameters
    ----------
    folder, examples, kept_as
        As for `find_sweep`.
    model : nn.Module
        It must hold the very weights that were swept.
    options : mapping or None
        As `layerscope.sweep` was given them; None where something else set them, which then do not
        count.

    Raises
    ------
    ResultError
        As of `find_sweep`.
    """
    weights = _digest(model)

    def fits(ds: xr.Dataset) -> bool:
        from layerscope import results

        about = results.settings(ds)
        same = about.get("weights") == weights and _is_over(about, examples)
        if not same or options is None:
            return bool(same)
        return _has_rows(about, options) and _has_options(ds, about, options)

    return _only(folder, fits, kept_as)


def _only(folder: Path, fits: Callable[[xr.Dataset], bool], kept_as: str | None) -> xr.Dataset:
    """Open the one Dataset of a run that fits."""
    found = {
        path.stem: ds
        for path, ds in _datasets(folder).items()
        if kept_as in (None, path.stem) and fits(ds)
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


def _digest(model: nn.Module) -> str:
    """Digest of the weights that a network holds, as a sweep of it says them."""
    from layerscope import results
    from layerscope.core import checkpoints

    return checkpoints.Series.of(model).fit(model).digests()[results.NO_EPOCH]


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
        and _is_over(about, examples)
        and _has_rows(about, options)
        and _has_options(ds, about, options)
    )


def _is_over(about: Mapping[str, Any], examples: Any) -> bool:
    """Compare the examples; a sweep of several tasks says only some of them."""
    return "data" in about and about["data"]["sha256"] == getattr(examples, "fingerprint", None)


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


def _has_options(ds: xr.Dataset, about: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    from layerscope.core import perturb

    same = about["view"] == options.get("view", "leaf")
    if "norms" in options:
        same &= about["norms"]["parameters"] == options["norms"]
    for name in ("epochs", "metrics", "measures"):
        if name in options:
            same &= list(about.get(name, ())) == [*options[name]]
    if "perturbations" in options:
        asked = [each.name for each in perturb.parse(options["perturbations"])]
        same &= list(about["perturbations"]) == asked
    looked = ds["model_epoch"].values.tolist() if "model_epoch" in ds.dims else []
    same &= looked == [*options.get("model_epochs", ())]
    return bool(same and about["draws"] == options.get("draws", about["draws"]))
