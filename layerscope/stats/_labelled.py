"""Statistics with named dimensions: what moved, how sure, and which part of a Dataset it is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results
from layerscope.base.validate import describe
from layerscope.errors import ResultError, choose
from layerscope.stats._arrays import Array, Estimate, estimate, normal_quantile, wilson
from layerscope.stats._paired import is_whole

_DIMS = ("layer", "epoch", "perturbation", "draw", "metric")


def degradation(ds: xr.Dataset) -> xr.DataArray:
    """How much the metric moved: ``value − baseline``, over the same examples.

    Above 0 is worse for errors, loss and perplexity; below 0 is worse where higher is better, as
    ``ds.higher_is_better`` says.

    Parameters
    ----------
    ds : Dataset
        With ``value`` and ``baseline``; ``difference`` counts where it is known, since a cell may
        have been evaluated on fewer examples than the baseline.

    Returns
    -------
    DataArray
        Dimensions and unit of ``value``; NaN where that is.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.

    Examples
    --------
    >>> from layerscope import testing
    >>> worse = degradation(testing.dataset())
    >>> round(float(worse.sel(layer="layer1", epoch=0, metric="error").max()), 2)
    0.88
    """
    value = results.require(ds, "layer", "metric")
    moved = (value - results.require(ds, "metric", variable="baseline")).rename("degradation")
    if "difference" in ds:
        unknown = value.isnull() | ds["difference"].isnull()
        moved = moved.where(unknown, ds["difference"])
    return moved.transpose(*value.dims).assign_attrs(
        long_name="metric of the perturbed network minus that of the unperturbed"
    )


def interval(ds: xr.Dataset, confidence: float = 0.95) -> xr.Dataset:
    """Bounds of every value over examples: what another test set of this size might give.

    Wilson's interval for fractions of examples (``ds.fraction_of``), ``value ± z ·
    standard_error`` for the others, fractions of the positions of sequences among them; of a
    perplexity the exponentials of the bounds of the loss, of which none is below 0.

    Parameters
    ----------
    ds : Dataset
        With ``value``, and ``n_examples`` or ``standard_error``.
    confidence : float
        In (0, 1).

    Returns
    -------
    Dataset
        ``lower`` and ``upper``, each with the dimensions of ``value``; NaN where the value is
        NaN, or where the Dataset holds nothing to tell its uncertainty from.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable.

    Examples
    --------
    >>> from layerscope import testing
    >>> bounds = interval(testing.dataset())
    >>> list(bounds.data_vars), bounds.lower.dims == testing.dataset().value.dims
    (['lower', 'upper'], True)
    """
    value = results.require(ds, "layer", "metric")
    parts = [
        _example_bounds(ds, value.sel(metric=[name]), confidence) for name in value["metric"].values
    ]
    bounds = xr.concat(parts, dim="metric", join="exact").transpose(*value.dims)
    for name, bound in bounds.data_vars.items():
        bound.attrs |= {"long_name": f"{name} bound of value over examples", "units": "1"}
    return bounds.assign_attrs(confidence=confidence)


def is_refused(ds: xr.Dataset, cell: xr.DataArray) -> npt.NDArray[np.bool_]:
    """Mark the layers of one cell (layer, …) whose cell can't be computed."""
    refused, name = results.refusals(ds), str(cell["perturbation"].item())
    return np.array([(str(layer), name) in refused for layer in cell["layer"].values], bool)


def early_bounds(
    ds: xr.Dataset, metric: str, like: xr.DataArray, confidence: float
) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """Bounds of cells that a tolerance stopped, or that go on, and which cells these are.

    They are those that the sweep kept, of the mean over all examples, at its own confidence. An
    interval for a fixed number of examples would miss that mean more often than it says, where one
    looked again and again and stopped once it was narrow. Of a cell that saw all examples the sweep
    knows the mean, and only another test set could move it; such cells are not among them.

    Returns
    -------
    lower, upper : DataArray
        As `like`; NaN where `confidence` is higher than the sweep's.
    early : DataArray of bool
    """
    about = results.settings(ds)
    rule = about.get("stopping") or {}
    first, *_ = about.get("metrics") or map(str, ds["metric"].values)
    lower, upper, _ = xr.broadcast(
        *(part_of(ds, name, metric, like) for name in ("lower", "upper")), like
    )
    lower, upper = (bound.transpose(*like.dims) for bound in (lower, upper))
    early = (lower < upper) & like.notnull() & ((rule.get("metric") or first) == metric)
    enough = confidence <= rule.get("confidence", confidence)
    return lower.where(enough), upper.where(enough), early


def estimate_of(
    values: Array,
    lower: Array,
    upper: Array,
    early: xr.DataArray,
    broken: npt.NDArray[np.bool_],
    confidence: float,
) -> Estimate:
    """`estimate`, whose interval has a name of its own in the cells that were stopped early.

    Samples that are `broken` were computed, and are NaN; so is any mean that they are part of.
    """
    found = estimate(np.where(broken, np.inf, values), lower, upper, confidence)
    none = broken.any((-2, -1))
    numbers = {name: getattr(found, name) for name in ("value", "lower", "upper", "spread")}
    found = found._replace(**{name: np.where(none, np.nan, x) for name, x in numbers.items()})
    unseen = (found.kind == "examples") & early.any(("seed", "draw")).values
    return found._replace(kind=np.where(unseen, "unseen examples", found.kind))


