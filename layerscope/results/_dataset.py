"""The Dataset: built, checked, saved, opened and joined."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from layerscope.base import validate
from layerscope.base.writing import write_bytes
from layerscope.errors import ResultError

OUTCOMES = "outcomes.nc"
"""The file below a sweep's folder that holds what every example gave."""

NO_EPOCH = -1
"""Stands in the ``epoch`` coordinate for weights that come from no checkpoint."""

FULL_MODEL = "fullmodel"
"""The row of ``layer`` in which every layer is perturbed at once."""

NOT_FINITE = "not finite"
"""What `stats.classify` says of a layer whose degradation is no number."""

NOT_MOVED = "not moved"
"""The verdict of a layer that holds the same values at the first checkpoint and at the last."""

NOTHING_LEFT = "nothing would be left of the network"
"""Why the whole network can't be skipped."""

YOURS = "__yours__"
"""In the attribute ``call``, from this to a name: what only the user has, such as a function."""

_DESCRIBED = {
    "value": ("metric of the perturbed network", "1"),
    "standard_error": ("standard error of value over examples", "1"),
    "baseline": ("metric of the unperturbed network", "1"),
    "baseline_standard_error": ("standard error of baseline over examples", "1"),
    "difference": ("mean difference from the baseline over the same examples", "1"),
    "difference_standard_error": ("standard error of difference over examples", "1"),
    "n_examples": ("number of examples that value averages over", "1"),
    "not_finite": ("number of predictions whose largest output is NaN or infinite", "1"),
    "baseline_not_finite": ("the same of the unperturbed network", "1"),
    "chance": ("error of always naming the commonest class of the targets that count", "1"),
    "verdict": ("what the layer was settled to be, and where the cell was stopped", ""),
    "stopped_early": ("whether the cell was settled before all examples were seen", ""),
    "lower": ("lower end of the interval of value that holds however often one looks", "1"),
    "upper": ("upper end of the interval of value that holds however often one looks", "1"),
    "baseline_lower": ("the same of the unperturbed network, lower end", "1"),
    "baseline_upper": ("the same of the unperturbed network, upper end", "1"),
    "outcome": ("metric of one example in one cell", "1"),
    "baseline_outcome": ("metric of one example in the unperturbed network", "1"),
    "weight": ("what the example counts, such as its number of tokens", "1"),
    "example": ("index of the example in the data", ""),
    "scenario": ("state of several layers that was given a name", ""),
    "scenario_value": ("metric of the network in the scenario", "1"),
    "scenario_standard_error": ("standard error of scenario_value over examples", "1"),
    "scenario_difference": ("scenario_value minus the trained network's", "1"),
    "scenario_state": ("what is done to each layer, as JSON", ""),
    "distance": ("distance of the layer's parameters from the first checkpoint", "1"),
    "draw_distance": ("distance of redrawn parameters from the first checkpoint", "1"),
    "layer": ("layer, by dotted name, in execution order", ""),
    "epoch": ("checkpoint the layer's weights come from", "epoch"),
    "perturbation": ("what is done to the layer", ""),
    "draw": ("index of the random draw", ""),
    "metric": ("what is measured", ""),
    "norm": ("how the distance is measured", ""),
    "seed": ("seed of the training run", ""),
    "depth": ("index in execution order", ""),
    "kind": ("layer, or network for all layers at once", ""),
    "module_type": ("class of the module", ""),
    "moved": ("whether the layer changed from the first checkpoint to the last", ""),
    "parameters": ("number of parameters", "1"),
    "component": ("component that the layer lies in, empty for several", ""),
    "block": ("block that the layer lies in, empty for several", ""),
    "stage": ("stage that the layer lies in, empty for several", ""),
    "initializer": ("where re-randomised values are drawn from", ""),
    "metric_long_name": ("what the metric is", ""),
    "metric_unit": ("unit of the metric", ""),
    "higher_is_better": ("whether the metric falls when a network gets worse", ""),
    "metric_lower_bound": ("least value that an example can have", "1"),
    "metric_upper_bound": ("largest value that an example can have", "1"),
    "fraction_of": ("what the metric is a fraction of, empty if of nothing", ""),
    "logarithmic": ("whether values of the metric differ by factors", ""),
    "perturbation_label": ("what a layer is after the perturbation", ""),
    "perturbation_column": ("column of the perturbation in figures and tables", ""),
    "perturbation_sign": ("mark of a layer that was perturbed", ""),
    "stochastic": ("whether the perturbation draws random numbers", ""),
    "redraws": ("whether the perturbation draws a layer's values anew", ""),
    "uses_checkpoint": ("whether the perturbation takes values from a checkpoint", ""),
}


