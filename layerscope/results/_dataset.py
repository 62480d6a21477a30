"""The Dataset: built and checked, and what its attributes say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from layerscope.base import validate
from layerscope.errors import ResultError

NO_EPOCH = -1
"""Stands in the ``epoch`` coordinate for weights that come from no checkpoint."""

FULL_MODEL = "fullmodel"
"""The row of ``layer`` in which every layer is perturbed at once."""

NOT_FINITE = "not finite"
"""The verdict of a layer whose degradation is no number."""

NOT_MOVED = "not moved"
"""The verdict of a layer that holds the same values at the first checkpoint and at the last."""

UNDECIDED = "undecided"
"""The verdict of a layer of which more would have to be known."""

AS_TRAINED = "equals the trained weights"
"""Why a layer that is put back to a checkpoint says nothing: it is the same there."""

REFUSED = "refused"
"""The verdict of a layer whose cell can't be computed, as `refusals` says."""

NOTHING_LEFT = "nothing would be left of the network"
"""Why the whole network can't be skipped."""

YOURS = "__yours__"
"""In the attribute ``call``, from this to a name: what only the user has, such as a function."""

SEED = "seed of the training run"

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
    "text_token": ("token that was to be predicted, in words", ""),
    "text_trained_loss": ("cross-entropy of the token, by the trained network", "nat"),
    "text_trained_prediction": ("likeliest token, by the trained network, in words", ""),
    "text_loss": ("cross-entropy of the token, without the row", "nat"),
    "text_prediction": ("likeliest token, without the row, in words", ""),
    "text": ("index of the example in the data", ""),
    "text_layer": ("row that texts are read without", ""),
    "scenario_state": ("what is done to each layer, as JSON", ""),
    "distance": ("distance of the layer's parameters from the first checkpoint", "1"),
    "draw_distance": ("distance of redrawn parameters from the first checkpoint", "1"),
    "layer": ("layer, by dotted name, in execution order", ""),
    "epoch": ("checkpoint the layer's weights come from", "epoch"),
    "perturbation": ("what is done to the layer", ""),
    "draw": ("index of the random draw", ""),
    "metric": ("what is measured", ""),
    "norm": ("how the distance is measured", ""),
    "seed": (SEED, ""),
    "task": ("data set that the network is evaluated on", ""),
    "model_epoch": ("checkpoint that counts as the trained network", "epoch"),
    "depth": ("index in execution order", ""),
    "kind": ("layer, or network for all layers at once", ""),
    "module_type": ("class of the module", ""),
    "moved": ("whether the layer changed from the first checkpoint to the last", ""),
    "doubt": ("why a layer put back to the checkpoint says nothing, empty if it does", ""),
    "parameters": ("number of parameters", "1"),
    "component": ("component that the layer lies in, empty for several", ""),
    "block": ("block that the layer lies in, empty for several", ""),
    "stage": ("stage that the layer lies in, empty for several", ""),
    "first_block": ("index of the first block of a range of whole blocks, else -1", ""),
    "n_blocks": ("number of blocks of a range of whole blocks, else 0", "1"),
    "initializer": ("where re-randomised values are drawn from", ""),
    "metric_long_name": ("what the metric is", ""),
    "metric_unit": ("unit of the metric", ""),
    "higher_is_better": ("whether the metric falls when a network gets worse", ""),
    "first_target": ("first target of every example that the metric is of, from 0 on", "1"),
    "last_target": ("last target of every example that the metric is of; −1: all", "1"),
    "metric_lower_bound": ("least value that an example can have", "1"),
    "metric_upper_bound": ("largest value that an example can have", "1"),
    "fraction_of": ("what the metric is a fraction of, empty if of nothing", ""),
    "logarithmic": ("whether values of the metric differ by factors", ""),
    "perturbation_label": ("what a layer is after the perturbation", ""),
    "perturbation_column": ("column of the perturbation in figures and tables", ""),
    "perturbation_sign": ("mark of a layer that was perturbed", ""),
    "stochastic": ("whether the perturbation draws random numbers", ""),
    "redraws": ("whether the perturbation draws a layer's values anew", ""),
    "measure_value": ("measure of the row, from one pass or its weights", "1"),
    "measure": ("what is measured in one pass, or of the weights alone", ""),
    "measure_long_name": ("what the measure is", ""),
    "measure_unit": ("unit of the measure", ""),
    "measure_lower_bound": ("least value that the measure can have", "1"),
    "measure_upper_bound": ("largest value that the measure can have", "1"),
    "measure_logarithmic": ("whether values of the measure differ by factors", ""),
    "higher_matters": ("whether high values are said to mark layers that matter", ""),
    "uses_checkpoint": ("whether the perturbation takes values from a checkpoint", ""),
    "towards": ("other values on the straight line to which the perturbation puts the layer", ""),
    "alpha": ("how far on that line: 0 at the trained values, 1 at the others", "1"),
}


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
        attrs={name: plain_attribute(value) for name, value in attrs.items()},
    )
    stamp(ds, map(str, ds.variables), described)
    if "epoch" in ds.coords and NO_EPOCH in ds["epoch"].values:
        ds["epoch"].attrs |= {"flag_values": NO_EPOCH, "flag_meanings": "from_no_checkpoint"}
    return ds


