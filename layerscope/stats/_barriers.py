"""Barriers on the straight line between a layer of one network and that of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.errors import ResultError, choose
from layerscope.stats._arrays import Array, check_confidence, normal_quantile, student
from layerscope.stats._labelled import difference_of, is_network, part_of, samples_of

__all__ = ["barrier", "line"]

ENDS = ("networks", "path")


def line(ds: xr.Dataset, metric: str | None = None) -> pd.DataFrame:
    """List how much worse a network is with a layer on the way to that of another network.

    Parameters
    ----------
    ds : Dataset
        Of perturbations that say how far on the way they put a layer (``ds.alpha``, towards
        ``ds.towards``), as `perturb.blend` and `perturb.interpolate` do.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.

    Returns
    -------
    DataFrame
        ``layer``, ``towards``, ``epoch``, ``alpha`` and ``degradation`` (mean over draws and
        seeds; above 0 is worse), with a row for every layer at alpha 0, where it is exactly as
        trained; ``first_block`` and ``n_blocks`` where the Dataset says them.

    Raises
    ------
    ResultError
        If no perturbation is on such a line.

    Examples
    --------
    >>> from layerscope import testing
    >>> line(testing.dataset(layers=1)).query("layer == 'layer1' and epoch == 0").alpha.tolist()
    [0.0, 1.0]
    """
    paths = _paths(ds, results.metric_name(ds, metric))
    frames = [
        pd.DataFrame(
            {
                "layer": path.layer,
                "towards": path.towards,
                "epoch": path.epoch,
                "alpha": path.alphas,
                "degradation": path.worse.mean(0),
            }
        )
        for path in paths
    ]
    return _with_blocks(ds, pd.concat(frames, ignore_index=True))


def barrier(
    ds: xr.Dataset,
    metric: str | None = None,
    *,
    ends: str = "networks",
    outcomes: xr.Dataset | None = None,
    confidence: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Find how high the barrier is between a layer of one network and that of another.

    With ``L(α)`` the loss of network A whose layer is at ``(1 − α) A + α B``, the barrier is the
    largest excess over the straight line between the losses of the two ends, over the values of α
    that were swept and the ends::

        max over α of  L(α) − ((1 − α) L(A) + α L(end))

    So it is 0 where nothing on the way is worse than the ends make expect, and never below.

    No permutation of units is looked for. Two networks trained independently hold their units in
    different orders, and a barrier between them may be due to that alone.

    Parameters
    ----------
    ds : Dataset
        As for `line`. Rows of ranges that grow from one end (`layers.cumulative`) give the
        cumulative barriers.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured. Where
        higher is better, the barrier is how far it falls below the line.
    ends : {"networks", "path"}
        What α = 1 stands for: the whole other network, whose loss is that of the row of the whole
        network at α = 1; or A with nothing but this layer of B, the other end of the path itself.
    outcomes : Dataset, optional
        What every example gave, of the same sweep (``outcomes=True``): then the interval covers
        another sample of examples, what each gave at every α kept together.
    confidence : float
        In (0, 1).
    repeats, seed : int
        Of the bootstrap over examples.

    Returns
    -------
    DataFrame
        ``layer``, ``towards``, ``epoch``, ``barrier``, ``at`` (the α where it is), ``lower``,
        ``upper``, ``interval_kind``, and ``first_block`` and ``n_blocks`` where the Dataset says
        them. The interval is, of these, the first that there is data for: Student's t over
        "seeds" or "draws", of each one's own barrier; the bias-corrected bootstrap over "examples"
        of `outcomes`, in which α is sought anew each time; a normal one for "examples" at the α
        found, from the standard errors of the differences, added as if they went together. The last
        is wide, and leaves out that α was sought.

    Raises
    ------
    ResultError
        If no perturbation is on such a line, or the end of the line was not swept.
    OptionError
        If an argument has a value that is not allowed.

    References
    ----------
    Frankle, Dziugaite, Roy and Carbin, "Linear mode connectivity and the lottery ticket
    hypothesis", ICML 2020; layer by layer: Adilova, Andriushchenko, Kamp, Fischer and Jaggi,
    "Layer-wise linear mode connectivity", ICLR 2024.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = barrier(testing.dataset(layers=1), ends="path")
    >>> bool((found.barrier == 0).all())  # one step from end to end has nothing in between
    True
    """
    check_confidence(confidence)
    repeats, seed = validate.integer(repeats, "repeats", 1, 2000), validate.integer(seed, "seed")
    choose(ends, ENDS, "kind of ends")
    name = results.metric_name(ds, metric)
    rows, paths = [], _paths(ds, name)
    whole = {(each.towards, each.epoch): each for each in paths if each.layer in _networks(ds)}
    for path in paths:
        other = path if ends == "path" else _whole(whole, path)
        excess = _excess(path, other, ends)
        each = excess.max(1)
        at = int(excess.mean(0).argmax())
        low, high, kind = _interval(ds, name, path, other, outcomes, (confidence, repeats, seed))
        rows.append(
            {
                "layer": path.layer,
                "towards": path.towards,
                "epoch": path.epoch,
                "barrier": float(each.mean()),
                "at": float(path.alphas[at]),
                "lower": low,
                "upper": high,
                "interval_kind": kind,
            }
        )
    return _with_blocks(ds, pd.DataFrame(rows))


