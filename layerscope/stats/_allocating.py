"""Allocation of a total among layers, by how much each matters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.errors import OptionError, ResultError
from layerscope.stats._arrays import Array
from layerscope.stats._verdicts import classify

__all__ = ["allocation"]


def allocation(
    scores: xr.Dataset | xr.DataArray | pd.Series | Mapping[str, float],
    total: float,
    *,
    parameters: Mapping[str, int] | None = None,
    spread: float = 0.1,
    rising: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
    metric: str | None = None,
    perturbation: str | None = None,
) -> pd.DataFrame:
    """Share out a sparsity, or a learning rate, among layers by how much each matters.

    Scores are mapped linearly to a band of width ``2 · spread`` and moved as a whole until the
    mean, weighted by numbers of parameters, is exactly `total`; what falls outside of `bounds` is
    put on them, and the others make up for it. With ``s`` the score that was scaled to [0, 1], a
    layer gets::

        value = clip(shift + 2 · spread · (s if rising else 1 − s), *bounds)

    Parameters
    ----------
    scores : Dataset, DataArray, Series or mapping
        How much each layer matters. Of a sweep's Dataset it is the degradation of each row, that
        below 0 counted as 0, and where there are rows of one block each, of these alone; of
        anything else the values by layer, such as shares of outliers or spectral exponents.
    total : float
        The mean over parameters that comes out: the sparsity of the whole, say, or 1 where values
        are factors of a learning rate.
    parameters : mapping of str to int, optional
        Numbers of parameters by layer; by default as the Dataset says, else all alike.
    spread : float
        How far a layer may be from the middle of the band, 0 for all alike.
    rising : bool
        Give more to what matters more, as to learning rates; else less, as to sparsities.
    bounds : pair of float
        What no layer gets less or more than.
    metric, perturbation : str, optional
        Of a Dataset, as for `classify`.

    Returns
    -------
    DataFrame
        ``layer``, ``score``, ``parameters``, ``value``, in the order that came.

    Raises
    ------
    OptionError
        If `total` is out of `bounds`, or the scores are no numbers.
    ResultError
        If a Dataset has no layers with numbers of parameters.

    References
    ----------
    Yin et al., "Outlier weighed layerwise sparsity" (OWL), ICML 2024: a band of sparsities around
    the total, falling with a layer's share of outliers. Lu et al., "AlphaPruning", NeurIPS 2024:
    the same, rising with the spectral exponent of its weights (``rising=True``).

    Examples
    --------
    >>> table = allocation({"a": 3.0, "b": 1.0, "c": 2.0}, 0.5, parameters={"a": 1, "b": 1, "c": 2})
    >>> [round(value, 3) for value in table.value]
    [0.4, 0.6, 0.5]
    """
    least, most = bounds
    validate.number(total, "total", "(-inf, inf)", 0.5)
    width = 2 * validate.number(spread, "spread", "[0, inf)", 0.1)
    if not least <= total <= most:
        raise OptionError(f"total is {total}, out of bounds={bounds}; no layers have such a mean.")
    table = _table(scores, parameters, metric, perturbation)
    score, weight = table["score"].to_numpy(float), table["parameters"].to_numpy(float)
    if not np.isfinite(score).all() or (weight < 0).any() or not weight.sum():
        odd = ", ".join(table["layer"][~np.isfinite(score)]) or "parameters"
        raise OptionError(f"{odd} has no finite score; leave it out, or say what it is to get.")
    span = np.ptp(score)
    scaled = (score - score.min()) / span if span else np.full(len(score), 0.5)
    wish = width * (scaled if rising else 1 - scaled)
    return table.assign(value=_shifted(wish, weight / weight.sum(), total, (least, most)))


def _table(
    scores: xr.Dataset | xr.DataArray | pd.Series | Mapping[str, float],
    parameters: Mapping[str, int] | None,
    metric: str | None,
    perturbation: str | None,
) -> pd.DataFrame:
    known = parameters
    if isinstance(scores, xr.Dataset):
        if "n_blocks" in scores.coords and (scores["n_blocks"] == 1).any():
            scores = scores.isel(layer=(scores["n_blocks"] == 1).values)
        found = classify(scores, metric, critical=1e300, perturbation=perturbation)
        table = pd.DataFrame({"layer": found["layer"], "score": found["degradation"].clip(lower=0)})
    else:
        if isinstance(scores, xr.DataArray):
            results.require(scores.to_dataset(name="score"), "layer", variable="score")
            scores = scores.to_series()
        series = pd.Series(scores, dtype=float)
        table = pd.DataFrame({"layer": list(map(str, series.index)), "score": series.to_numpy()})
    if table.empty:
        raise ResultError("there are no layers to share out among.")
    if known is None and isinstance(scores, xr.Dataset):
        known = dict(zip(scores["layer"].values, scores["parameters"].values.tolist(), strict=True))
    if known is not None and (absent := [n for n in table["layer"] if n not in known]):
        raise OptionError(
            f"parameters lacks {', '.join(absent[:5])}; give a number for each layer."
        )
    return table.assign(parameters=[1 if known is None else known[n] for n in table["layer"]])


def _shifted(wish: Array, share: Array, total: float, bounds: tuple[float, float]) -> Array:
    """Move all by one number so that the weighted mean is right, those at a bound left there.

    The mean rises with the number, in a line between the numbers where a layer meets a bound: the
    right number lies between two of them, and is found there without searching.
    """
    meets = np.unique(np.concatenate([bound - wish for bound in bounds]))
    means = np.array([float(np.clip(wish + at, *bounds) @ share) for at in meets])
    after = int(np.clip(np.searchsorted(means, total), 1, len(meets) - 1))
    before = after - 1
    rise = means[after] - means[before]
    part = (total - means[before]) / rise if rise else 0.0
    value: Array = np.clip(wish + meets[before] + part * (meets[after] - meets[before]), *bounds)
    # What rounding left is given to those that are at no bound.
    free = (value > bounds[0]) & (value < bounds[1])
    if free.any():
        value[free] += (total - float(value @ share)) / float(share[free].sum())
    return value
