"""The path of a network that loses block after block, as a Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from layerscope import results, stats
from layerscope.core import perturb
from layerscope.errors import LayerError

__all__ = ["Step", "path_of"]

_COST = ("degradation", "lower", "upper")

_KEPT = (
    "layerscope", "torch", "platform", "threads", "arithmetic", "device", "dtype", "network",
    "weights", "checkpoints", "data", "output", "norms", "batch_size",
)  # fmt: skip
"""Attributes of a step's sweep that hold for the whole path."""

_DESCRIBED = {
    "step": ("number of blocks removed", "1"),
    "removed": ("block that the step removes, empty for the whole network", ""),
    "value": ("metric of the network without the blocks removed up to the step", "1"),
    "degradation": ("how much worse than the metric of the whole network, above 0 is worse", "1"),
    "lower": ("lower end of the 95 % interval of degradation, over examples", "1"),
    "upper": ("upper end of the 95 % interval of degradation, over examples", "1"),
    "candidate": ("metric of the network without the blocks removed before and this one", "1"),
}


_CELL = {"perturbation": perturb.skip().name, "epoch": results.NO_EPOCH, "draw": 0}


class Step(NamedTuple):
    """One block removed, and what all that might have been removed would have cost.

    Attributes
    ----------
    removed : str
        The block whose removal costs least.
    metric : str
        By which.
    cost : float
        Degradation of this metric from the whole network.
    tried : DataArray
        Metrics of the network without each block, (layer, metric).
    row : Dataset
        What the sweep says of the block removed, with the dimension ``layer``.
    """

    removed: str
    metric: str
    cost: float
    tried: xr.DataArray
    row: xr.Dataset

    @classmethod
    def of(cls, ds: xr.Dataset, metric: str | None) -> Step:
        """Choose among the rows of a sweep.

        Raises
        ------
        LayerError
            If there is a number for none of them.
        """
        by = results.metric_name(ds, metric)
        worse = stats.degradation(ds).sel(_CELL).sel(metric=by) * results.metric(ds, by).worse
        if worse.isnull().all():
            raise LayerError(
                "none of the blocks that are left can be removed: "
                f"{next(iter(results.refusals(ds).values()), f'{by} is no number without it')}."
            )
        best = str(worse.idxmin("layer").item())
        cost = float(worse.sel(layer=best))
        return cls(best, by, cost, ds["value"].sel(_CELL), ds.sel(layer=[best]))


def path_of(steps: Sequence[Step], names: Sequence[str], ds: xr.Dataset, ended: str) -> xr.Dataset:
    """Put steps into one Dataset.

    Parameters
    ----------
    steps : sequence of Step
    names : sequence of str
        Of all blocks, in their order.
    ds : Dataset
        The last sweep, which says what its metrics mean and how they were computed.
    ended : str
        Why there is no further step.
    """
    whole, metrics = ds["baseline"].values, [str(name) for name in ds["metric"].values]
    chosen = [each.tried.sel(layer=each.removed).values for each in steps]
    moved = np.concatenate([np.zeros((1, len(metrics), len(_COST))), _moved(steps, metrics)])
    variables = {
        "value": (("step", "metric"), np.stack([whole, *chosen])),
        "candidate": (("step", "layer", "metric"), _candidates(steps, names, metrics)),
        **{name: (("step", "metric"), moved[..., at]) for at, name in enumerate(_COST)},
    }
    meant = {name: held for name, held in ds.coords.items() if held.dims == ("metric",)}
    coords = {
        "step": np.arange(len(steps) + 1),
        "removed": ("step", ["", *(each.removed for each in steps)]),
        "layer": list(names),
        **{str(name): ("metric", held.values) for name, held in meant.items()},
    }
    about = {name: held for name, held in results.settings(ds).items() if name in _KEPT}
    return results.build(variables, coords, {**about, "ended": ended}, _DESCRIBED)


def _moved(steps: Sequence[Step], metrics: Sequence[str]) -> np.ndarray:
    """Degradation and its bounds, (step, metric, 3)."""
    if not steps:
        return np.empty((0, len(metrics), len(_COST)))
    rows = xr.concat(
        [each.row for each in steps], "layer", data_vars="minimal", coords="minimal",
        compat="override", join="outer", combine_attrs="override",
    )  # fmt: skip
    # The limits are of verdicts, which nobody asks for here.
    limits: dict[str, Any] = {"tolerance": 0.0, "critical": 1.0}
    tables = [
        stats.classify(rows, name, perturbation=perturb.skip().name, **limits) for name in metrics
    ]
    return np.stack([table[[*_COST]].to_numpy() for table in tables], axis=1)


def _candidates(steps: Sequence[Step], names: Sequence[str], metrics: Sequence[str]) -> np.ndarray:
    """Lay out what was tried, (step, layer, metric); nothing at step 0."""
    tried = [each.tried.reindex(layer=list(names)).sel(metric=list(metrics)) for each in steps]
    rows = [each.transpose("layer", "metric").values for each in tried]
    return np.stack([np.full((len(names), len(metrics)), np.nan), *rows])
