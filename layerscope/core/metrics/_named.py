"""Metrics by name: one more is one more entry of `METRICS`."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerscope.base.validate import describe, function
from layerscope.core.batches import NO_TARGET
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
    classes : bool
        Outputs are logits of classes in their last dimension, and targets class indices, which is
        checked.

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

    ``"topK_error"`` stands for any K, such as ``"top3_error"``.

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
    found = re.fullmatch(r"top([1-9][0-9]*)_error", str(name))
    return _top(int(found[1])) if found else METRICS[choose(name, METRICS, "metric")]


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


def predicted_class(outputs: Tensor) -> Tensor:
    """Find the class with the largest logit; −1, which no target is, where one of them is NaN.

    >>> predicted_class(torch.tensor([[0.0, 2.0], [float("nan"), 2.0]])).tolist()
    [1, -1]
    """
    place = outputs.argmax(-1, keepdim=True)
    # argmax points to a NaN if there is one.
    return torch.where(outputs.gather(-1, place).isnan(), -1, place).squeeze(-1)


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (predicted_class(outputs) != targets).float()


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (predicted_class(outputs) == targets).float()


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    flat, wanted = _single(outputs).flatten(0, -2), targets.flatten().long()
    loss = nn.functional.cross_entropy(flat, wanted, reduction="none", ignore_index=NO_TARGET)
    return loss.view(targets.shape)


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


def _agreement(outputs: Tensor, _: Any, reference: Tensor) -> Tensor:
    found, wanted = predicted_class(outputs), predicted_class(reference)
    return ((found == wanted) & (found >= 0)).float()


def _cosine(outputs: Tensor, _: Any, reference: Tensor) -> Tensor:
    similarity = nn.functional.cosine_similarity(_softmax(outputs), _softmax(reference), -1)
    # Rounding may carry the similarity of equal outputs past 1.
    return similarity.clamp(0, 1)


def _calibration(outputs: Tensor, targets: Tensor) -> Tensor:
    confidence, named = _softmax(outputs).max(-1)
    # Subtracted later, in double precision, in which both are exact.
    return torch.stack([(named == targets).to(confidence), confidence])


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    found, wanted = _alike("mse", outputs, targets)
    return nn.functional.mse_loss(found, wanted, reduction="none").flatten(1).mean(1)


def _bce(outputs: Tensor, targets: Tensor) -> Tensor:
    found, wanted = _alike("bce", outputs, targets)
    loss = nn.functional.binary_cross_entropy_with_logits(found, wanted, reduction="none")
    return loss.flatten(1).mean(1)


def _alike(name: str, outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """Outputs and targets in one shape (n, …) and type; never broadcast."""
    # One number for each example may stand in a dimension of its own, or not.
    if not torch.is_tensor(targets) or _one(outputs.shape) != _one(targets.shape):
        given = tuple(targets.shape) if torch.is_tensor(targets) else type(targets).__name__
        raise DataError(
            f"{name} came with outputs of shape {tuple(outputs.shape)} and targets {given}; both "
            "must have the same shape (n, …)."
        )
    found = _single(outputs).reshape(len(outputs), -1)
    return found, targets.reshape(len(targets), -1).to(found.dtype)


def _one(shape: torch.Size) -> tuple[int, ...]:
    return tuple(shape[:1]) if tuple(shape[1:]) == (1,) else tuple(shape)


def _softmax(outputs: Tensor) -> Tensor:
    return _single(outputs).softmax(-1)


def _single(outputs: Tensor) -> Tensor:
    """In single precision at least: half is too coarse for what is made of logits."""
    return outputs.float() if outputs.dtype.itemsize < 4 else outputs


def _exp(mean: float) -> float:
    try:
        return math.exp(mean)
    except OverflowError:
        return math.inf


def _not_finite(outputs: Tensor, targets: Any) -> Tensor:
    largest = outputs.amax(-1) if outputs.ndim > 1 else outputs
    wrong = ~largest.isfinite()
    by_position = targets is None or getattr(targets, "shape", None) == wrong.shape
    return (wrong if by_position else wrong.flatten(1).any(1) if wrong.ndim > 1 else wrong).float()


NOT_FINITE = Metric(
    "not finite",
    "predictions whose largest output is NaN or infinite",
    _not_finite,
    needs_targets=False,
)
"""Measured beside whatever is asked for. An output of −∞ may be meant: it rules a class out."""

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "error",
            "0–1 error, fraction in [0, 1]",
            _error,
            bounds=(0.0, 1.0),
            fraction_of="errors",
            classes=True,
        ),
        Metric(
            "accuracy",
            "fraction of examples named rightly, in [0, 1]",
            _accuracy,
            higher_is_better=True,
            bounds=(0.0, 1.0),
            fraction_of="hits",
            classes=True,
        ),
        Metric("loss", "cross-entropy", _loss, unit="nats", classes=True),
        _top(5),
        Metric(
            "perplexity",
            "exponential of the mean cross-entropy",
            _loss,
            finish=_exp,
            slope=_exp,
            logarithmic=True,
            classes=True,
        ),
        Metric(
            "agreement",
            "fraction named as by the unperturbed network, in [0, 1]",
            _agreement,
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
            _cosine,
            uses_reference=True,
            needs_targets=False,
            higher_is_better=True,
            bounds=(0.0, 1.0),
            classes=True,
        ),
        Metric(
            "calibration_error",
            "expected calibration error, 15 bins",
            _calibration,
            bins=15,
            classes=True,
        ),
        Metric("mse", "mean squared error, over all outputs of an example", _mse),
        Metric("bce", "binary cross-entropy of logits, mean over labels", _bce, unit="nats"),
    )
}
"""By name; of topK_error only one.

Ties between logits are resolved as `torch.argmax` and, for topK_error, `torch.topk` do. Logits with
a NaN among them name no class: such an example is wrong, and agrees with nothing; its loss is NaN.

References
----------
cosine: Gavrikov, P. et al. (2024). arXiv:2410.14470. calibration_error: Guo, C. et al. (2017). On
calibration of modern neural networks. ICML, arXiv:1706.04599.
"""