def stamp(
    ds: xr.Dataset, names: Iterable[str], described: Mapping[str, tuple[str, str]] | None = None
) -> None:
    """Write the long names and units of variables into their attributes."""
    for name in names:
        long_name, units = {**_DESCRIBED, **(described or {})}[name]
        ds[name].attrs |= {"long_name": long_name} | ({"units": units} if units else {})


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
            f"the Dataset has no variable {variable!r}; it has {listing(ds.data_vars)}. "
            "layerscope.sweep makes one that has."
        )
    missing = [dim for dim in dims if dim not in ds[variable].dims]
    if missing:
        raise ResultError(
            f"{variable!r} has dimensions {listing(ds[variable].dims)}, but not "
            f"{listing(missing)}. If one was selected away, keep it: .sel(name=[…])."
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
    every = (about, *each_run(about))
    kept = [each["refused"] for each in every if isinstance(each.get("refused"), dict)]
    # A perturbation that nothing could be done with has no cell; a layer's name may hold blanks.
    names = [str(name) for name in ds["layer"].values] if "layer" in ds.coords else []
    return {
        (name, key[len(name) + 1 :]): str(why)
        for reasons in kept
        for key, why in reasons.items()
        for name in names
        if key.startswith(f"{name} ")
    }


class Refusal(NamedTuple):
    """Layers to which one thing can't be done, for one reason."""

    perturbation: str
    why: str
    layers: tuple[str, ...]


def refusals_by_reason(ds: xr.Dataset) -> list[Refusal]:
    """Put cells together that can't be computed for one reason.

    Of the whole network something is always left out, which is never worth saying.

    Examples
    --------
    >>> from layerscope import testing
    >>> refused = '{"layer1 zero": "no weights", "layer2 zero": "no weights"}'
    >>> refusals_by_reason(testing.dataset().assign_attrs(refused=refused))
    [Refusal(perturbation='zero', why='no weights', layers=('layer1', 'layer2'))]
    """
    layers: dict[tuple[str, str], list[str]] = {}
    for (layer, perturbation), why in refusals(ds).items():
        if not (layer == FULL_MODEL and why == NOTHING_LEFT):
            layers.setdefault((perturbation, why), []).append(layer)
    return [Refusal(*reason, tuple(names)) for reason, names in layers.items()]


def each_run(about: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings of every run that a Dataset was joined of, however often it was joined."""
    runs = about.get("runs")
    for run in runs if isinstance(runs, list) else ():
        if isinstance(run, dict):
            yield run
            yield from each_run(run)


def plain_attribute(value: Any) -> str | int | float:
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
    except (ValueError, RecursionError):
        return value


def listing(names: Iterable[object]) -> str:
    return ", ".join(map(str, names)) or "none"
