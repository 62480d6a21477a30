"""Agreement of cheap measures with exact effects: how alike they rank the layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.errors import OptionError, ResultError, choose
from layerscope.stats._arrays import Array, check_confidence
from layerscope.stats._labelled import difference_of, layer_order, marked_of, samples_of
from layerscope.stats._verdicts import one_cell, same_cell

__all__ = ["agreement", "effects"]

_PIECE = 2**22


def agreement(
    ds: xr.Dataset,
    measures: str | Sequence[str] | None = None,
    metric: str | None = None,
    *,
    perturbation: str | None = None,
    epoch: int = 0,
    top: int = 5,
    outcomes: xr.Dataset | None = None,
    confidence: float = 0.95,
    repeats: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Tell whether measures of one pass rank the layers as the exact effects do.

    A measure of which low values are said to mark layers that matter (``ds.higher_matters``) counts
    with its sign turned, so that 1 is agreement for every one. The exact effect is how much worse
    the metric is with the layer perturbed, draws and seeds averaged; what was computed and is no
    number ranks as the worst. Layers without a measure or an effect, and the whole network, are
    left out: ``n_layers`` says how many are compared.

    Parameters
    ----------
    ds : Dataset
        With ``value``, ``baseline`` and ``measure_value``, as ``sweep(…, measures=[…])`` gives it.
    measures : str or sequence of str, optional
        Of ``ds.measure``; by default all.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    perturbation : str, optional
        One of ``ds.perturbation``; by default the first that puts a checkpoint back, or the first.
    epoch : int
        Checkpoint that the weights come from, where the perturbation takes one.
    top : int
        Number of layers for the overlap.
    outcomes : Dataset, optional
        What every example gave, from ``outcomes.nc`` of the same sweep (``outcomes=True``): then
        intervals over examples are given, too. Of a metric that is a function of a mean, as
        perplexity is, that mean ranks the layers.
    confidence : float
        In (0, 1).
    repeats : int
        How often layers, and examples, are drawn anew.
    seed : int
        Of these draws.

    Returns
    -------
    DataFrame
        One row per measure and statistic: ``measure``, ``statistic``, ``value``, ``n_layers``, and
        percentile intervals by the bootstrap:

        ``lower``, ``upper``
            Layers drawn with replacement: other layers like these. NaN for the overlap.
        ``lower_examples``, ``upper_examples``
            Examples drawn with replacement: another test set, for these layers and this measure.
            The measure's own chance is not in it. NaN without `outcomes`.

        Statistics are ``"spearman"`` (correlation of ranks, ties at their mean rank), ``"kendall"``
        (τ_b) and ``"top k overlap"``, the share of the k layers with the largest effect that are
        among the k largest by the measure; layers that tie at the end count in part. Chance gives
        0, 0 and k / n_layers. NaN below 3 layers, or where all values are the same.

    Raises
    ------
    ResultError
        If the Dataset lacks measures, a dimension or variable; or nothing was computed there.
    OptionError
        If there is no such measure, metric, perturbation or epoch.

    References
    ----------
    Kendall, M. G. (1945). The treatment of ties in ranking problems. Biometrika 33, 239–251.

    Examples
    --------
    >>> from layerscope import testing
    >>> ds = testing.dataset(layers=8)
    >>> cheap = ("layer", "measure"), ds.layer.str.len().values[:, None] + ds.depth.values[:, None]
    >>> ds = ds.assign(measure_value=cheap).assign_coords(measure=["depth"])
    >>> table = agreement(ds, repeats=100)
    >>> list(table.statistic), int(table.n_layers[0])
    (['spearman', 'kendall', 'top 5 overlap'], 8)
    """
    check_confidence(confidence)
    top, repeats = validate.integer(top, "top", 1, 5), validate.integer(repeats, "repeats", 1, 2000)
    names, seed = _names(ds, measures), validate.integer(seed, "seed", 0)
    rows = []
    for name in names:
        table = effects(ds, name, metric, perturbation=perturbation, epoch=epoch)
        cheap, exact = table["ranked"].to_numpy(float), table["effect"].to_numpy(float)
        found = _statistics(cheap, exact, top)
        layers = _over_layers(cheap, exact, top, repeats, seed)
        examples = (
            {}
            if outcomes is None
            else _over_examples(cheap, _per_example(ds, outcomes, table), top, repeats, seed)
        )
        for statistic, value in found.items():
            low, high = _percentiles(layers.get(statistic), confidence)
            least, most = _percentiles(examples.get(statistic), confidence)
            rows.append((name, statistic, value, low, high, least, most, len(table)))
    columns = ["measure", "statistic", "value", "lower", "upper"]
    columns += ["lower_examples", "upper_examples", "n_layers"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs |= {"metric": results.metric_name(ds, metric), "confidence": confidence}
    return frame


def effects(
    ds: xr.Dataset,
    measure: str,
    metric: str | None = None,
    *,
    perturbation: str | None = None,
    epoch: int = 0,
) -> pd.DataFrame:
    """Put a measure beside the exact effect, one row per layer that has both.

    Returns
    -------
    DataFrame
        ``layer``, ``measure`` (its value), ``ranked`` (the same, turned round where low values are
        said to matter), ``effect`` (above 0 is worse; infinite where it is no number). ``attrs``
        holds "metric", "perturbation" and "epoch".
    """
    info = results.measure(ds, measure)
    metric = results.metric_name(ds, metric)
    samples = samples_of(ds, metric)
    computed = samples.notnull() | marked_of(ds, metric, samples)
    cell = one_cell(samples, computed, epoch, results.perturbation_name(ds, perturbation))
    moved, known = (
        same_cell(each, cell)
        for each in (difference_of(ds, metric, samples, required=True), computed)
    )
    sign = results.metric(ds, metric).worse
    layers = layer_order(ds, network=False)
    worse = (sign * moved).where(~known | moved.notnull(), np.inf).mean(["draw", "seed"])
    cheap = ds["measure_value"].sel(measure=measure)
    value = cheap.mean([dim for dim in cheap.dims if dim != "layer"]).sel(layer=layers).values
    frame = pd.DataFrame({"layer": layers, "measure": value, "effect": worse.sel(layer=layers)})
    frame["ranked"] = frame["measure"] * (1 if info.higher_matters else -1)
    frame.attrs |= {
        "metric": metric,
        "perturbation": str(cell["perturbation"].item()),
        "epoch": int(cell["epoch"].item()),
    }
    return frame.dropna().reset_index(drop=True)


def _names(ds: xr.Dataset, wanted: str | Sequence[str] | None) -> list[str]:
    there = results.require(ds, "layer", "measure", variable="measure_value")["measure"].values
    known = [str(name) for name in there]
    if wanted is None:
        return known
    given = [wanted] if isinstance(wanted, str) else list(wanted)
    return [choose(name, known, "measure") for name in given]


def _statistics(cheap: Array, exact: Array, top: int) -> dict[str, float]:
    """Every statistic of one ranking by each."""
    both = _spearman(cheap[None], exact[None]), _kendall(cheap[None], exact[None])
    overlap = _overlap(cheap, exact[None], top)
    return dict(zip(_words(top), (float(each[0]) for each in (*both, overlap)), strict=True))


def _words(top: int) -> tuple[str, str, str]:
    return "spearman", "kendall", f"top {top} overlap"


def _over_layers(
    cheap: Array, exact: Array, top: int, repeats: int, seed: int
) -> Mapping[str, Array]:
    """Draw layers with replacement; a layer that is drawn twice ties with itself."""
    if len(cheap) < 3:
        return {}
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(cheap), size=(repeats, len(cheap)))
    spearman, kendall, _ = _words(top)
    return {
        spearman: _spearman(cheap[chosen], exact[chosen]),
        kendall: _kendall(cheap[chosen], exact[chosen]),
    }


