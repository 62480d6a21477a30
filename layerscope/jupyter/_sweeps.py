"""All sweeps that lie in the folder of a run, by what tells them apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.base import files
from layerscope.core.layers import VIEWS
from layerscope.core.sweep import DATASET
from layerscope.errors import LayerscopeError, ResultError

__all__ = ["HERE", "find_sweeps", "first_of"]

HERE = "swept here"
"""Name of the sweep that the page's own button made."""

_MOST, _NAMED = 50, 3
_USUAL = "sweep"


def find_sweeps(folder: Path, tasks: bool = False) -> tuple[dict[str, xr.Dataset], list[str]]:
    """Open the finished sweeps of a run.

    Those of ``layerscope sweep`` lie in ``sweep`` and ``sweep-PART``, those of experiments in
    ``sweeps``.

    Parameters
    ----------
    folder : path
    tasks : bool
        Whether several data sets came, of which a sweep may have several as well.

    Returns
    -------
    sweeps : dict of str to Dataset
        By what tells them apart, in words.
    unshown : list of str
        Which of them can't be shown, and why.
    """
    found: dict[str, xr.Dataset] = {}
    unshown = []
    for place in list(_places(folder))[:_MOST]:
        name = place.relative_to(folder).as_posix()
        try:
            ds = _opened(place, tasks)
        except LayerscopeError as error:
            unshown.append(f"{name} ({str(error).rstrip('.')})")
            continue
        said = _words(ds)
        found[f"{said} ({name})" if said in found or place.name != _USUAL else said] = ds
    return found, unshown


def first_of(sweeps: Mapping[str, xr.Dataset], view: str, metric: Any = None) -> str | None:
    """Choose the sweep to begin with: the first of a view, else the first; None without any.

    Only among those that have the metric, where one is wanted: nobody chose the others.
    """
    wanted = getattr(metric, "name", metric)
    having = [k for k, ds in sweeps.items() if wanted is None or wanted in ds["metric"].values]
    of_view = (label for label in having if _view(sweeps[label]) == view)
    return next(of_view, next(iter(having), None))


def _places(folder: Path) -> Iterator[Path]:
    for pattern in (_USUAL, f"{_USUAL}-*", "sweeps/*"):
        yield from (p for p in sorted(folder.glob(pattern)) if files.is_file(p / DATASET))


def _opened(place: Path, tasks: bool) -> xr.Dataset:
    ds = results.open_dataset(place / DATASET)
    results.require(ds, "layer", "epoch", "perturbation", "draw", "metric")
    several = ("model_epoch", *([] if tasks else ["task"]))
    if more := [dim for dim in several if dim in ds.dims]:
        raise ResultError(f"it has several of {more[0]}; choose one and give it as dataset=.")
    if (view := _view(ds)) not in VIEWS:
        raise ResultError(f"its rows are of the view {view!r}, expected {', '.join(VIEWS)}.")
    return ds


def _view(ds: xr.Dataset) -> str:
    return str(ds.attrs.get("view", "leaf"))


def _words(ds: xr.Dataset) -> str:
    """Say of which rows a sweep is, what was done to them, and what was measured."""
    done = [str(name) for name in ds["perturbation"].values]
    past = any(results.perturbation(ds, name).uses_checkpoint for name in done)
    epochs = sum(int(epoch) != results.NO_EPOCH for epoch in ds["epoch"].values)
    measured = [str(name) for name in ds["metric"].values]
    many = [f"{epochs} checkpoint{'' if epochs == 1 else 's'}"] if past else []
    return "; ".join([f"{_view(ds)}: {_listed(done)}", *many, _listed(measured)])


def _listed(names: list[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"
