"""Metrics by name: one more is one more entry of `METRICS`."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from layerscope.base.validate import describe, function
from layerscope.core.metrics import _scores as scores
from layerscope.core.metrics._scores import predicted_class
from layerscope.errors import DataError, OptionError, choose
from layerscope.results import MetricInfo

__all__ = [
    "METRICS",
    "NOT_FINITE",
    "Metric",
    "default_names",
    "parse",
    "predicted_class",
]


@dataclass(frozen=True)
class Metric:
    """One number per example, averaged over examples.

    Parameters
    ----------
    name, long_name : str
    per_example : callable
        Takes outputs, shape ``(n, …, classes)``, and targets, shape ``(n, …)``, or None where they
        are unknown; returns shape ``(n, …)``, one value per position, or ``(n,)``. Positions whose
        target is −100 are left out afterwards, whatever it returns there. Outputs and targets may
        be of any other form that the network and the data have; then it returns shape ``(n,)``.
    uses_reference : bool
        `per_example` takes a third argument, the outputs of the unperturbed network.
    needs_targets : bool
        Can't do without targets.
    higher_is_better : bool
    bounds : (float, float), optional
        Between which every position's value lies, where that is known.
    fraction_of : {"errors", "hits", "examples"}, optional
        Of a metric that is 0 or 1 at every position what its mean is the fraction of: of those
        whose largest logit is not the target's, or is, or of those of which something else is
        so. Intervals are those of counts then, and changes are told in points.
    unit : str
    logarithmic : bool
        Values differ by factors rather than by sums, as exponentials do.
    finish, slope : callable, optional
        What is done to the mean, and its derivative there, for the standard error by the delta
        method; without `slope` that is NaN.
    bins : int, optional
        Of a calibration error: `per_example` returns shape ``(2, n, …)``, what happened (0 or 1)
        and how probable it was said to be. What differs is summed in this many bins of equal
        width, and the sizes of the sums are averaged.
    weighted : bool
        `per_example` returns shape ``(2, n)``: the sum over whatever an example is made of, such as
        words, and how many they are. The mean is Σ sums / Σ numbers.
    classes : bool
        Outputs are logits of classes in their last dimension, and targets class indices, which is
        checked.
    positions : (int, int), optional
        The first and the last of an example's targets that count, the first of all being 0; by
        default all. Only targets other than −100 are numbered, so that padding before a text makes
        no difference.

    Examples
    --------
    The root of a mean square, with its standard error:

    >>> rms = Metric("rms", "root mean square of the logits", lambda z, _: (z**2).mean(-1),
    ...     needs_targets=False, finish=math.sqrt, slope=lambda mean: 0.5 / math.sqrt(mean))
    """

    name: str
    long_name: str
    per_example: Callable[..., Tensor]
    uses_reference: bool = False
    needs_targets: bool = True
    higher_is_better: bool = False
    bounds: tuple[float, float] | None = None
    finish: Callable[[float], float] | None = None
    slope: Callable[[float], float] | None = None
    bins: int | None = None
    fraction_of: Literal["errors", "hits", "examples", ""] = ""
    unit: str = "1"
    logarithmic: bool = False
    classes: bool = False
    positions: tuple[int, int] | None = None
    weighted: bool = False

    def __post_init__(self) -> None:
        for what in ("name", "long_name"):
            if not isinstance(getattr(self, what), str):
                came = describe(getattr(self, what))
                raise OptionError(f"{what} of a metric is {came}; give text, such as 'margin'.")
        _check_call(self)
        if self.bounds is not None and not self.bounds[0] < self.bounds[1]:
            raise OptionError(
                f"the metric {self.name!r} has the bounds {self.bounds}; give the lower one first."
            )
        if self.fraction_of not in ("errors", "hits", "examples", ""):
            raise OptionError(
                f"the metric {self.name!r} has fraction_of={self.fraction_of!r}; give 'errors', "
                "'hits' or 'examples', or leave it out."
            )
        if self.positions is not None and not 0 <= self.positions[0] <= self.positions[1]:
            raise OptionError(
                f"the metric {self.name!r} has the positions {self.positions}; give the first and "
                "the last target that count, from 0 on."
            )

    @property
    def info(self) -> MetricInfo:
        """Facts of the metric that a Dataset keeps."""
        # What is done to a mean takes it out of them.
        lower, upper = (self.averages and self.bounds) or (math.nan, math.nan)
        about = (self.name, self.long_name, self.unit, self.higher_is_better, lower, upper)
        return MetricInfo(*about, self.fraction_of, self.logarithmic)

    @property
    def averages(self) -> bool:
        """True if the metric is a mean, so that the mean of differences is its difference."""
        return self.finish is None and self.bins is None


def _check_call(metric: Metric) -> None:
    """Refuse a function that can't be called as a metric's is, before anything is computed."""
    takes = ("outputs", "targets", "reference")[: 2 + metric.uses_reference]
    function(metric.per_example, "per_example", f"per_example({', '.join(takes)})")
    try:
        inspect.signature(metric.per_example).bind(*takes)
    except TypeError as error:
        raise OptionError(
            f"the metric {metric.name!r} is called as per_example({', '.join(takes)}), which its "
            f"function does not take: {error}. With uses_reference=True it gets the outputs of "
            "the unperturbed network as well."
        ) from None
    except ValueError:
        pass  # built in, without a signature


def parse(names: str | Metric | Sequence[str | Metric]) -> list[Metric]:
    """Look up metrics by name; a `Metric` of the user's own is taken as it is.

    ``"topK_error"`` stands for any K, such as ``"top3_error"``. ``"loss@0-31"`` is the loss of the
    first 32 targets of every text, and so with any metric of classes and any positions.

    Raises
    ------
    OptionError
        If there is no such metric.

    Examples
    --------
    >>> [metric.long_name for metric in parse("top3_error")]
    ['fraction whose target is not among the 3 largest logits, in [0, 1]']
    """
    wanted: Iterable[Any] = [names]
    if isinstance(names, Iterable) and not isinstance(names, str):
        wanted = names
    found = [metric if isinstance(metric, Metric) else _named(metric) for metric in wanted]
    if not found:
        raise OptionError("metrics is empty; name one, such as 'error', or leave it out.")
    return found


def default_names(*, positions: bool = False) -> tuple[str, ...]:
    """Names of the metrics that are measured where none are asked for.

    Parameters
    ----------
    positions : bool
        Whether an example has a target at each of several positions, as in text.

    Examples
    --------
    >>> default_names(), default_names(positions=True)
    (('error', 'loss'), ('error', 'loss', 'perplexity'))
    """
    return ("error", "loss", "perplexity") if positions else ("error", "loss")


def _named(name: Any) -> Metric:
    if not isinstance(name, str):
        raise OptionError(_no_metric(name))
    if "@" in name:
        return _at_positions(*name.split("@", 1))
    found = re.fullmatch(r"top([1-9][0-9]*)_error", str(name))
    return _top(int(found[1])) if found else METRICS[choose(name, METRICS, "metric")]


def _at_positions(name: str, places: str) -> Metric:
    """Restrict a metric to some of the targets of every example."""
    whole, found = _named(name), re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", places)
    if found is None or not whole.classes or int(found[1]) > int(found[2] or found[1]):
        raise OptionError(
            f"the metric {name + '@' + places!r} came; give a metric of classes with the first and "
            "the last target of an example that count, from 0 on, such as 'loss@0-31'."
        )
    first, last = int(found[1]), int(found[2] or found[1])
    which = f"target {first}" if first == last else f"targets {first} to {last}"
    return replace(
        whole,
        name=f"{name}@{places}",
        long_name=f"{whole.long_name}, of {which} of every example",
        positions=(first, last),
    )


def _no_metric(came: Any) -> str:
    """Say what to write instead of what is neither a name nor a Metric."""
    what = f"metrics holds {describe(came)}; give names, such as 'error',"
    if not callable(came):
        return f"{what} or Metric objects."
    name = getattr(came, "__name__", type(came).__name__)
    name = name if name.isidentifier() else "mine"
    return (
        f"{what} or wrap what computes one value per example: Metric({name!r}, 'what it "
        "measures', function), where function(outputs, targets) returns shape (n,); with "
        "higher_is_better=True where more is better."
    )


def _exp(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def _top(count: int) -> Metric:
    def missed(outputs: Tensor, targets: Tensor) -> Tensor:
        if outputs.shape[-1] < count:
            raise DataError(
                f"top{count}_error came with {outputs.shape[-1]} classes; it looks among the "
                f"{count} largest logits. Choose a smaller number."
            )
        values, places = outputs.topk(count, -1)
        # The largest is NaN if any is.
        return ((places != targets.unsqueeze(-1)).all(-1) | values[..., 0].isnan()).float()

    text = f"fraction whose target is not among the {count} largest logits, in [0, 1]"
    name = f"top{count}_error"
    return Metric(name, text, missed, bounds=(0.0, 1.0), fraction_of="examples", classes=True)


NOT_FINITE = Metric(
    "not finite",
    "predictions whose largest output is NaN or infinite",
    scores.not_finite,
    needs_targets=False,
)
"""Measured beside whatever is asked for. An output of −∞ may be meant: it rules a class out."""

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "error",
            "0–1 error, fraction in [0, 1]",
            scores.error,
            bounds=(0.0, 1.0),
            fraction_of="errors",
            classes=True,
        ),
        Metric(
            "accuracy",
            "fraction of examples named rightly, in [0, 1]",
            scores.accuracy,
            higher_is_better=True,
            bounds=(0.0, 1.0),
            fraction_of="hits",
            classes=True,
        ),
        Metric("loss", "cross-entropy", scores.loss, unit="nats", classes=True),
        _top(5),
        Metric(
            "perplexity",
            "exponential of the mean cross-entropy",
            scores.loss,
            finish=_exp,
            slope=_exp,
            logarithmic=True,
            classes=True,
        ),
        Metric(
            "agreement",
            "fraction named as by the unperturbed network, in [0, 1]",
            scores.agreement,
            uses_reference=True,
            needs_targets=False,
            higher_is_better=True,
            bounds=(0.0, 1.0),
            fraction_of="examples",
            classes=True,
        ),
        Metric(
            "cosine",
            "cosine similarity of the softmax to the unperturbed network's, in [0, 1]",
            scores.cosine,
            uses_reference=True,
            needs_targets=False,
            higher_is_better=True,
            bounds=(0.0, 1.0),
            classes=True,
        ),
        Metric(
            "kl_divergence",
            "Kullback–Leibler divergence D(unperturbed ‖ perturbed) of what is predicted",
            scores.kl_divergence,
            uses_reference=True,
            needs_targets=False,
            unit="nats",
            classes=True,
        ),
        Metric(
            "calibration_error",
            "expected calibration error, 15 bins",
            scores.calibration,
            bins=15,
            classes=True,
        ),
        Metric("mse", "mean squared error, over all outputs of an example", scores.mse),
        Metric("bce", "binary cross-entropy of logits, mean over labels", scores.bce, unit="nats"),
    )
}
"""By name; of topK_error only one.

Ties between logits are resolved as `torch.argmax` and, for topK_error, `torch.topk` do. Logits with
a NaN among them name no class: such an example is wrong, and agrees with nothing; its loss is NaN.

References
----------
kl_divergence: Kullback, S. and Leibler, R. A. (1951). On information and sufficiency. The Annals of
Mathematical Statistics 22, 79; D(p ‖ q) of the unperturbed network's p and the perturbed one's q.
cosine: Gavrikov, P. et al. (2024). arXiv:2410.14470. calibration_error: Guo, C. et al. (2017). On
calibration of modern neural networks. ICML, arXiv:1706.04599.
"""
