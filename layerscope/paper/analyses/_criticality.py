"""Module and network criticality (Chatterji, Neyshabur and Sedghi, ICLR 2020).

For a module with initial weights θ⁰ and trained weights θᵀ, on the way θ(α) = (1 − α) θ⁰ + α θᵀ
with noise N(0, σ² I) added to its parameters and to no others:

    μ_ε = min over α in [0, 1] and σ > 0 of α² ‖θᵀ − θ⁰‖²_F / σ²
          such that the expected 0–1 error on the training data is at most ε

and the network's criticality is the sum over its modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from torch import nn

from layerscope.core import checkpoints as checkpoints_, layers as layers_, perturb, sweep as engine
from layerscope.core.checkpoints import Series
from layerscope.errors import OptionError

__all__ = ["ALPHAS", "SIGMAS", "criticality", "criticality_grid", "module_criticality"]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIGMAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

Array = npt.NDArray[np.float64]
_Key = tuple[str, float, float]


def module_criticality(
    error: npt.ArrayLike,
    squared_distance: npt.ArrayLike,
    alphas: Sequence[float],
    sigmas: Sequence[float],
    epsilon: float,
) -> tuple[Array, npt.NDArray[np.intp]]:
    """Minimise over the grid.

    Parameters
    ----------
    error : array_like
        Expected training error, shape ``(layers, alphas, sigmas)``; NaN where it is not known.
    squared_distance : array_like
        ‖θᵀ − θ⁰‖²_F of each layer, shape ``(layers,)``.
    alphas, sigmas : sequence of float
    epsilon : float
        Training error allowed, a fraction in [0, 1].

    Returns
    -------
    criticality : ndarray
        Shape ``(layers,)``; infinite where no point of the grid is allowed.
    place : ndarray
        Indices of alpha and sigma, shape ``(layers, 2)``; −1 where there is none.

    Examples
    --------
    >>> error = [[[0.0, 0.5], [0.0, 0.0]]]
    >>> module_criticality(error, [4.0], (0.5, 1.0), (1.0, 2.0), epsilon=0.1)
    (array([1.]), array([[0, 0]]))
    """
    cost = np.asarray(alphas, float)[:, None] ** 2 / np.asarray(sigmas, float) ** 2
    values = np.asarray(squared_distance, float)[:, None, None] * cost
    values = np.where(np.asarray(error, float) <= epsilon, values, np.inf)
    flat = values.reshape(len(values), -1)
    best = flat.argmin(1)
    least = flat[np.arange(len(flat)), best]
    place = np.stack(np.unravel_index(best, cost.shape), -1)
    place[np.isinf(least)] = -1
    return least, place


def criticality_grid(
    model: nn.Module,
    train: Any,
    *,
    checkpoints: Any,
    alphas: Sequence[float] = ALPHAS,
    sigmas: Sequence[float] = SIGMAS,
    within: float = 0.01,
    draws: int = 4,
    most: int = 64,
    seed: int = 0,
    **sweep: Any,
) -> xr.Dataset:
    """Estimate the expected training error over α × σ for every layer, to a stated error.

    Every cell gets `draws` draws of the noise; those whose standard error over draws is above
    `within` then get as many again, until none is or a cell has `most`.

    Parameters
    ----------
    model, checkpoints
        As `layerscope.sweep` takes them; the first checkpoint is θ⁰.
    train : data
        Training data, or a fixed part of them.
    alphas, sigmas : sequence of float
        Values of α in [0, 1], and of σ in the unit of the parameters, above 0.
    within : float
        Standard error to be reached, a fraction.
    draws, most : int
        At least 2 draws, and at most `most` in a cell.
    seed : int
    **sweep
        Further options of the sweep, such as ``view="block"`` or ``batch_size``.

    Returns
    -------
    Dataset
        ``error``, ``error_standard_error`` and ``n_draws`` (layer, alpha, sigma);
        ``squared_distance`` (layer); ``baseline``. ``attrs`` holds ``within``, and ``reached``,
        the largest standard error that is left.

    Raises
    ------
    OptionError
        If α, σ or a number of draws is outside its range.
    """
    _check(alphas, sigmas, within, draws, most)
    model = layers_.require_network(model)
    series = checkpoints_.open_series(checkpoints).fit(model)
    start, wanted = series.epochs[0], sweep.pop("layers", None)
    points = [(a, s) for a in alphas for s in sigmas]
    rows, found, base = wanted, dict[_Key, list[float]](), math.nan
    for number in range(math.ceil(most / draws)):
        ds = engine.sweep(
            model,
            train,
            checkpoints=series,
            layers=rows,
            whole=False,
            perturbations=[_point(*point) for point in points],
            metrics=["error"],
            epochs=[start],
            draws=min(draws, most - number * draws),
            seed=seed + number,
            **sweep,
        )
        base = float(ds["baseline"].sel(metric="error"))
        _add(found, ds["value"].sel(metric="error", epoch=start), points, within)
        left = [key for key, values in found.items() if _error(values) > within]
        if not left:
            break
        names = dict.fromkeys(key[0] for key in left)
        rows = {n: wanted[n] for n in names} if isinstance(wanted, Mapping) else list(names)
        points = list(dict.fromkeys(key[1:] for key in left))
    distance = _squared_distance(model, series, {**sweep, "layers": wanted})
    return _as_dataset(found, distance, alphas, sigmas).assign_attrs(within=within, baseline=base)


def criticality(grid: xr.Dataset, epsilon: float | None = None) -> xr.Dataset:
    """Module criticality of every layer, and the network's.

    Parameters
    ----------
    grid : Dataset
        As `criticality_grid` makes it.
    epsilon : float, optional
        Training error allowed; by default the trained network's and one point more.

    Returns
    -------
    Dataset
        ``criticality`` (layer), ``alpha`` and ``sigma`` (layer) where it is reached, NaN where no
        point of the grid is allowed and the criticality infinite; ``network``, the sum.
    """
    limit = float(grid.attrs["baseline"]) + 0.01 if epsilon is None else epsilon
    error = grid["error"].transpose("layer", "alpha", "sigma").values
    alphas, sigmas = grid["alpha"].values, grid["sigma"].values
    value, place = module_criticality(
        error, grid["squared_distance"].values, list(alphas), list(sigmas), limit
    )
    there = place[:, 0] >= 0
    return xr.Dataset(
        {
            "criticality": ("layer", value),
            "at_alpha": ("layer", np.where(there, alphas[place[:, 0]], np.nan)),
            "at_sigma": ("layer", np.where(there, sigmas[place[:, 1]], np.nan)),
            "network": ((), value.sum()),
        },
        coords={"layer": grid["layer"].values},
        attrs={"epsilon": limit},
    )


def _point(alpha: float, sigma: float) -> perturb.Perturbation:
    # The package's interpolation goes from the trained network to the checkpoint.
    return perturb.interpolate(1 - alpha).then(perturb.noise(sigma))


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _add(
    found: dict[_Key, list[float]],
    values: xr.DataArray,
    points: Sequence[tuple[float, float]],
    within: float,
) -> None:
    """Add a round's draws to the cells that need them: whole rows are swept, not single cells."""
    for layer in map(str, values["layer"].values):
        for point in points:
            known = found.setdefault((layer, *point), [])
            if len(known) < 2 or _error(known) > within:
                cell = values.sel(layer=layer, perturbation=_point(*point).name)
                known.extend(cell.values.ravel().tolist())


