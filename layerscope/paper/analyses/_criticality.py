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

from layerscope.base import validate
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
    bisections: int = 0,
    epsilon: float | None = None,
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
    bisections : int
        How often the step of σ across which a layer's error exceeds `epsilon` is halved, on a
        logarithmic scale: on steps of a factor of 3 the criticality is found up to a factor of 9,
        after three times up to 1.3.
    epsilon : float, optional
        As in `criticality`.
    seed : int
    **sweep
        Further options of the sweep, such as ``view="block"`` or ``batch_size``.

    Returns
    -------
    Dataset
        ``error``, ``error_standard_error`` and ``n_draws`` (layer, alpha, sigma), NaN and 0 where
        a halved step was another layer's; ``squared_distance`` (layer); ``baseline``. ``attrs``
        holds ``within``, and ``reached``, the largest standard error that is left.

    Raises
    ------
    OptionError
        If α, σ or a number of draws is outside its range.
    """
    _check(alphas, sigmas, within, draws, most)
    validate.integer(bisections, "bisections", 0, 3)
    model = layers_.require_network(model)
    series = checkpoints_.open_series(checkpoints).fit(model)
    wanted = sweep.pop("layers", None)
    how = (within, draws, most, seed)
    points = _Points(model, train, series, wanted, how, {**sweep, "checkpoints": series})
    points.measure(None, [(a, s) for a in alphas for s in sigmas])
    distance = _squared_distance(model, series, {**sweep, "layers": wanted})
    limit = _limit(points.baseline, epsilon)
    for _ in range(bisections):
        for layer in distance:
            points.measure([layer], _halved(points.of(layer), limit))
    grid = _as_dataset(points.found, distance, alphas)
    return grid.assign_attrs(within=within, baseline=points.baseline)


class _Points:
    """Errors at points (α, σ) of layers, draw by draw.

    Parameters
    ----------
    model, train, series
    wanted
        Layers, as `layerscope.sweep` takes them.
    how : (float, int, int, int)
        Standard error to be reached, draws at a time and in all, seed.
    sweep : mapping
        Further options.

    Attributes
    ----------
    found : dict
        By layer, α and σ the error of each draw.
    baseline : float
        Error of the trained network.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        series: Series,
        wanted: Any,
        how: tuple[float, int, int, int],
        sweep: Mapping[str, Any],
    ) -> None:
        self._model, self._train, self._start = model, train, series.epochs[0]
        self._wanted, self._how, self._sweep = wanted, how, dict(sweep)
        self.found: dict[_Key, list[float]] = {}
        self.baseline = math.nan

    def measure(self, layers: Sequence[str] | None, points: Sequence[tuple[float, float]]) -> None:
        """Measure points of some layers, or of all, until their errors are known well enough."""
        within, draws, most, seed = self._how
        for number in range(math.ceil(most / draws)):
            if not points:
                return
            ds = engine.sweep(
                self._model,
                self._train,
                layers=self._rows(layers),
                whole=False,
                # By name: to describe functions takes longer than a small network's cells.
                perturbations=[_point(*point) for point in points],
                metrics=["error"],
                epochs=[self._start],
                draws=min(draws, most - number * draws),
                seed=seed + number,
                **self._sweep,
            )
            self.baseline = float(ds["baseline"].sel(metric="error"))
            values = ds["value"].sel(metric="error", epoch=self._start)
            _add(self.found, values, points, within)
            swept = set(map(str, values["layer"].values))
            left = [k for k, v in self.found.items() if k[0] in swept and _error(v) > within]
            left = [key for key in left if key[1:] in points]
            layers = list(dict.fromkeys(key[0] for key in left))
            points = list(dict.fromkeys(key[1:] for key in left))

    def of(self, layer: str) -> dict[tuple[float, float], float]:
        """Mean error at the points of a layer."""
        return {k[1:]: float(np.mean(v)) for k, v in self.found.items() if k[0] == layer}

    def _rows(self, layers: Sequence[str] | None) -> Any:
        if layers is None:
            return self._wanted
        named = isinstance(self._wanted, Mapping)
        return {name: self._wanted[name] for name in layers} if named else list(layers)


