"""What the metrics and perturbations of a Dataset mean: written here, and read here.

It stands in coordinates along ``metric`` and ``perturbation``, so that nobody who reads a Dataset
has to know their names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import xarray as xr

from layerscope.base.validate import describe
from layerscope.errors import OptionError, choose
from layerscope.results._dataset import NO_EPOCH, require

RAND = "rand"
"""The column of the paper's figure in which layers are re-randomised."""

RESET, REDRAWN = "reinitialize", "rerandomize"
"""What distances of checkpoints, and of fresh values where nothing else is said, belong to."""


@dataclass(frozen=True)
class MetricInfo:
    """What is known of a metric.

    Attributes
    ----------
    name, long_name : str
    unit : str
    higher_is_better : bool
    lower_bound, upper_bound : float
        Between which every example's value lies; NaN where that is not known.
    fraction_of : str
        What its mean is a fraction of: ``"errors"`` (of examples whose largest logit is not the
        target's), ``"hits"`` (whose largest is), ``"examples"`` (which are something else or
        not); empty where it is no fraction.
    logarithmic : bool
        Whether its values differ by factors rather than by sums, as exponentials do.
    """

    name: str
    long_name: str = ""
    unit: str = "1"
    higher_is_better: bool = False
    lower_bound: float = math.nan
    upper_bound: float = math.nan
    fraction_of: str = ""
    logarithmic: bool = False

    @property
    def worse(self) -> int:
        """The sign of a change for the worse."""
        return -1 if self.higher_is_better else 1

    def by_chance(self, error: Any) -> Any:
        """The value where the 0–1 error is `error`; None where it does not follow from that."""
        if self.fraction_of == "errors":
            return error
        return 1 - error if self.fraction_of == "hits" else None


@dataclass(frozen=True)
class PerturbationInfo:
    """What is known of a perturbation.

    Attributes
    ----------
    name : str
    label : str
        What a layer is after it, in words; ``{epoch}`` stands for the checkpoint. "perturbed by"
        and the name where nothing is said.
    column : str
        Its column in figures and tables, likewise; the name where nothing is said.
    sign : str
        A layer's mark in the explorer, one or two characters.
    stochastic, redraws, uses_checkpoint : bool
        As for `layerscope.perturb.Perturbation`.
    """

    name: str
    label: str = ""
    column: str = ""
    sign: str = ""
    stochastic: bool = False
    redraws: bool = False
    uses_checkpoint: bool = False

    def __post_init__(self) -> None:
        # Written out, for those who read the Dataset without this package.
        object.__setattr__(self, "label", self.label or f"perturbed by {self.name}")
        object.__setattr__(self, "column", self.column or self.name)

    @property
    def resets(self) -> bool:
        """Whether a checkpoint alone says what it does: whether it puts that back."""
        return self.column == "{epoch}"

    def words_at(self, epoch: int) -> str:
        """What a layer is after it, in words.

        Examples
        --------
        >>> perturbation(None, "reinitialize").words_at(3), perturbation(None, "x").words_at(3)
        ('reset to checkpoint 3', 'perturbed by x at checkpoint 3')
        """
        return _at(self.label, " at checkpoint ", epoch)

    def column_at(self, epoch: int) -> str:
        """The column of its cells at an epoch."""
        return _at(self.column, " ", epoch)


_Info = TypeVar("_Info", MetricInfo, PerturbationInfo)


def _at(text: str, before: str, epoch: int) -> str:
    if "{epoch}" in text:
        return text.replace("{epoch}", str(epoch))
    return text if epoch == NO_EPOCH else f"{text}{before}{epoch}"


_UNSAID_METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("error", lower_bound=0, upper_bound=1, fraction_of="errors"),
        MetricInfo("accuracy", "", "1", True, 0, 1, "hits"),
        MetricInfo("perplexity", logarithmic=True),
        MetricInfo("agreement", "", "1", True, 0, 1, "examples"),
        MetricInfo("cosine", "", "1", True, 0, 1),
    )
}
_TOP = MetricInfo("", lower_bound=0, upper_bound=1, fraction_of="examples")

_UNSAID_PERTURBATIONS: Mapping[str, PerturbationInfo] = {
    info.name: info
    for info in (
        PerturbationInfo(RESET, "reset to checkpoint {epoch}", "{epoch}", uses_checkpoint=True),
        PerturbationInfo(REDRAWN, "re-randomised", RAND, "R", stochastic=True, redraws=True),
        PerturbationInfo("zero", "set to zero", sign="0"),
        PerturbationInfo("skip", "skipped", sign="–"),
    )
}
"""Of the names that Datasets without these coordinates have: those of earlier versions, which kept
this in lists of names, and those made by hand. Whatever is not here is written by the sweep."""


_METRIC = {
    "metric_long_name": "long_name",
    "metric_unit": "unit",
    "higher_is_better": "higher_is_better",
    "metric_lower_bound": "lower_bound",
    "metric_upper_bound": "upper_bound",
    "fraction_of": "fraction_of",
    "logarithmic": "logarithmic",
}
_PERTURBATION = {
    "perturbation_label": "label",
    "perturbation_column": "column",
    "perturbation_sign": "sign",
    "stochastic": "stochastic",
    "redraws": "redraws",
    "uses_checkpoint": "uses_checkpoint",
}
"""From the name of a coordinate to that of what it holds."""


def coordinates(
    metrics: Iterable[MetricInfo] = (), perturbations: Iterable[PerturbationInfo] = ()
) -> dict[str, tuple[str, list[Any]]]:
    """Write what is known as coordinates along ``metric`` and ``perturbation``, in that order."""
    return {
        coordinate: (dim, [getattr(info, held) for info in infos])
        for dim, infos, names in (
            ("metric", list(metrics), _METRIC),
            ("perturbation", list(perturbations), _PERTURBATION),
        )
        for coordinate, held in names.items()
        if infos
    }


