"""A search for as many layers as can be perturbed together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr
from torch import nn

from layerscope import results, stats
from layerscope.core import sweep as engine
from layerscope.errors import LayerError, OptionError

__all__ = ["LargestSet", "largest_set"]

_OURS = ("layers", "whole", "perturbations", "metrics", "epochs")


@dataclass(frozen=True)
class LargestSet:
    """Result of a greedy search.

    Attributes
    ----------
    rows : tuple of str
        That can be perturbed together within the tolerance, in the order they were added.
    steps : DataFrame
        One row per step: ``size``, ``added``, ``degradation`` of the best set of that size,
        ``kept`` (whether it is within the tolerance), ``cells`` evaluated for it.
    cells : int
        Evaluations in all, one for each set that was tried and each draw.
    seconds : float
    """

    rows: tuple[str, ...]
    steps: pd.DataFrame
    cells: int
    seconds: float


def largest_set(
    model: nn.Module,
    data: Any,
    *,
    checkpoints: Any,
    rows: Sequence[str],
    tolerance: float = 0.05,
    metric: str = "error",
    perturbation: str = "reinitialize",
    epoch: int = 0,
    **sweep: Any,
) -> LargestSet:
    """Search greedily for the largest set of rows that can be perturbed together.

    Beginning with none, the row is added whose addition hurts least, as long as the degradation
    stays within the tolerance. With L rows this takes at most L (L + 1) / 2 evaluations instead of
    the 2^L of trying every set, and may miss a larger one.

    Parameters
    ----------
    model, data, checkpoints
        As `layerscope.sweep` takes them.
    rows : sequence of str
        To choose among.
    tolerance : float
        Degradation allowed, in the metric's unit.
    metric, perturbation : str
    epoch : int
    **sweep
        Further options of the sweep, such as ``view="block"``.

    Raises
    ------
    LayerError
        If there are no rows.
    OptionError
        If an option is one that the search sets itself.

    Examples
    --------
    >>> import torch
    >>> from layerscope import models
    >>> net, start = models.build("fcn-1x8", inputs=(4,), classes=2), models.build("fcn-1x8",
    ...     seed=1, inputs=(4,), classes=2)
    >>> pair = torch.randn(6, 4), torch.zeros(6, dtype=torch.long)
    >>> found = largest_set(net, pair, checkpoints={0: start.state_dict(), 5: net.state_dict()},
    ...     rows=["layer1", "layer2"], tolerance=1.0, show_progress=False)
    >>> len(found.rows), found.cells
    (2, 3)
    """
    if not rows:
        raise LayerError("rows is empty; name the layers to choose among.")
    if taken := [name for name in sweep if name in _OURS]:
        raise OptionError(f"{taken[0]}= is set by the search itself; leave it out.")
    chosen: list[str] = []
    steps: list[dict[str, Any]] = []
    seconds = 0.0
    while len(chosen) < len(rows):
        groups = {row: [*chosen, row] for row in rows if row not in chosen}
        ds = engine.sweep(
            model,
            data,
            checkpoints=checkpoints,
            layers=groups,
            whole=False,
            perturbations=[perturbation],
            metrics=[metric],
            epochs=[epoch],
            **sweep,
        )
        seconds += float(ds.attrs["wall_time_s"])
        best, worse = _least(ds, metric)
        kept = worse <= tolerance
        cells = int(ds["value"].notnull().sum())
        steps.append(
            {"size": len(chosen) + 1, "added": best, "degradation": worse, "kept": kept}
            | {"cells": cells}
        )
        if not kept:
            break
        chosen.append(best)
    table = pd.DataFrame(steps)
    return LargestSet(tuple(chosen), table, int(table["cells"].sum()), round(seconds, 3))


def _least(ds: xr.Dataset, metric: str) -> tuple[str, float]:
    """The row that hurts least, and how much; the first of equal ones."""
    moved = stats.degradation(ds).sel(metric=metric)
    worse = results.metric(ds, metric).worse * moved.mean(
        [dim for dim in moved.dims if dim != "layer"]
    )
    best = str(worse["layer"].values[int(worse.argmin("layer"))])
    return best, float(worse.sel(layer=best))