def _over_examples(
    cheap: Array, parts: tuple[Array, Array], top: int, repeats: int, seed: int
) -> Mapping[str, Array]:
    """Draw examples with replacement; layers and measure stay."""
    moved, weights = parts
    rng = np.random.default_rng(seed)
    count = moved.shape[1]
    times = rng.multinomial(count, np.full(count, 1 / count), size=repeats).astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        exact = (times @ moved.T) / (times @ weights)[:, None]
    fixed = np.broadcast_to(cheap, exact.shape)
    found = _spearman(fixed, exact), _kendall(fixed, exact), _overlap(cheap, exact, top)
    return dict(zip(_words(top), found, strict=True))


def _per_example(ds: xr.Dataset, outcomes: xr.Dataset, table: pd.DataFrame) -> tuple[Array, Array]:
    """How much worse every example is, shape (layers, n), and what it counts, shape (n,)."""
    for name in ("outcome", "baseline_outcome", "weight"):
        results.require(outcomes, "metric", "example", variable=name)
    metric = choose(table.attrs["metric"], map(str, outcomes["metric"].values), "metric")
    at = outcomes.sel(metric=metric)
    here = (at["perturbation"] == table.attrs["perturbation"]) & (
        at["epoch"] == table.attrs["epoch"]
    )
    found = []
    for layer in table["layer"]:
        cells = at["outcome"].values[(here & (at["layer"] == layer)).values]
        if not len(cells):
            raise ResultError(
                f"outcomes hold nothing of {layer} under {table.attrs['perturbation']!r}; give "
                "those of the same sweep."
            )
        found.append(cells.mean(0) - at["baseline_outcome"].values)
    moved = results.metric(ds, metric).worse * np.asarray(found, float)
    weights = at["weight"].values.astype(float)
    if not np.isfinite(moved).all():
        raise OptionError(
            "some cells of these outcomes did not see all examples, or are not finite, so that no "
            "interval over examples can be given; leave outcomes= out."
        )
    return moved, weights