def _squared_distance(
    model: nn.Module, series: Series, sweep: Mapping[str, Any]
) -> dict[str, float]:
    """‖θᵀ − θ⁰‖²_F of the rows that were swept."""
    options = {name: sweep[name] for name in ("view", "norms") if name in sweep}
    rows = layers_.find(model, wanted=sweep["layers"], **options)
    first, last = (series.read(epoch) for epoch in (series.epochs[0], series.last))
    return {
        row.name: sum(
            float((last[name].double() - first[name].double()).square().sum())
            for name in row.parameters
        )
        for row in rows
    }


def _as_dataset(
    found: Mapping[_Key, Sequence[float]],
    distance: Mapping[str, float],
    alphas: Sequence[float],
    sigmas: Sequence[float],
) -> xr.Dataset:
    keys = [[[found[row, a, s] for s in sigmas] for a in alphas] for row in distance]
    dims = ("layer", "alpha", "sigma")
    grid = xr.Dataset(
        {
            "error": (dims, [[[np.mean(x) for x in b] for b in a] for a in keys]),
            "error_standard_error": (dims, [[[_error(x) for x in b] for b in a] for a in keys]),
            "n_draws": (dims, [[[len(x) for x in b] for b in a] for a in keys]),
            "squared_distance": ("layer", list(distance.values())),
        },
        coords={"layer": list(distance), "alpha": list(alphas), "sigma": list(sigmas)},
    )
    return grid.assign_attrs(reached=float(grid["error_standard_error"].max()))


def _check(
    alphas: Sequence[float], sigmas: Sequence[float], within: float, draws: int, most: int
) -> None:
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas):
        raise OptionError(f"alphas is {alphas!r}; give numbers in [0, 1].")
    if not sigmas or not all(sigma > 0 for sigma in sigmas):
        raise OptionError(f"sigmas is {sigmas!r}; give numbers above 0.")
    if draws < 2 or most < draws:
        raise OptionError(f"draws is {draws} and most {most}; give 2 or more, and no fewer.")
    if not within > 0:
        raise OptionError(f"within is {within!r}; give a standard error above 0, such as 0.01.")