_LATER = ("component", "block", "stage", "moved")
"""Coordinates that Datasets of earlier sweeps don't have."""

_WORDS = ("true", "false", "null")


def build(
    variables: Mapping[str, tuple[Sequence[str], Any]],
    coords: Mapping[str, Any],
    attrs: Mapping[str, Any],
    described: Mapping[str, tuple[str, str]] | None = None,
) -> xr.Dataset:
    """Put arrays together into a Dataset, with names and units stamped on each.

    Parameters
    ----------
    variables : mapping of str to (dims, array)
    coords : mapping of str to array or (dims, array)
    attrs : mapping
        Everything needed to compute the Dataset again. Nested values are kept as JSON, since
        netCDF attributes hold plain ones only; `settings` reads them back.
    described : mapping of str to (long name, units), optional
        Of variables that have others than usual.
    """
    ds = xr.Dataset(
        {name: (tuple(dims), np.asarray(values)) for name, (dims, values) in variables.items()},
        coords=dict(coords),
        attrs={name: _plain(value) for name, value in attrs.items()},
    )
    for name in ds.variables:
        long_name, units = {**_DESCRIBED, **(described or {})}[str(name)]
        ds[name].attrs |= {"long_name": long_name} | ({"units": units} if units else {})
    if "epoch" in ds.coords and NO_EPOCH in ds["epoch"].values:
        ds["epoch"].attrs |= {"flag_values": NO_EPOCH, "flag_meanings": "from_no_checkpoint"}
    return ds


def require(ds: xr.Dataset, *dims: str, variable: str = "value") -> xr.DataArray:
    """Return ``ds[variable]`` if it has all of `dims`, else say what is missing.

    Raises
    ------
    ResultError
        Names what the Dataset has and what was expected.
    """
    if not isinstance(ds, xr.Dataset):
        raise ResultError(f"expected an xarray Dataset, got a {type(ds).__name__}.")
    if variable not in ds:
        raise ResultError(
            f"the Dataset has no variable {variable!r}; it has {_listed(ds.data_vars)}. "
            "layerscope.sweep makes one that has."
        )
    missing = [dim for dim in dims if dim not in ds[variable].dims]
    if missing:
        raise ResultError(
            f"{variable!r} has dimensions {_listed(ds[variable].dims)}, but not "
            f"{_listed(missing)}. If one was selected away, keep it: .sel(name=[…])."
        )
    return ds[variable]


def settings(ds: xr.Dataset) -> dict[str, Any]:
    """The attributes of a Dataset, with those that hold JSON read back."""
    if not isinstance(ds, xr.Dataset):
        raise ResultError(f"expected an xarray Dataset, got {validate.describe(ds)}.")
    return {str(name): _parsed(value) for name, value in ds.attrs.items()}