class _Path(NamedTuple):
    """A row's way to another network: cells by rising alpha, and how much worse they are.

    ``worse`` and ``errors`` have the shape (samples, alphas), the first alpha being 0.
    """

    layer: str
    towards: str
    epoch: int
    names: list[str]
    alphas: Array
    worse: Array
    errors: Array
    kind: str


def _paths(ds: xr.Dataset, metric: str) -> list[_Path]:
    samples = samples_of(ds, metric)
    sign = results.metric(ds, metric).worse
    worse = sign * difference_of(ds, metric, samples, required=True)
    errors = part_of(ds, "difference_standard_error", metric, samples).broadcast_like(samples)
    errors = errors.transpose(*samples.dims)
    infos = [results.perturbation(ds, str(name)) for name in samples["perturbation"].values]
    found: list[_Path] = []
    for towards in dict.fromkeys(info.towards for info in infos if info.towards):
        on_it = sorted((i for i in infos if i.towards == towards), key=lambda info: info.alpha)
        steps = {info.name: info.alpha for info in on_it if info.alpha}
        part, error = (each.sel(perturbation=list(steps)) for each in (worse, errors))
        for epoch in part["epoch"].values:
            for layer in part["layer"].values:
                at = {"layer": layer, "epoch": epoch}
                if bool(part.sel(at).notnull().any()):
                    where = str(layer), towards, int(epoch)
                    found.append(_path(where, steps, part.sel(at), error.sel(at)))
    if not found:
        raise ResultError(
            "no perturbation of this Dataset is on the way to another network; sweep "
            "[perturb.blend(other, alpha) for alpha in (0.25, 0.5, 0.75, 1.0)]."
        )
    return found


def _path(
    where: tuple[str, str, int],
    steps: Mapping[str, float],
    worse: xr.DataArray,
    errors: xr.DataArray,
) -> _Path:
    arrays = [
        each.transpose("seed", "draw", "perturbation").values.reshape(-1, len(steps))
        for each in (worse, errors)
    ]
    known = ~np.isnan(arrays[0]).all(1)
    start = np.zeros((int(known.sum()), 1))
    moved, spread = (np.concatenate([start, each[known]], 1) for each in arrays)
    kind = "seeds" if worse.sizes["seed"] > 1 else "draws"
    alphas = np.array([0.0, *steps.values()])
    return _Path(*where, list(steps), alphas, moved, spread, kind)


def _networks(ds: xr.Dataset) -> list[str]:
    return [str(name) for name in ds["layer"].values[is_network(ds)]]


def _whole(whole: Mapping[tuple[str, int], _Path], path: _Path) -> _Path:
    """Find the way of the whole network to the same other one."""
    if (path.towards, path.epoch) not in whole:
        raise ResultError(
            "what the other network gives by itself is not in this Dataset; sweep with whole=True, "
            "or compare with the other end of each layer's own way: ends='path'."
        )
    return whole[path.towards, path.epoch]


def _end(other: _Path) -> int:
    """Place of the end of the line among a path's cells."""
    at = np.flatnonzero(other.alphas == 1)
    if not len(at):
        raise ResultError(
            f"the end of the line to {other.towards} was not swept; add alpha = 1: "
            "perturb.blend(other, 1.0) or perturb.exchange(other)."
        )
    return int(at[0])


