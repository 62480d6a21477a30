"""Results from files, under names that tell them apart."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import xarray as xr

from layerscope import results
from layerscope.base import files, validate
from layerscope.errors import OptionError, ResultError

__all__ = ["read"]


def read(paths: Sequence[str | os.PathLike[str]]) -> dict[str, xr.Dataset]:
    """Open results, each under an end of its path that no other has.

    Parameters
    ----------
    paths : sequence of path
        Datasets (``.nc``), or folders with one. Where ``manifest.json`` lies beside it, the
        command that made it is kept in ``attrs["command"]``; where ``kept.nc`` does, or in the run
        above it, the states in there are in the Dataset.

    Returns
    -------
    dict of str to Dataset

    Raises
    ------
    OptionError
        If a result came twice, or none came.
    ResultError
        If there is no Dataset at one of the places, or the manifest beside one is damaged.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    if isinstance(paths, xr.Dataset) or not isinstance(paths, Iterable):
        raise OptionError(
            f"paths is {validate.describe(paths)}; give a list of Datasets (.nc), or of folders "
            "with one. An open Dataset needs no reading: report.write({'name': ds}, …)."
        )
    places = [validate.path(each, "a result", "layers/sweep.nc") for each in paths]
    if not places:
        raise OptionError("no result came; give a Dataset (.nc), or a folder with one.")
    whole = [Path(os.path.realpath(place)) for place in places]  # also of a link to itself
    if twice := [
        str(place) for place, at in zip(places, whole, strict=True) if whole.count(at) > 1
    ]:
        raise OptionError(f"{twice[0]} came more than once; give each result once.")
    opened = [_open(place) for place in places]
    return dict(zip(_names(whole), opened, strict=True))


def _open(place: Path) -> xr.Dataset:
    ds = results.open_dataset(place)
    if results.scenarios_of(ds) is None and (kept := _kept(place)):
        ds = results.with_kept(ds, results.open_dataset(kept)) or ds
    manifest = (place if place.is_dir() else place.parent) / "manifest.json"
    if not files.is_file(manifest):
        return ds
    what = "the manifest of a run"
    about = files.read_manifest(manifest, _Manifest, error=ResultError, what=what)
    return ds if about.command is None else ds.assign_attrs(command=about.command)


def _kept(place: Path) -> Path | None:
    """Find the states that were kept of a run: beside its sweep, or its checkpoints above that."""
    folder = place if place.is_dir() else place.parent
    runs = [folder, *([folder.parent] if files.is_file(folder.parent / "manifest.json") else [])]
    found = (run / results.KEPT for run in runs)
    return next((file for file in found if files.is_file(file)), None)


class _Manifest(files.Schema):
    """Part of the manifest of a run, or of a series, that is read here."""

    command: str | None = None


def _names(places: Sequence[Path]) -> list[str]:
    parts = [
        place.with_suffix("").parts if place.suffix == ".nc" else place.parts for place in places
    ]
    for count in range(2, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]  # a.nc beside a folder a
