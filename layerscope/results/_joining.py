"""Datasets of several training runs, joined."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import xarray as xr

from layerscope.base import validate
from layerscope.errors import ResultError
from layerscope.results._dataset import AS_TRAINED, SEED, listing, settings

_LATER = ("component", "block", "stage", "moved", "doubt", "first_block", "n_blocks")
"""Coordinates that Datasets of earlier sweeps don't have."""


def concat(datasets: Iterable[xr.Dataset], seeds: Sequence[int]) -> xr.Dataset:
    """Join the Datasets of several training runs along a new dimension ``seed``.

    Parameters
    ----------
    datasets : iterable of Dataset
        One per run, over the same layers, epochs, perturbations and metrics.
    seeds : sequence of int

    Raises
    ------
    ResultError
        If the runs differ in a coordinate; joining would fill the gaps with NaN silently.
    """
    if isinstance(datasets, (xr.Dataset, Mapping, str)) or not isinstance(datasets, Iterable):
        raise ResultError(
            f"datasets is {validate.describe(datasets)}; give a list of Datasets, one per run."
        )
    runs, seeds = list(datasets), validate.integers(seeds, "seeds")
    if other := [run for run in runs if not isinstance(run, xr.Dataset)]:
        raise ResultError(f"datasets holds {validate.describe(other[0])}; open it first.")
    if len(set(seeds)) < len(seeds):
        raise ResultError(f"seeds is {list(seeds)}; each run needs a seed of its own.")
    if len(runs) != len(seeds) or not runs:
        raise ResultError(f"{len(runs)} Datasets came with {len(seeds)} seeds; one each is needed.")
    later = [name for name in _LATER if all(name in run.coords for run in runs)]
    runs = [run.drop_vars(set(_LATER) - set(later), errors="ignore") for run in runs]
    if "moved" in later and len({run.sizes["layer"] for run in runs}) == 1:
        # Where a layer did not move in one of them, an average over them says nothing of it.
        moved = np.all([run["moved"].values for run in runs], axis=0)
        runs = [run.assign_coords(moved=run["moved"].copy(data=moved)) for run in runs]
    if "doubt" in later and len({run["doubt"].shape for run in runs}) == 1:
        doubt = _joined_doubts([run["doubt"].values.astype(str) for run in runs], seeds)
        runs = [run.assign_coords(doubt=run["doubt"].copy(data=doubt)) for run in runs]
    runs = _alike(runs)
    # What only some have, xarray would fill with NaN in the others.
    held = [{str(name) for name in run.variables} for run in runs]
    everything = {name for names in held for name in names}
    if partial := sorted(n for n in everything if not all(n in names for names in held)):
        raise ResultError(
            f"these runs can't be joined along seed: not all of them have {listing(partial)}."
        )
    try:
        joined: xr.Dataset = xr.concat(
            runs,
            dim="seed",
            join="exact",
            data_vars="all",
            coords="minimal",
            compat="equals",
            combine_attrs="drop_conflicts",
        )
    except ValueError as error:
        raise ResultError(f"these runs can't be joined along seed: {error}") from None
    joined = joined.assign_coords(seed=("seed", np.asarray(seeds), {"long_name": SEED}))
    joined.attrs["runs"] = json.dumps([settings(run) for run in runs])
    return joined


def _joined_doubts(doubts: Sequence[np.ndarray], seeds: Sequence[int]) -> np.ndarray:
    """Say what is in doubt in any of the runs, and in which, since an average is then too."""
    joined = np.array(doubts[0], dtype=object)
    for place in np.ndindex(joined.shape):
        found = [str(doubt[place]) for doubt in doubts]
        if AS_TRAINED in found:
            joined[place] = AS_TRAINED
        elif len(set(found)) > 1:
            which, why = next((s, f) for s, f in zip(seeds, found, strict=True) if f)
            joined[place] = f"{why}, in seed {which}"
    return joined.astype(str)


def _alike(runs: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Give runs that leave unsaid what their metrics and perturbations mean what the others say."""
    said = {
        name: coordinate.variable
        for run in reversed(runs)
        for name, coordinate in run.coords.items()
        if coordinate.dims in (("metric",), ("perturbation",))
    }
    return [
        run.assign_coords({n: v for n, v in said.items() if n not in run.coords and _fits(v, run)})
        for run in runs
    ]


def _fits(coordinate: xr.Variable, run: xr.Dataset) -> bool:
    return coordinate.sizes.items() <= run.sizes.items()