def _percentiles(drawn: Array | None, confidence: float) -> tuple[float, float]:
    known = np.empty(0) if drawn is None else drawn[np.isfinite(drawn)]
    # Draws of one and the same layer rank nothing; where they are many, so does the interval.
    if drawn is None or len(known) < 0.9 * len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _spearman(first: Array, second: Array) -> Array:
    """Correlation of ranks along the last axis, shape (…, n) each; NaN where nothing is ranked."""
    from scipy.stats import rankdata

    if first.shape[-1] < 3:
        return np.full(first.shape[0], np.nan)
    ranks = [rankdata(each, axis=-1) for each in (first, second)]
    a, b = (each - each.mean(-1, keepdims=True) for each in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1)))


def _kendall(first: Array, second: Array) -> Array:
    """Kendall's τ_b along the last axis; NaN where nothing is ranked."""
    if first.shape[-1] < 3:
        return np.full(first.shape[0], np.nan)
    found = []
    for a, b in zip(_pieces(first), _pieces(second), strict=True):
        x, y = (_order(each) for each in (a, b))
        with np.errstate(invalid="ignore", divide="ignore"):
            over = np.sqrt((x != 0).sum((-2, -1)) * (y != 0).sum((-2, -1)).astype(float))
            found.append((x * y).sum((-2, -1)) / over)
    return np.concatenate(found)


def _order(values: Array) -> npt.NDArray[np.int32]:
    """Say of every pair which is larger: −1, 0 or 1; infinite values tie with each other."""
    rows, columns = values[..., :, None], values[..., None, :]
    return (rows > columns).astype(np.int32) - (rows < columns).astype(np.int32)


def _pieces(values: Array) -> Iterator[Array]:
    at_once = max(1, _PIECE // values.shape[-1] ** 2)
    for start in range(0, len(values), at_once):
        yield values[start : start + at_once]


def _overlap(cheap: Array, exact: Array, top: int) -> Array:
    """Share of the largest effects, shape (…, n), that are among the largest by the measure."""
    if not len(cheap):
        return np.full(len(exact), np.nan)
    top = min(top, len(cheap))
    shared: Any = np.minimum(_membership(cheap[None], top), _membership(exact, top))
    return np.asarray(shared.sum(-1) / top)


def _membership(values: Array, top: int) -> Array:
    """How far each value is among the largest: 1, 0, or a share for those that tie at the end."""
    last = -np.sort(-values, axis=-1)[..., top - 1 : top]
    above, level = values > last, values == last
    room = top - above.sum(-1, keepdims=True)
    return np.asarray(above + level * room / level.sum(-1, keepdims=True))