def _halved(errors: Mapping[tuple[float, float], float], limit: float) -> list[tuple[float, float]]:
    """Halve the step to the first σ that is not allowed, for every α that may be the best."""
    allowed = {point for point, error in errors.items() if error <= limit}
    best = min((a**2 / s**2 for a, s in allowed), default=math.inf)
    found = []
    for alpha in dict.fromkeys(a for a, _ in errors):
        sigmas = sorted(s for a, s in errors if a == alpha)
        # As in the minimum: the largest that is allowed, whatever noise made of smaller ones.
        held = [s for s in sigmas if (alpha, s) in allowed]
        above = [s for s in sigmas if not held or s > held[-1]]
        if held and above and alpha**2 / above[0] ** 2 < best:
            found.append((alpha, math.sqrt(held[-1] * above[0])))
    return found


def _limit(baseline: float, epsilon: float | None) -> float:
    """Training error allowed: by default the trained network's and one point more."""
    return baseline + 0.01 if epsilon is None else epsilon


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
        ``criticality`` (layer), ``at_alpha`` and ``at_sigma`` (layer) where it is reached, NaN
        where no point of the grid is allowed and the criticality infinite; ``lower`` and ``upper``
        (layer), the same with every error two standard errors lower or higher; ``at_edge``
        (layer), where it is reached at the least or largest σ, so that it is no more than a bound;
        and ``network``, ``network_lower`` and ``network_upper``, the sums.
    """
    limit = _limit(float(grid.attrs["baseline"]), epsilon)
    held = grid.transpose("layer", "alpha", "sigma")
    error, apart = held["error"].values, 2 * held["error_standard_error"].values
    alphas, sigmas = grid["alpha"].values, grid["sigma"].values
    value, lower, upper = (
        module_criticality(each, grid["squared_distance"].values, list(alphas), list(sigmas), limit)
        for each in (error, error - apart, error + apart)
    )
    place = value[1]
    there = place[:, 0] >= 0
    edge = np.isin(place[:, 1], (0, len(sigmas) - 1)) & there
    found = {"criticality": value[0], "lower": lower[0], "upper": upper[0]}
    return xr.Dataset(
        {
            **{name: ("layer", each) for name, each in found.items()},
            "at_alpha": ("layer", np.where(there, alphas[place[:, 0]], np.nan)),
            "at_sigma": ("layer", np.where(there, sigmas[place[:, 1]], np.nan)),
            # At α = 0 it is 0 for any σ, and no other could be less.
            "at_edge": ("layer", edge & (value[0] > 0)),
            "network": ((), value[0].sum()),
            "network_lower": ((), lower[0].sum()),
            "network_upper": ((), upper[0].sum()),
        },
        coords={"layer": grid["layer"].values},
        attrs={"epsilon": limit},
    )


def _point(alpha: float, sigma: float) -> str:
    # The package's interpolation goes from the trained network to the checkpoint.
    return perturb.interpolate(1 - alpha).then(perturb.noise(sigma)).name


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
                cell = values.sel(layer=layer, perturbation=_point(*point))
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
) -> xr.Dataset:
    sigmas = sorted({sigma for _, _, sigma in found})
    shape = len(distance), len(alphas), len(sigmas)
    error, apart = np.full(shape, np.nan), np.full(shape, np.nan)
    count = np.zeros(shape, np.int64)
    for at in np.ndindex(shape):
        row, alpha, sigma = list(distance)[at[0]], alphas[at[1]], sigmas[at[2]]
        if values := found.get((row, alpha, sigma)):
            error[at], apart[at], count[at] = np.mean(values), _error(values), len(values)
    dims = ("layer", "alpha", "sigma")
    grid = xr.Dataset(
        {
            "error": (dims, error),
            "error_standard_error": (dims, apart),
            "n_draws": (dims, count),
            "squared_distance": ("layer", list(distance.values())),
        },
        coords={"layer": list(distance), "alpha": list(alphas), "sigma": sigmas},
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
