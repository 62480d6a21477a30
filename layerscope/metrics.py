"""What is measured, and evaluation without side effects.

>>> import torch
>>> from layerscope import metrics
>>> logits, targets = torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])
>>> metrics.METRICS["error"].per_example(logits, targets)
tensor([0., 1.])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layerscope import data as data_module
from layerscope import devices
from layerscope.errors import DataError, choose

__all__ = ["METRICS", "Metric", "Tally", "call", "chosen", "evaluate", "logits"]


@dataclass(frozen=True)
class Metric:
    """One number per example, averaged over examples.

    Parameters
    ----------
    name, long_name : str
    per_example : callable
        Takes outputs, shape ``(n, classes)``, and targets, shape ``(n,)``; returns shape ``(n,)``.
    """

    name: str
    long_name: str
    per_example: Callable[[Tensor, Tensor], Tensor]


def _error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) != targets).float()


def _accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(-1) == targets).float()


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("error", "0–1 error, fraction in [0, 1]", _error),
        Metric("accuracy", "fraction of examples named rightly, in [0, 1]", _accuracy),
        Metric("loss", "cross-entropy, nats per example", _loss),
    )
}


@dataclass
class Tally:
    """Running sums of one metric in double precision.

    Attributes
    ----------
    count : int
    total, squares : float
        Sum of the values over examples, and of their squares.
    """

    count: int = 0
    total: float = 0.0
    squares: float = field(default=0.0, repr=False)

    def add(self, values: Tensor) -> None:
        """Add one value per example, shape ``(n,)``."""
        # To the CPU first: mps has no double precision.
        exact = values.detach().cpu().double()
        self.count += len(exact)
        self.total += float(exact.sum())
        self.squares += float((exact * exact).sum())

    def __iadd__(self, other: Tally) -> Tally:
        self.count += other.count
        self.total += other.total
        self.squares += other.squares
        return self

    @property
    def mean(self) -> float:
        """Average over examples."""
        return self.total / self.count if self.count else math.nan

    @property
    def standard_error(self) -> float:
        """Standard error of the mean, from the spread over examples (n − 1 in the variance)."""
        if self.count < 2:
            return math.nan
        variance = (self.squares - self.total**2 / self.count) / (self.count - 1)
        # Rounding may carry a zero variance below 0; NaN must stay NaN.
        return math.sqrt(0.0 if variance < 0 else variance) / math.sqrt(self.count)


def chosen(names: Sequence[str | Metric]) -> list[Metric]:
    """Look up metrics by name; a `Metric` of the user's own is taken as it is."""
    wanted = [names] if isinstance(names, (str, Metric)) else names
    return [m if isinstance(m, Metric) else METRICS[choose(m, METRICS, "metric")] for m in wanted]


def call(model: nn.Module, inputs: Any) -> Any:
    """Run the network on a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def logits(outputs: Any) -> Tensor:
    """Find the logits in what a network returned.

    Parameters
    ----------
    outputs : Tensor, mapping with ``"logits"``, object with ``.logits``, or tuple
        Of a tuple, the first tensor.

    Raises
    ------
    DataError
        If there are none.
    """
    if torch.is_tensor(outputs):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    found = found if found is not None else getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    if not torch.is_tensor(found):
        raise DataError(
            f"the network returned a {type(outputs).__name__} in which there are no logits; it "
            "must return a tensor, a tuple that starts with one, or something with 'logits'."
        )
    return found


def add_batch(
    tallies: Mapping[str, Tally], metrics: Iterable[Metric], outputs: Any, targets: Tensor
) -> None:
    """Add one batch's outputs to the tally of every metric."""
    found = logits(outputs)
    if found.ndim != 2 or targets.shape != found.shape[:1]:
        raise DataError(
            f"outputs of shape {tuple(found.shape)} came with targets of shape "
            f"{tuple(targets.shape)}; expected (n, classes) and (n,)."
        )
    for metric in metrics:
        tallies[metric.name].add(metric.per_example(found, targets))


@contextmanager
def evaluating(model: nn.Module) -> Any:
    """Evaluation mode without gradients; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes:
            module.training = mode


def evaluate(
    model: nn.Module,
    data: Any,
    metrics: Sequence[str | Metric] = ("error", "loss"),
    batch_size: int = 1000,
    device: str | torch.device = "auto",
) -> dict[str, Tally]:
    """Evaluate a network as it stands: every batch, one after the other.

    This is the plain way that a sweep must equal bit for bit.

    Parameters
    ----------
    model : nn.Module
        Already on `device`; its mode is put back afterwards.
    data : Examples, pair of tensors, or iterable of batches
    metrics : sequence of str or Metric
    batch_size : int
    device : str or torch.device
        Where batches are moved to.

    Returns
    -------
    dict of str to Tally

    Examples
    --------
    >>> from layerscope import models
    >>> net = models.build("fcn-1x8", inputs=(4,), classes=2)
    >>> tallies = evaluate(net, (torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)), device="cpu")
    >>> tallies["error"].count
    6
    """
    place = devices.resolve(device)
    wanted = chosen(metrics)
    tallies = {metric.name: Tally() for metric in wanted}
    with evaluating(model):
        for inputs, targets in data_module.batches(data, batch_size):
            outputs = call(model, data_module.move(inputs, place))
            add_batch(tallies, wanted, outputs, targets.to(place))
    return tallies
