"""Estimate of a state after some batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from layerscope import stats
from layerscope.core.metrics import Tally
from layerscope.errors import choose

__all__ = ["Estimate"]

Bounds = tuple[float, float]

_MOST_EXPONENT = 700.0  # of which the exponential is finite


@dataclass(frozen=True, eq=False)
class Estimate:
    """Estimate of a state after some batches.

    Attributes
    ----------
    examples, total : int
        How many were seen, and how many there are.
    tallies, baseline, differences : mapping of str to Tally
        By metric: of the state, of the trained network on the same examples, and of the
        differences from example to example where a mean of them says something.
    predicted, trained : Tensor
        The class with the largest logit, int64 of shape ``(examples, …)``, on the CPU: of the
        state, and of the trained network. −1 where logits hold NaN, which name none.
    targets : Tensor or None
        Likewise, the classes that are right; −100 where none is.
    classes : int
        Number of logits.
    """

    examples: int
    total: int
    tallies: Mapping[str, Tally]
    baseline: Mapping[str, Tally]
    differences: Mapping[str, Tally]
    predicted: Tensor
    trained: Tensor
    targets: Tensor | None
    classes: int

    @property
    def final(self) -> bool:
        """True if all examples were seen."""
        return self.examples == self.total

    def is_fraction(self, metric: str) -> bool:
        """Check whether the metric is a fraction of examples."""
        about = self.tallies[metric].metric
        return about is not None and bool(about.fraction_of)

    def mean(self, metric: str) -> float:
        """The state's value, in the metric's unit."""
        return self.tallies[metric].mean

    def interval(self, metric: str, confidence: float = 0.95) -> Bounds:
        """Bounds of the value over examples: Wilson's for fractions of examples, else normal.

        Of a perplexity they are the exponentials of those of the loss: none is below 0.

        Where few examples were seen so far, these are bounds for all of them, too, if the
        examples come in no particular order.
        """
        tally = self.tallies[metric]
        if self.is_fraction(metric) and tally.count and tally.weight == tally.count:
            bounds = stats.wilson(min(max(tally.mean, 0.0), 1.0), tally.count, confidence)
            return float(bounds[0]), float(bounds[1])
        lower, upper = _normal(tally, confidence)
        if tally.metric is not None and tally.metric.logarithmic and tally.mean > 0:
            factor = math.exp(min((upper - tally.mean) / tally.mean, _MOST_EXPONENT))
            return tally.mean / factor, tally.mean * factor
        return lower, upper

    def change(self, metric: str) -> float:
        """Value minus that of the trained network over the same examples."""
        choose(metric, self.tallies, "metric")
        return self.tallies[metric].mean - self.baseline[metric].mean

    def change_interval(self, metric: str, confidence: float = 0.95) -> Bounds:
        """Bounds of `change` over examples, paired; NaN where differences have no mean."""
        tally = self.differences.get(metric)
        if tally is None:
            return math.nan, math.nan
        if self.is_fraction(metric):
            moved = tally.mean, tally.standard_error, tally.count
            worse, better = stats.discordant(*moved)
            if not np.isnan(worse):
                bounds = stats.paired_proportions(worse, better, tally.count, confidence)
                return float(bounds[0]), float(bounds[1])
        return _normal(tally, confidence)

    def changed(self) -> npt.NDArray[np.int64]:
        """Places, in the order seen, of the examples that are now named otherwise."""
        other = (self.predicted != self.trained) & self._counted()
        return np.flatnonzero(other.flatten(1).any(1) if other.ndim > 1 else other).astype(np.int64)

    def changed_at(self, place: int) -> npt.NDArray[np.int64]:
        """Positions of one example, flattened, that are now named otherwise; 0 of a single one."""
        other = (self.predicted[place] != self.trained[place]) & self._counted()[place]
        return np.flatnonzero(other).astype(np.int64)

    def predictions_changed(self) -> tuple[int, int]:
        """Count the predictions that are now another class, and all there are.

        An example has one; a sequence has one at each position that counts.
        """
        counted = self._counted()
        other = (self.predicted != self.trained) & counted
        return int(other.sum()), int(counted.sum())

    def confusion(self) -> npt.NDArray[np.int64]:
        """Count how often each class (row) was named as each (column), shape (classes, classes).

        What names no class, as NaN, is not counted.
        """
        if self.targets is None:
            return np.zeros((self.classes, self.classes), np.int64)
        keep = self._counted() & (self.predicted >= 0)
        pairs = self.targets[keep] * self.classes + self.predicted[keep]
        counts = torch.bincount(pairs, minlength=self.classes**2)
        return counts.view(self.classes, self.classes).numpy()

    def class_accuracy(self) -> npt.NDArray[np.float64]:
        """Fraction of each class that is named rightly; NaN for a class without examples."""
        if self.targets is None:
            return np.full(self.classes, np.nan)
        keep = self._counted()
        wanted, right = self.targets[keep], (self.predicted == self.targets)[keep].double()
        counts = torch.bincount(wanted, minlength=self.classes).double()
        hits = torch.bincount(wanted, weights=right, minlength=self.classes)
        return (hits / counts).numpy()

    def _counted(self) -> Tensor:
        if self.targets is None:
            return torch.ones_like(self.predicted, dtype=torch.bool)
        return (self.targets >= 0) & (self.targets < self.classes)


def _normal(tally: Tally, confidence: float) -> Bounds:
    from scipy.stats import norm

    half = float(norm.ppf(0.5 + confidence / 2)) * tally.standard_error
    return tally.mean - half, tally.mean + half