def _excess(path: _Path, other: _Path, ends: str) -> Array:
    """How far each cell lies above the straight line between the ends, (samples, alphas)."""
    end = other.worse[:, _end(other)]
    if len(end) != len(path.worse):
        end = np.full(len(path.worse), end.mean())
    excess: Array = path.worse - path.alphas * end[:, None]
    # The ends are on the line, whatever rounding says, and what lies outside is not between them.
    excess[:, (path.alphas == 0) | ((path.alphas == 1) & (ends == "path"))] = 0.0
    return np.where((path.alphas < 0) | (path.alphas > 1), -np.inf, excess)


def _interval(
    ds: xr.Dataset,
    metric: str,
    path: _Path,
    other: _Path,
    outcomes: xr.Dataset | None,
    how: tuple[float, int, int],
) -> tuple[float, float, str]:
    ends = "path" if path is other else "networks"
    excess = _excess(path, other, ends)
    if len(excess) > 1:
        _, low, high = student(excess.max(1), confidence=how[0])
        return float(low), float(high), path.kind
    if outcomes is not None:
        sums = _sums(outcomes, metric, path, other, results.metric(ds, metric).worse)
        return (*_bootstrap(sums, path, ends, how), "examples")
    at = int(excess[0].argmax())
    if not excess[0, at]:
        # Only that nothing on the way is worse: of how far from it nothing is known.
        return 0.0, np.nan, "examples"
    spread = path.errors[0, at] + path.alphas[at] * other.errors[0, _end(other)]
    reach = normal_quantile(how[0]) * spread
    return max(0.0, float(excess[0, at] - reach)), float(excess[0, at] + reach), "examples"


def _sums(
    outcomes: xr.Dataset, metric: str, path: _Path, other: _Path, sign: int
) -> tuple[Array, Array, Array]:
    """Read what every example gave: (alphas, n) on the path, (n,) at the end, and its weights."""
    found = results.require(outcomes, "cell", "metric", "example", variable="outcome")
    choose(metric, map(str, found["metric"].values), "metric with outcomes")
    outcome = found.sel(metric=metric)

    def of(layer: str, name: str) -> Array:
        at = (outcome["layer"] == layer) & (outcome["perturbation"] == name)
        at = at & (outcome["epoch"] == path.epoch)
        if not at.any():
            raise ResultError(f"the outcomes have no cell of {layer} under {name}.")
        return np.asarray(outcome.isel(cell=int(np.flatnonzero(at.values)[0])).values, float)

    trained = np.asarray(outcomes["baseline_outcome"].sel(metric=metric).values, float)
    weight = np.asarray(outcomes["weight"].sel(metric=metric).values, float)
    cells = [trained, *(of(path.layer, name) for name in path.names)]
    end = of(other.layer, other.names[_end(other) - 1])
    return sign * (np.stack(cells) - trained), sign * (end - trained), weight


def _bootstrap(
    sums: tuple[Array, Array, Array], path: _Path, ends: str, how: tuple[float, int, int]
) -> tuple[float, float]:
    """Bounds of a barrier over examples: the bias-corrected percentiles."""
    from scipy.stats import norm

    confidence, repeats, seed = how
    cells, end, weight = sums
    chance = np.random.default_rng(seed)
    count = len(weight)

    def height(times: Array) -> float:
        total = float(weight @ times)
        worse, last = cells @ times / total, float(end @ times) / total
        one = path._replace(worse=worse[None], errors=worse[None])
        other = path._replace(worse=np.array([[last]]), alphas=np.array([1.0]))
        return float(_excess(one, other, ends).max())

    even = np.ones(count)
    drawn = np.array(
        [height(chance.multinomial(count, even / count).astype(float)) for _ in range(repeats)]
    )
    found = height(even)
    below = np.mean(drawn < found) + np.mean(drawn == found) / 2
    shift = 2 * norm.ppf(np.clip(below, 0.5 / repeats, 1 - 0.5 / repeats))
    half = normal_quantile(confidence)
    low, high = np.quantile(drawn, norm.cdf([shift - half, shift + half]))
    return float(low), float(high)


def _with_blocks(ds: xr.Dataset, table: pd.DataFrame) -> pd.DataFrame:
    for name in ("first_block", "n_blocks"):
        if name in ds.coords:
            said: Mapping[Any, Any] = dict(zip(ds["layer"].values, ds[name].values, strict=True))
            table[name] = table["layer"].map(said).astype(int)
    return table