def layer_order(ds: xr.Dataset, network: bool = True) -> list[str]:
    """List the layers as they stand in the Dataset, which is execution order, the network last.

    Parameters
    ----------
    ds : Dataset
    network : bool
        Whether to list the row in which every layer is perturbed at once.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from layerscope import testing
    >>> layer_order(testing.dataset(layers=2))
    ['layer1', 'layer2', 'fullmodel']
    """
    if "layer" not in getattr(ds, "coords", ()):
        raise ResultError(f"expected a Dataset with layers, got {describe(ds)} without.")
    whole = is_network(ds)
    names = [*ds["layer"].values[~whole], *(ds["layer"].values[whole] if network else ())]
    return [str(name) for name in names]


def _example_bounds(ds: xr.Dataset, value: xr.DataArray, confidence: float) -> xr.Dataset:
    """Bounds of the values of one metric, which keep their dimension ``metric``."""
    metric = str(value["metric"].values[0])
    error = part_of(ds, "standard_error", metric, value)
    half = normal_quantile(confidence) * error
    # Infinite perplexity has no standard error; inf − inf would warn on the way to NaN.
    with np.errstate(invalid="ignore"):
        bounds = xr.Dataset({"lower": value - half, "upper": value + half})
    if results.metric(ds, metric).logarithmic:
        with np.errstate(all="ignore"):  # what overflows is as good as infinite
            factor = np.exp(half / value)
        return xr.Dataset({"lower": value / factor, "upper": value * factor})
    if not results.metric(ds, metric).fraction_of:
        return bounds
    n = examples_of(ds, value)
    lower, upper = xr.apply_ufunc(
        wilson, value, n, kwargs={"confidence": confidence}, output_core_dims=[[], []]
    )
    # Of positions of sequences, which are no independent draws, the counts are not whole.
    counted = xr.apply_ufunc(is_whole, value * n) | error.isnull()
    return xr.Dataset({"lower": lower, "upper": upper}).where(counted, bounds)


def samples_of(ds: xr.Dataset, metric: str) -> xr.DataArray:
    """``value`` of one metric as (layer, epoch, perturbation, seed, draw), the network last."""
    value = results.require(ds, *_DIMS)
    choose(metric, map(str, ds["metric"].values), "metric")
    extra = [str(dim) for dim in value.dims if dim not in (*_DIMS, "seed")]
    if extra:
        raise ResultError(
            f"'value' also has the dimension {', '.join(extra)}; choose one: "
            f".sel({extra[0]}={ds[extra[0]].values.tolist()[0]!r})."
        )
    samples = with_seed(value.sel(metric=metric))
    samples = samples.transpose("layer", "epoch", "perturbation", "seed", "draw")
    return samples.sel(layer=layer_order(ds))


def marked_of(ds: xr.Dataset, metric: str, samples: xr.DataArray) -> xr.DataArray:
    """Mark `samples` that were computed and are not finite, or come from outputs that were not."""
    marked = with_seed(results.not_finite(ds).sel(metric=metric)).transpose(*samples.dims)
    return marked.sel(layer=samples["layer"].values)


def with_seed(array: xr.DataArray) -> xr.DataArray:
    """Give a single run the dimension that several have."""
    if "seed" in array.dims:
        return array
    return array.drop_vars("seed", errors="ignore").expand_dims(seed=[0])


def is_network(ds: xr.Dataset | xr.DataArray) -> npt.NDArray[np.bool_]:
    """Mark the rows that have every layer perturbed at once."""
    if "kind" in ds.coords:
        return np.asarray(ds["kind"].values == "network")
    return np.asarray(ds["layer"].values == results.FULL_MODEL)


def baseline_of(ds: xr.Dataset, metric: str, required: bool = False) -> xr.DataArray:
    """Look up the baseline, per seed where it differs; NaN where the Dataset has none."""
    if "baseline" not in ds and not required:
        return xr.DataArray(np.nan)
    baseline = results.require(ds, "metric", variable="baseline").sel(metric=metric, drop=True)
    # The baseline of a single run holds for the dimension seed that `samples_of` adds.
    return baseline if "seed" in baseline.dims else baseline.drop_vars("seed", errors="ignore")


def way_to_chance(ds: xr.Dataset, metric: str) -> float:
    """How much worse chance is than the trained network; NaN where it is not known."""
    info = results.metric(ds, metric)
    if info.by_chance(0.0) is None or "chance" not in ds or "baseline" not in ds:
        return float("nan")
    baseline = baseline_of(ds, metric)
    chance = info.by_chance(results.require(ds, variable="chance"))
    return float((info.worse * (chance - baseline)).mean())


def difference_of(
    ds: xr.Dataset, metric: str, samples: xr.DataArray, required: bool = False
) -> xr.DataArray:
    """`samples` minus the baseline, over the same examples where the Dataset tells."""
    apart = samples - baseline_of(ds, metric, required)
    paired = part_of(ds, "difference", metric, samples)
    return apart.where(samples.isnull() | paired.isnull(), paired).transpose(*samples.dims)


def examples_of(ds: xr.Dataset, like: xr.DataArray) -> xr.DataArray:
    """How many examples each part of ``value`` averages over; NaN where none, or unknown."""
    n = part_of(ds, "n_examples", "", like)
    return n.where(n > 0)


def part_of(ds: xr.Dataset, name: str, metric: str, like: xr.DataArray) -> xr.DataArray:
    """Look up what stands beside a part of ``value``, NaN where the Dataset has no such variable.

    Dimensions that the variable lacks are left to broadcasting.
    """
    if name not in ds:
        return xr.full_like(like, np.nan, dtype=float)
    found = ds[name].sel(metric=metric) if "metric" in ds[name].dims else ds[name]
    # Scalar coordinates, such as the seed of a run selected from several, hold for `like` as well.
    found = found.reset_coords(drop=True)
    return found.sel({dim: like[dim].values for dim in found.dims if dim in like.coords})