def refusals(ds: xr.Dataset) -> dict[tuple[str, str], str]:
    """Why some cells can't be computed, from (layer, perturbation) to the reason.

    Examples
    --------
    >>> from layerscope import testing
    >>> refusals(testing.dataset().assign_attrs(refused='{"layer1 zero": "no weights"}'))
    {('layer1', 'zero'): 'no weights'}
    """
    about = settings(ds)
    runs = about["runs"] if isinstance(about.get("runs"), list) else []
    kept = [each["refused"] for each in (about, *runs) if isinstance(each.get("refused"), dict)]
    # A perturbation that nothing could be done with has no cell; a layer's name may hold blanks.
    names = [str(name) for name in ds["layer"].values] if "layer" in ds.coords else []
    return {
        (name, key[len(name) + 1 :]): str(why)
        for reasons in kept
        for key, why in reasons.items()
        for name in names
        if key.startswith(f"{name} ")
    }


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
    runs = _alike(runs)
    # What only some have, xarray would fill with NaN in the others.
    held = [{str(name) for name in run.variables} for run in runs]
    everything = {name for names in held for name in names}
    if partial := sorted(n for n in everything if not all(n in names for names in held)):
        raise ResultError(
            f"these runs can't be joined along seed: not all of them have {_listed(partial)}."
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
    joined = joined.assign_coords(
        seed=("seed", np.asarray(seeds), {"long_name": _DESCRIBED["seed"][0]})
    )
    joined.attrs["runs"] = json.dumps([settings(run) for run in runs])
    return joined


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


def save(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    encoding: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    once: bool = False,
) -> Path:
    """Write a Dataset as netCDF, completely or not at all.

    A link stays one: what it leads to is written. A file that is replaced hands on its mode.

    Parameters
    ----------
    ds : Dataset
    path : path
    encoding : mapping, optional
        By variable, how it is laid out in the file, as xarray takes it.
    once : bool
        Leave the file that is there already.

    Raises
    ------
    ResultError
        If the place is not writable, or what is there is no regular file.
    """
    path = validate.path(path, "path", "sweep.nc")
    if not isinstance(ds, xr.Dataset):
        raise ResultError(f"expected an xarray Dataset, got {validate.describe(ds)}.")
    with tempfile.TemporaryDirectory(prefix="layerscope-") as folder:
        draft = Path(folder) / "draft.nc"
        ds.to_netcdf(draft, engine="h5netcdf", encoding=encoding)
        content = draft.read_bytes()
    return write_bytes(path, content, once=once)


def open_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a saved Dataset into memory, leaving the file closed.

    Raises
    ------
    ResultError
        If there is no such file, or it is not a Dataset.
    """
    path = validate.path(path, "path", "sweep.nc")
    if path.is_dir():
        # What every example gave lies beside the Dataset of a sweep.
        found = sorted(each for each in path.glob("*.nc") if each.name != OUTCOMES)
        if not found:
            raise ResultError(
                f"{path} holds no Dataset (*.nc); a sweep writes it once it is finished, and the "
                "same call goes on with one that was stopped."
            )
        if len(found) > 1:
            raise ResultError(f"{path} holds {len(found)} Datasets (*.nc); name one of them.")
        path = found[0]
    with _opened(path) as ds:
        return ds.load()


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings of a saved Dataset, as `settings` does, without its values.

    Raises
    ------
    ResultError
        As for `open_dataset`.
    """
    with _opened(Path(path)) as ds:
        return settings(ds)


@contextmanager
def _opened(path: Path) -> Iterator[xr.Dataset]:
    if not path.is_file():
        raise ResultError(f"there is no Dataset at {path}; give a .nc file that a sweep wrote.")
    import h5py  # type: ignore[import-untyped]

    try:
        # First without xarray, which leaves complaints behind where a file is cut short.
        with h5py.File(path, "r"):
            pass
        with xr.open_dataset(path, engine="h5netcdf") as ds:
            yield ds
    except FileNotFoundError:
        raise ResultError(f"{path} was removed just now.") from None
    except (OSError, ValueError, RuntimeError, LookupError) as error:
        raise ResultError(
            f"{path} ({path.stat().st_size:,} bytes) is no Dataset: {error}"
        ) from None


def _plain(value: Any) -> str | int | float:
    if isinstance(value, str):
        # Subclasses of str, such as torch's version, have no place in a file.
        return str(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if number else json.dumps(value)


def _parsed(value: Any) -> Any:
    json_like = isinstance(value, str) and (value[:1] in ("{", "[") or value in _WORDS)
    if not json_like:
        return value.item() if isinstance(value, np.generic) else value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
