"""Metrics and perturbations, as a Dataset knows them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from layerscope.results._dataset import NO_EPOCH

RAND = "rand"
"""The column of the paper's figure in which layers are re-randomised."""

RESET, REDRAWN = "reinitialize", "rerandomize"
"""The perturbations that distances of checkpoints, and of fresh values, belong to."""

CHECKPOINT = "checkpoint"
"""Where perturbations lead that put a layer back towards the checkpoint of ``epoch``."""


@dataclass(frozen=True)
class MetricInfo:
    """Facts of a metric.

    Attributes
    ----------
    name, long_name : str
    unit : str
    higher_is_better : bool
    lower_bound, upper_bound : float
        Between which every example's value lies; NaN where that is not known.
    fraction_of : str
        What its mean is a fraction of: ``"errors"`` (of examples whose largest logit is not the
        target's), ``"hits"`` (whose largest is), ``"examples"`` (which are something else or
        not); empty where it is no fraction.
    logarithmic : bool
        Whether its values differ by factors rather than by sums, as exponentials do.
    """

    name: str
    long_name: str = ""
    unit: str = "1"
    higher_is_better: bool = False
    lower_bound: float = math.nan
    upper_bound: float = math.nan
    fraction_of: str = ""
    logarithmic: bool = False

    @property
    def worse(self) -> int:
        """The sign of a change for the worse."""
        return -1 if self.higher_is_better else 1

    @property
    def label(self) -> str:
        """Its name and unit, as an axis has them.

        Examples
        --------
        >>> MetricInfo("loss", unit="nats").label, MetricInfo("margin").label
        ('loss (nats)', 'margin')
        """
        unit = "fraction" if self.fraction_of else self.unit
        return self.name if unit == "1" else f"{self.name} ({unit})"

    def write_change(self, change: float) -> str:
        """Write a difference of two of its values: of fractions in points, else in its unit.

        Examples
        --------
        >>> MetricInfo("error", fraction_of="errors").write_change(0.388)
        '+38.8 points'
        >>> MetricInfo("loss", unit="nats").write_change(-0.02)
        '-0.02 nats'
        """
        if self.fraction_of:
            return f"{100 * change:+.1f} points"
        return f"{change:+.4g}" + ("" if self.unit == "1" else f" {self.unit}")

    @property
    def sentence(self) -> str:
        """Describe it and which way it is better, for a legend.

        Examples
        --------
        >>> MetricInfo("margin", "least distance to another class", higher_is_better=True).sentence
        'margin: least distance to another class; higher is better.'
        """
        unit = "" if self.unit == "1" else f" ({self.unit})"
        what = f": {self.long_name}" if self.long_name else ""
        way = "higher" if self.higher_is_better else "lower"
        return f"{self.name}{unit}{what}; {way} is better."

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest value that a mean can have; infinite where not known."""
        low, high = (0.0, 1.0) if self.fraction_of else (self.lower_bound, self.upper_bound)
        return -math.inf if math.isnan(low) else low, math.inf if math.isnan(high) else high

    def by_chance(self, error: Any) -> Any:
        """The value where the 0–1 error is `error`; None where it does not follow from that."""
        if self.fraction_of == "errors":
            return error
        return 1 - error if self.fraction_of == "hits" else None


@dataclass(frozen=True)
class MeasureInfo:
    """Facts of a measure of one pass.

    Attributes
    ----------
    name, long_name, unit : str
    lower_bound, upper_bound : float
        Between which it lies; NaN where that is not known.
    logarithmic : bool
        Whether its values differ by factors rather than by sums.
    higher_matters : bool
        Whether it is high values that are said to mark the layers which matter.
    """

    name: str
    long_name: str = ""
    unit: str = "1"
    lower_bound: float = math.nan
    upper_bound: float = math.nan
    logarithmic: bool = False
    higher_matters: bool = True

    @property
    def label(self) -> str:
        """Its name and unit, as an axis has them.

        Examples
        --------
        >>> MeasureInfo("block_influence").label, MeasureInfo("angle", unit="rad").label
        ('block influence', 'angle (rad)')
        """
        words = self.name.replace("_", " ")
        return words if self.unit == "1" else f"{words} ({self.unit})"


@dataclass(frozen=True)
class PerturbationInfo:
    """Facts of a perturbation.

    Attributes
    ----------
    name : str
    label : str
        What a layer is after it, in words; ``{epoch}`` stands for the checkpoint. "perturbed by"
        and the name where nothing is said.
    column : str
        Its column in figures and tables, likewise; the name where nothing is said.
    sign : str
        A layer's mark in the explorer, one or two characters.
    stochastic, redraws, uses_checkpoint : bool
        As for `layerscope.perturb.Perturbation`.
    towards : str
        On the straight line to what other values it puts the layer, if it does: of which network,
        or of ``"checkpoint"``; else empty.
    alpha : float
        How far on that line, 0 at the trained values and 1 at the others.
    """

    name: str
    label: str = ""
    column: str = ""
    sign: str = ""
    stochastic: bool = False
    redraws: bool = False
    uses_checkpoint: bool = False
    towards: str = ""
    alpha: float = 0.0

    def __post_init__(self) -> None:
        # Written out, for those who read the Dataset without this package.
        object.__setattr__(self, "label", self.label or f"perturbed by {self.name}")
        object.__setattr__(self, "column", self.column or self.name)

    @property
    def resets(self) -> bool:
        """True if it puts a checkpoint back, which alone says what it does."""
        return self.column == "{epoch}"

    def words_at(self, epoch: int) -> str:
        """Describe a layer after it, in words.

        Examples
        --------
        >>> reset = PerturbationInfo("back", "reset to checkpoint {epoch}")
        >>> reset.words_at(3), PerturbationInfo("x").words_at(3)
        ('reset to checkpoint 3', 'perturbed by x at checkpoint 3')
        """
        return _at(self.label, " at checkpoint ", epoch)

    def column_at(self, epoch: int) -> str:
        """The column of its cells at an epoch."""
        return _at(self.column, " ", epoch)


def _at(text: str, before: str, epoch: int) -> str:
    if "{epoch}" in text:
        return text.replace("{epoch}", str(epoch))
    return text if epoch == NO_EPOCH else f"{text}{before}{epoch}"


_SHARE: Mapping[str, Any] = {"lower_bound": 0.0, "upper_bound": 1.0}

_METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (
        MetricInfo("error", "0–1 error, fraction in [0, 1]", fraction_of="errors", **_SHARE),
        MetricInfo(
            "accuracy",
            "fraction of examples named rightly, in [0, 1]",
            higher_is_better=True,
            fraction_of="hits",
            **_SHARE,
        ),
        MetricInfo("loss", "cross-entropy", "nats"),
        MetricInfo("perplexity", "exponential of the mean cross-entropy", logarithmic=True),
        MetricInfo(
            "agreement",
            "fraction named as by the unperturbed network, in [0, 1]",
            higher_is_better=True,
            fraction_of="examples",
            **_SHARE,
        ),
        MetricInfo(
            "cosine",
            "cosine similarity of the softmax to the unperturbed network's, in [0, 1]",
            higher_is_better=True,
            **_SHARE,
        ),
        MetricInfo("calibration_error", "expected calibration error, 15 bins"),
        MetricInfo("mse", "mean squared error, over all outputs of an example"),
        MetricInfo("bce", "binary cross-entropy of logits, mean over labels", "nats"),
    )
}

KNOWN_PERTURBATIONS: Mapping[str, PerturbationInfo] = {
    info.name: info
    for info in (
        PerturbationInfo(
            RESET,
            "reset to checkpoint {epoch}",
            "{epoch}",
            uses_checkpoint=True,
            towards=CHECKPOINT,
            alpha=1.0,
        ),
        PerturbationInfo(REDRAWN, "re-randomised", RAND, "R", stochastic=True, redraws=True),
        PerturbationInfo(
            "rerandomize_matched", "re-randomised to its mean and deviation", stochastic=True
        ),
        PerturbationInfo("permute", "permuted", stochastic=True),
        PerturbationInfo("zero", "set to zero", sign="0"),
        PerturbationInfo("skip", "skipped", sign="–"),
    )
}
"""Names in Datasets without these coordinates: those of earlier versions, and those made by hand.
Whatever is not here is written by the sweep."""


def known_metric(name: str) -> MetricInfo | None:
    if found := re.fullmatch(r"top([0-9]+)_error", name):
        long_name = f"fraction whose target is not among the {found[1]} largest logits, in [0, 1]"
        return MetricInfo(name, long_name, fraction_of="examples", **_SHARE)
    return _METRICS.get(name)