def default_metric(metrics: Iterable[MetricInfo]) -> str:
    """Name the metric to look at where nobody says which: the first error, else the first."""
    infos = list(metrics)
    return next((info.name for info in infos if info.fraction_of == "errors"), infos[0].name)


def metric_name(runs: xr.Dataset | Iterable[xr.Dataset], wanted: Any = None) -> str:
    """Name the metric to look at: the wanted one, else the first error, else the first.

    Parameters
    ----------
    runs : Dataset or iterable of Dataset
        Of several, all must have it.
    wanted : str or Metric, optional

    Raises
    ------
    ResultError
        If one is no Dataset, or has no metrics.
    OptionError
        If not all have it, or they have none in common.

    Examples
    --------
    >>> from layerscope import testing
    >>> ds = testing.dataset()
    >>> metric_name(ds), metric_name(ds.sel(metric=["loss"]))
    ('error', 'loss')
    """
    each = [runs] if isinstance(runs, xr.Dataset) or not isinstance(runs, Iterable) else list(runs)
    there = [[str(name) for name in require(ds, "metric")["metric"].values] for ds in each]
    shared = [name for name in there[0] if all(name in names for names in there)]
    if wanted is not None:
        name = wanted if isinstance(wanted, str) else getattr(wanted, "name", None)
        if not isinstance(name, str):
            came = describe(wanted)
            raise OptionError(f"metric is {came}; give its name: {', '.join(shared)}.")
        return choose(name, shared, "metric in all of these results" if there[1:] else "metric")
    if not shared:
        raise OptionError("these results have no metric in common; look at them one by one.")
    return default_metric(metric(each[0], name) for name in shared)


def metric(ds: xr.Dataset | None, name: str) -> MetricInfo:
    """Read what a Dataset says of a metric, or what goes by its name where it says nothing.

    Examples
    --------
    >>> from layerscope import testing
    >>> metric(testing.dataset(), "error").fraction_of
    'errors'
    >>> ds = testing.dataset().assign_coords(higher_is_better=("metric", [True, False]))
    >>> metric(ds, "error").worse
    -1
    """
    top = re.fullmatch(r"top[0-9]+_error", name)
    unsaid = replace(_TOP, name=name) if top else _UNSAID_METRICS.get(name, MetricInfo(name))
    return _read(ds, "metric", unsaid, _METRIC)


def perturbation(ds: xr.Dataset | None, name: str) -> PerturbationInfo:
    """Read what a Dataset says of a perturbation, or what goes by its name where it says nothing.

    Examples
    --------
    >>> from layerscope import testing
    >>> perturbation(testing.dataset(), "rerandomize").label
    're-randomised'
    """
    unsaid = _UNSAID_PERTURBATIONS.get(name, PerturbationInfo(name))
    return _read(ds, "perturbation", unsaid, _PERTURBATION)


def perturbation_name(ds: xr.Dataset, wanted: str | None = None) -> str:
    """Name the perturbation to look at: the wanted one, else the first that resets, else the first.

    Raises
    ------
    ResultError
        If the Dataset has no perturbations.
    OptionError
        If there is no such perturbation.

    Examples
    --------
    >>> from layerscope import testing
    >>> perturbation_name(testing.dataset())
    'reinitialize'
    """
    names = [str(name) for name in require(ds, "perturbation")["perturbation"].values]
    if wanted is not None:
        return choose(wanted, names, "perturbation")
    return next(iter(resets(ds)), names[0])


def resets(ds: xr.Dataset) -> list[str]:
    """List the perturbations that put a checkpoint back."""
    return [info.name for info in _perturbations(ds) if info.resets]


def redraws(ds: xr.Dataset) -> list[str]:
    """List the perturbations that draw a layer anew, from its own initialiser first."""
    infos = [info for info in _perturbations(ds) if info.redraws]
    return [info.name for info in sorted(infos, key=lambda info: info.column != RAND)]


def _perturbations(ds: xr.Dataset) -> list[PerturbationInfo]:
    return [perturbation(ds, str(name)) for name in ds["perturbation"].values.ravel()]


def draw_distance(ds: xr.Dataset) -> xr.DataArray:
    """Read how far redrawn layers are, with the dimension that earlier versions left out."""
    found = require(ds, "layer", "draw", "norm", variable="draw_distance")
    return found if "perturbation" in found.dims else found.expand_dims(perturbation=[REDRAWN])


def _read(ds: xr.Dataset | None, dim: str, info: _Info, names: Mapping[str, str]) -> _Info:
    if ds is None or dim not in ds.coords or info.name not in ds[dim]:
        return info
    said = {held: ds[coordinate] for coordinate, held in names.items() if coordinate in ds.coords}
    found = {
        held: (each.sel({dim: info.name}) if dim in each.dims else each).item()
        for held, each in said.items()
    }
    if isinstance(info, PerturbationInfo) and not said:
        found = _seen(ds, info.name)
    return replace(info, **found)


def _seen(ds: xr.Dataset, name: str) -> dict[str, bool]:
    """Tell from where there are values whether a perturbation draws, and uses checkpoints."""
    if not {"perturbation", "epoch", "draw"} <= set(ds.get("value", ds).dims):
        return {}
    known = ds["value"].sel(perturbation=name).notnull()
    draws = known.any([dim for dim in known.dims if dim != "draw"])
    epochs = known.any([dim for dim in known.dims if dim != "epoch"])
    return {
        "stochastic": bool(draws.isel(draw=slice(1, None)).any()),
        "uses_checkpoint": bool(epochs.where(epochs["epoch"] != NO_EPOCH, False).any()),
    }
