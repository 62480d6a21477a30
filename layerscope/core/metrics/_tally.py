"""Sums over examples, from which means and their standard errors come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from layerscope.core.metrics._named import Metric
from layerscope.core.metrics._per_example import Outcome
from layerscope.errors import DataError, OptionError

__all__ = ["Tally"]


@dataclass
class Tally:
    """Running sums of one metric in double precision.

    With yᵢ the sum over an example's positions and wᵢ their number, the mean is Σy / Σw.

    Attributes
    ----------
    count : int
        Examples that have a counted position.
    total, squares : float
        Σy and Σy².
    weight, cross, weight_squares : float
        Σw, Σyw and Σw².
    bins, products : tuple of float
        Where the metric has B bins, with z = (w, y of bin 1, …, y of bin B): Σz, and Σzᵢzᵢᵀ row by
        row. Else empty.
    metric : Metric or None
        What is to be made of the mean; None for the mean itself. Not compared.

    Examples
    --------
    >>> from layerscope import metrics
    >>> outputs, targets = torch.eye(3), torch.tensor([0, 0, 2])
    >>> outcome = metrics.measure(metrics.parse("error"), outputs, targets)["error"]
    >>> tally = Tally.of(outcome)
    >>> tally += Tally.of(outcome)
    >>> tally.count, tally.total, round(tally.mean, 3), round(tally.standard_error, 3)
    (6, 2.0, 0.333, 0.211)
    """

    count: int = 0
    total: float = 0.0
    squares: float = field(default=0.0, repr=False)
    weight: float = field(default=0.0, repr=False)
    cross: float = field(default=0.0, repr=False)
    weight_squares: float = field(default=0.0, repr=False)
    bins: tuple[float, ...] = field(default=(), repr=False)
    products: tuple[float, ...] = field(default=(), repr=False)
    metric: Metric | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, outcome: Outcome) -> Tally:
        """Sum the outcome of one batch."""
        tally = _sums(outcome.values, outcome.weights)
        tally.metric = outcome.metric
        if outcome.bins is not None:
            z = torch.cat([outcome.weights.unsqueeze(1), outcome.bins], 1)
            tally.bins = tuple(z.sum(0).tolist())
            # Not a matrix product, whose last bits may depend on where in memory its factors lie.
            tally.products = tuple((z.unsqueeze(2) * z.unsqueeze(1)).sum(0).flatten().tolist())
        return tally

    @classmethod
    def of_difference(cls, outcome: Outcome, baseline: Outcome) -> Tally | None:
        """Sum the differences of an outcome from the unperturbed network's, example by example.

        Parameters
        ----------
        outcome, baseline : Outcome
            Of one metric and batch.

        Returns
        -------
        Tally or None
            Its mean is the difference of the two means, over the same examples; None for a metric
            of which that does not hold, as perplexity and calibration error.

        Raises
        ------
        DataError
            If the two count different positions.
        """
        if not outcome.metric.averages:
            return None
        if not torch.equal(outcome.weights, baseline.weights):
            raise DataError(
                f"outcomes of {outcome.metric.name!r} over {_told(outcome)} and {_told(baseline)} "
                "came; differences need the same examples and targets."
            )
        return _sums(outcome.values - baseline.values, outcome.weights)

    @classmethod
    def from_list(cls, numbers: Sequence[float], metric: Metric | None = None) -> Tally:
        """Make a tally of what `to_list` gave, with the metric that it is of.

        Raises
        ------
        OptionError
            If there are too few or too many numbers.
        """
        rest = len(numbers) - 6
        size = (math.isqrt(1 + 4 * max(rest, 0)) - 1) // 2
        if rest != size + size * size:
            raise OptionError(
                f"{len(numbers)} numbers came for a tally; give the list that to_list made."
            )
        count, total, squares, weight, cross, weight_squares, *binned = map(float, numbers)
        bins, products = tuple(binned[:size]), tuple(binned[size:])
        plain = (total, squares, weight, cross, weight_squares)
        return cls(int(count), *plain, bins, products, metric)

    def to_list(self) -> list[float]:
        """All sums, as plain numbers that lose nothing."""
        plain = (self.total, self.squares, self.weight, self.cross, self.weight_squares)
        return [float(self.count), *plain, *self.bins, *self.products]

    def __iadd__(self, other: Tally) -> Tally:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        self.weight += other.weight
        self.cross += other.cross
        self.weight_squares += other.weight_squares
        self.bins = _added(self.bins, other.bins)
        self.products = _added(self.products, other.products)
        self.metric = self.metric or other.metric
        return self

    @property
    def mean(self) -> float:
        """Average over counted positions, finished as the metric says; NaN where there are none.

        Of a metric with bins, ``Σ_b |Σ y_b| / Σw``: the expected calibration error.
        """
        if not self.weight:
            return math.nan
        if self.bins:
            return float(np.abs(self.bins[1:]).sum() / self.weight)
        mean = self.total / self.weight
        finish = self.metric.finish if self.metric else None
        return finish(mean) if finish else mean

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, from the spread over examples (n − 1 in the variance).

        Where examples weigh unequally, that of a ratio of sums, linearised; likewise of what is
        made of the mean. Of a calibration error it is that of sums whose signs are known, and too
        large where networks are nearly calibrated.

        References
        ----------
        Cochran, W. G. (1977). Sampling Techniques, 3rd ed., section 2.11.
        """
        if self.count < 2:
            return math.nan
        error = math.sqrt(self._variance()) / math.sqrt(self.count)
        if not self.metric or not self.metric.finish:
            return error
        slope = self.metric.slope(self.total / self.weight) if self.metric.slope else math.nan
        return abs(slope) * error if math.isfinite(slope) else math.nan

    def _variance(self) -> float:
        """Variance of one example's share in the mean."""
        if self.bins:
            signs = np.array([-self.mean, *np.sign(self.bins[1:])])
            spread = float(signs @ np.reshape(self.products, (len(signs), -1)) @ signs)
        elif self.weight == self.count == self.weight_squares:
            # All weights are 1.
            spread = self.squares - self.total**2 / self.count
        else:
            ratio = self.total / self.weight
            spread = self.squares - 2 * ratio * self.cross + ratio**2 * self.weight_squares
        variance = spread / (self.count - 1) / (self.weight / self.count) ** 2
        # Rounding may carry a zero variance below 0; NaN must stay NaN.
        return 0.0 if variance < 0 else variance


def _sums(values: Tensor, weights: Tensor) -> Tally:
    total, squares = float(values.sum()), float((values * values).sum())
    if bool((weights == 1).all()):
        size = len(values)
        return Tally(size, total, squares, float(size), total, float(size))
    cross, weight_squares = float((values * weights).sum()), float((weights * weights).sum())
    count = int((weights > 0).sum())
    return Tally(count, total, squares, float(weights.sum()), cross, weight_squares)


def _added(mine: tuple[float, ...], others: tuple[float, ...]) -> tuple[float, ...]:
    if not mine or not others:
        return mine or others
    return tuple(a + b for a, b in zip(mine, others, strict=True))


def _told(outcome: Outcome) -> str:
    return f"{int(outcome.weights.sum())} positions of {len(outcome.weights)} examples"
