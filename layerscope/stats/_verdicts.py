"""Verdicts: robust or critical layers, and whether they are those that moved furthest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.errors import OptionError, ResultError, choose
from layerscope.results import AS_TRAINED, NOT_FINITE, NOT_MOVED, REFUSED, UNDECIDED
from layerscope.stats._arrays import Array, Estimate, normal_quantile
from layerscope.stats._bounds import difference_bounds
from layerscope.stats._crossed import check_dims, outcomes_of, resampled_half_width
from layerscope.stats._labelled import (
    difference_of,
    estimate_of,
    is_network,
    is_refused,
    layer_order,
    marked_of,
    samples_of,
    way_to_chance,
    with_seed,
)
from layerscope.stats._simultaneous import CORRECTIONS, step_down


def classify(
    ds: xr.Dataset,
    metric: str | None = None,
    *,
    tolerance: float = 0.05,
    critical_share: float = 0.25,
    critical: float | None = None,
    confidence: float = 0.95,
    correction: str = "holm",
    resample_dim: str | Sequence[str] | None = None,
    outcomes: xr.Dataset | Mapping[int, xr.Dataset] | None = None,
    epoch: int = 0,
    perturbation: str | None = None,
    include_network: bool = False,
) -> pd.DataFrame:
    """Judge layers to be robust or critical.

    A layer is

    - *robust* if the whole interval of its degradation lies at or below `tolerance`,
    - *critical* if the whole interval lies at or above `critical`, which is
      ``critical_share × (chance − baseline)`` unless given,
    - *intermediate* if the whole interval lies strictly between the two,
    - *not moved* if it was set back to a checkpoint at which it holds the same values as at the
      last, as a frozen layer does: its degradation of 0 says nothing of it,
    - *refused* if the sweep could not compute it, as `results.refusals` tells why: it is none of
      the layers that were judged,
    - *not finite* if its degradation was computed and is no number, as the loss of a network that
      outputs NaN; where it is infinite in every draw and seed, it is critical,
    - *undecided* otherwise: more examples, draws or seeds would tell. So is a layer that was not
      computed, one whose interval is unknown, and one that was set back to a checkpoint with which
      the audit of the series found fault: ``ds.doubt`` says why. Where `critical` is not above
      `tolerance`, as in a network that is hardly better than chance, only an interval beyond both
      is decided.

    The paper gives no numbers; these limits are defaults of this package.

    The interval is Student's t over seeds with at least two of them (of each seed's degradation,
    draws averaged), else Student's t over at least two draws, else over examples. There it is
    `paired_proportions` for fractions and the normal one of paired differences otherwise; where
    the Dataset does not tell how examples differ, it is `newcombe` and the normal one of a
    difference of independent means (conservative, since both networks see the same examples). Of a
    cell that a sweep with ``tolerance=`` stopped early, the sweep's own bounds count, less those of
    the baseline, which is as little known if every cell stopped; at a higher confidence than the
    sweep's they are unknown, as for many layers at once: sweep with a higher one. Over draws and
    seeds it does not cover the choice of the test set, which they share.

    Verdicts hold for all layers at once, so that of all of them any is wrong in at most
    ``1 − confidence`` of cases: each of m layers is judged at ``1 − (1 − confidence) / m``, and
    layers that are decided leave the others more room (Holm 1979). The whole network is no layer,
    and judged by itself.

    Parameters
    ----------
    ds : Dataset
        With ``value``, ``baseline``, and ``chance`` where `critical` is not given; for the paired
        interval ``difference``, ``difference_standard_error`` and ``n_examples``.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    tolerance : float
        Degradation that counts as none, in the metric's unit.
    critical_share : float
        Share of the way from baseline to chance, in (0, 1].
    critical : float, optional
        Degradation from which a layer is critical, in the metric's unit. Needed for metrics whose
        value by chance is not known: all but those that are fractions of errors or of hits.
    confidence : float
        In (0, 1): of each interval, and that all verdicts together are right.
    correction : {"holm", "bonferroni", "none"}
        How the verdicts on several layers are kept right together. "none" judges each layer as if
        it were the only one: of 10, 50 and 160 layers at the limit one or more is then wrongly
        called robust in 24, 72 and 98 % of cases (``benchmarks/coverage.py``).
    resample_dim : str or sequence of str, optional
        Kinds of chance that intervals cover: "seed", "draw" and "example", crossed, since all runs
        share one test set (`crossed`); draws of several seeds are nested in them. A layer with a
        single one of what is resampled is undecided. By default the widest that there is data
        for, as told above.
    outcomes : Dataset or mapping of int to Dataset, optional
        What every example gave, from ``outcomes.nc`` of the same sweep (``outcomes=True``), by
        seed where there are several. Without, all the chance of examples counts as common to
        seeds and draws, so that intervals over both are at most too wide.
    epoch : int
        Checkpoint that the weights come from; without effect for a perturbation that takes
        nothing from a checkpoint.
    perturbation : str, optional
        One of ``ds.perturbation``; by default the first that puts a checkpoint back, or the first.
    include_network : bool
        Keep the row of the whole network, too.

    Returns
    -------
    DataFrame
        One row per layer; above 0 is worse for every metric here:

        ``layer``, ``degradation``, ``lower``, ``upper``, ``interval_kind``
            Bounds are of each layer by itself.
        ``verdict_lower``, ``verdict_upper``, ``verdict``
            Bounds that the verdict was reached with, for all layers at once; they are wider.
        ``share``, ``share_lower``, ``share_upper``
            The degradation as a share of the way from the trained network to chance, to be compared
            between networks and metrics; NaN where chance is not known.

        ``attrs`` holds the limits "tolerance" and "critical", the "confidence" and "correction",
        and of how many "layers" how many could be computed, "judged"; "doubt" goes from layers to
        why they tell nothing at this checkpoint.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or nothing was computed there.
    OptionError
        If there is no such metric, epoch or perturbation, or no limit for "critical".

    Examples
    --------
    >>> from layerscope import testing
    >>> table = classify(testing.dataset(layers=2), critical_share=0.5)
    >>> dict(zip(table.layer, table.verdict, strict=True))
    {'layer1': 'critical', 'layer2': 'intermediate'}
    """
    metric = results.metric_name(ds, metric)
    judged = cell_at(ds, metric, epoch, perturbation, resample_dim, outcomes)
    choose(correction, CORRECTIONS, "correction")
    validate.number(tolerance, "tolerance", "(-inf, inf)", 0.05)
    way = way_to_chance(ds, metric)
    limit = (
        critical_limit(ds, metric, way, critical_share)
        if critical is None
        else (validate.number(critical, "critical", "(-inf, inf)", 0.25))
    )
    cell, found = judged.cell, judged.estimate(confidence)
    network = is_network(cell)
    scale = way if way > 0 else np.nan
    low, high, verdict = judged.judge(judged.words(), tolerance, limit, confidence, correction)
    frame = pd.DataFrame(
        {
            "layer": [str(name) for name in cell["layer"].values],
            "degradation": found.value,
            "lower": found.lower,
            "upper": found.upper,
            "interval_kind": found.kind,
            "verdict_lower": low,
            "verdict_upper": high,
            "share": found.value / scale,
            "share_lower": found.lower / scale,
            "share_upper": found.upper / scale,
            "verdict": verdict,
        }
    )
    kept = frame[np.ones(len(frame), bool) if include_network else ~network]
    kept = kept.reset_index(drop=True)
    names = zip(map(str, cell["layer"].values), map(str, _doubts(cell)), strict=True)
    kept.attrs |= {
        "tolerance": float(tolerance),
        "critical": float(limit),
        "confidence": float(confidence),
        "correction": correction,
        "doubt": {name: why for name, why in names if why},
        "layers": len(kept),
        "judged": int((kept["verdict"] != REFUSED).sum()),
    }
    return kept


def rank_correlation(
    ds: xr.Dataset, norm: str = "l2_fan_in", metric: str | None = None
) -> xr.Dataset:
    """Tell whether the layers that moved furthest matter most.

    Spearman's rank correlation over layers, the whole network left out, between the distance at
    the last checkpoint and the degradation when a layer is put back to epoch 0. A degradation that
    was computed and is no number ranks as the worst.

    Parameters
    ----------
    ds : Dataset
        With ``value``, ``baseline`` and ``distance``.
    norm : str
        One of ``ds.norm``.
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.

    Returns
    -------
    Dataset
        ``correlation`` in [−1, 1], with the dimension ``seed`` where `ds` has it, and its
        ``mean``; ``n_layers``, those that count: a layer whose cell can't be computed does not.
        NaN below 3 layers, and where all values are the same.

    Raises
    ------
    ResultError
        If the Dataset lacks a dimension or variable, or nothing was computed there.
    OptionError
        If there is no such norm or metric.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = rank_correlation(testing.dataset(layers=8))
    >>> bool(-1 <= found.correlation <= 1), int(found.n_layers)
    (True, 8)
    """
    metric = results.metric_name(ds, metric)
    samples = samples_of(ds, metric)
    moved = difference_of(ds, metric, samples, required=True)
    computed = samples.notnull() | marked_of(ds, metric, samples)
    cell = one_cell(samples, computed, 0, results.perturbation_name(ds))
    moved, computed = same_cell(moved, cell), same_cell(computed, cell)
    sign = results.metric(ds, metric).worse
    layers = layer_order(ds, network=False)
    # What is no number is as bad as can be, not left out.
    worse = (sign * moved).where(~computed | moved.notnull(), np.inf).mean("draw")
    # A checkpoint of another run tells neither how far a layer moved nor how much that matters.
    doubt = xr.DataArray(_doubts(cell), {"layer": cell["layer"].values}, dims="layer")
    worse = worse.where(doubt.isin(["", AS_TRAINED])).sel(layer=layers)
    kept = results.require(ds, "layer", "epoch", "norm", variable="distance")
    choose(norm, map(str, ds["norm"].values), "norm")
    distance = with_seed(kept.sel(norm=norm, epoch=int(ds["epoch"].max()), layer=layers))
    pairs = [
        _spearman(worse.sel(seed=seed).values, distance.sel(seed=seed).values)
        for seed in worse["seed"].values
    ]
    correlation = xr.DataArray(pairs, {"seed": worse["seed"].values}, dims="seed")
    mean = correlation.mean("seed")
    return xr.Dataset(
        {
            "correlation": correlation if "seed" in ds.dims else mean,
            "mean": mean,
            "n_layers": int(worse.notnull().any("seed").sum()),
        },
        attrs={"norm": norm, "metric": metric},
    )


def one_cell(
    samples: xr.DataArray, computed: xr.DataArray, epoch: int, perturbation: str
) -> xr.DataArray:
    """(layer, seed, draw) at one epoch and perturbation, if anything was computed there."""
    chosen = samples.sel(perturbation=perturbation)
    known = computed.sel(perturbation=perturbation)
    done = [int(each) for each in known["epoch"].values if known.sel(epoch=each).any()]
    if done == [results.NO_EPOCH]:
        epoch = results.NO_EPOCH
    if epoch not in done:
        raise ResultError(
            f"{perturbation!r} was not computed at epoch {epoch}; it was at "
            f"{', '.join(map(str, done)) or 'none'}. Choose one of these with epoch=."
        )
    return chosen.sel(epoch=epoch)


def same_cell(array: xr.DataArray, cell: xr.DataArray) -> xr.DataArray:
    """(layer, seed, draw) at the epoch and perturbation that `one_cell` chose."""
    return array.sel({name: cell[name].item() for name in ("epoch", "perturbation")})


def cell_at(
    ds: xr.Dataset,
    metric: str,
    epoch: int,
    perturbation: str | None,
    resample_dim: str | Sequence[str] | None = None,
    outcomes: xr.Dataset | Mapping[int, xr.Dataset] | None = None,
) -> _Cell:
    """One cell per layer, as `classify` judges it."""
    samples = samples_of(ds, metric)
    computed = samples.notnull() | marked_of(ds, metric, samples)
    cell = one_cell(samples, computed, epoch, results.perturbation_name(ds, perturbation))
    moved = same_cell(difference_of(ds, metric, samples, required=True), cell)
    each = outcomes_of(outcomes, cell, metric)
    dims = check_dims(resample_dim)
    return _Cell(ds, metric, cell, moved, same_cell(computed, cell), dims, each)


@dataclass(frozen=True)
class _Cell:
    """One cell per layer, and how much worse it is, (layer, seed, draw) each."""

    ds: xr.Dataset
    metric: str
    cell: xr.DataArray
    moved: xr.DataArray
    computed: xr.DataArray
    dims: tuple[str, ...] = ()
    outcomes: Array | None = None
    kept: dict[float, tuple[Array, Array]] = field(default_factory=dict)

    def estimate(self, confidence: float) -> Estimate:
        """Mean degradation of each layer, above 0 for worse, with bounds."""
        lower, upper, early = difference_bounds(
            self.ds, self.metric, self.cell, self.moved, confidence
        )
        sign = results.metric(self.ds, self.metric).worse
        arrays = (sign * self.moved, *((lower, upper) if sign > 0 else (-upper, -lower)))
        worse, low, high = (array.transpose("layer", "seed", "draw").values for array in arrays)
        found = estimate_of(worse, low, high, early, self.broken, confidence)
        if not self.dims:
            return found
        errors = (high - low) / (2 * normal_quantile(confidence))
        half = resampled_half_width(worse, errors, self.outcomes, self.dims, confidence)
        # Of what is infinite throughout nothing is unknown.
        half = np.where(np.isinf(found.value) & np.isinf(found.lower), 0.0, half)
        kind = np.full(found.kind.shape, " and ".join(f"{name}s" for name in self.dims))
        return found._replace(lower=found.value - half, upper=found.value + half, kind=kind)

    def bounds(self, confidence: float) -> tuple[Array, Array]:
        if confidence not in self.kept:
            found = self.estimate(confidence)
            self.kept[confidence] = found.lower, found.upper
        return self.kept[confidence]

    def judge(
        self,
        known: npt.NDArray[np.str_],
        tolerance: float,
        limit: float,
        confidence: float,
        correction: str,
    ) -> tuple[Array, Array, npt.NDArray[np.str_]]:
        """Bounds of all layers at once, and the verdicts that they give beside `words`."""
        low, high = step_down(
            self.bounds,
            lambda lower, upper: _verdicts(lower, upper, tolerance, limit) != UNDECIDED,
            ~is_network(self.cell) & (known == "") & ~np.isnan(self.bounds(confidence)[0]),
            confidence,
            correction,
        )
        return low, high, np.where(known != "", known, _verdicts(low, high, tolerance, limit))

    @property
    def broken(self) -> npt.NDArray[np.bool_]:
        """Mark what was computed and is no number."""
        computed, moved = (
            each.transpose("layer", "seed", "draw").values for each in (self.computed, self.moved)
        )
        return np.asarray(computed & np.isnan(moved))

    def words(self) -> npt.NDArray[np.str_]:
        """Verdicts for which no interval is asked; empty where one is."""
        found = self.estimate(0.95)
        broken, doubt = self.broken.any((1, 2)), _doubts(self.cell)
        return np.select(
            [
                is_refused(self.ds, self.cell) & np.isnan(found.value) & ~broken,
                doubt == AS_TRAINED,
                broken | (np.isinf(found.value) & np.isnan(found.lower)),
                doubt != "",
            ],
            [REFUSED, NOT_MOVED, NOT_FINITE, UNDECIDED],
            "",
        )


def critical_limit(ds: xr.Dataset, metric: str, way: float, share: float) -> float:
    """From which degradation on a layer is critical, by the share of the way to chance."""
    if results.metric(ds, metric).by_chance(0.0) is None:
        raise OptionError(
            f"what chance gives is not known for {metric!r}; say from which degradation on a "
            "layer is critical: critical=…, in the metric's unit."
        )
    results.require(ds, variable="chance")
    return validate.number(share, "critical_share", "(0, 1]", 0.25) * way


def _doubts(cell: xr.DataArray) -> npt.NDArray[np.str_]:
    """Say why layers tell nothing where they were set back to a checkpoint; empty if they do."""
    if cell["epoch"].item() == results.NO_EPOCH:
        return np.full(cell.sizes["layer"], "")
    if "doubt" in cell.coords:
        return np.asarray(cell["doubt"].values.astype(str))
    # As earlier sweeps say it.
    moved = cell.coords.get("moved", xr.ones_like(cell["layer"], bool))
    return np.where(moved.values.astype(bool), "", AS_TRAINED)


def _verdicts(
    lower: Array, upper: Array, tolerance: float, critical: float
) -> npt.NDArray[np.str_]:
    # Of limits that do not stand apart, each counts: what lies beyond both is clear.
    return np.select(
        [
            (upper <= tolerance) & ~(upper >= critical),
            (lower >= critical) & (lower > tolerance),
            (lower > tolerance) & (upper < critical),
        ],
        ["robust", "critical", "intermediate"],
        UNDECIDED,
    )


def _spearman(first: Array, second: Array) -> float:
    from scipy.stats import spearmanr

    both = ~(np.isnan(first) | np.isnan(second))
    first, second = first[both], second[both]
    if len(first) < 3 or any(np.all(values == values[0]) for values in (first, second)):
        return float("nan")
    return float(spearmanr(first, second).statistic)
