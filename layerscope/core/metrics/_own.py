"""Metrics that a data set brings along, such as the scores of a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerscope.base.validate import describe
from layerscope.core.metrics._named import Metric, default_names, parse
from layerscope.errors import OptionError

__all__ = ["Task", "chosen", "own", "within"]


@dataclass(frozen=True, eq=False)
class Task:
    """A data set with metrics of its own: anything that gives a score per example.

    Parameters
    ----------
    data : tensors, mapping or iterable of batches
        As `layerscope.sweep` takes it. Targets may be of any form that the metrics read, such as a
        list of words, with one for each example.
    metrics : sequence of Metric
        What is measured on it, where nothing else is asked for.
    name : str
        What results say they were measured on; by default as the data say.

    Raises
    ------
    OptionError
        If there is no metric, or one is a name.

    Examples
    --------
    >>> import torch
    >>> lead = Metric("lead", "of the largest logit over the next",
    ...     lambda logits, _: logits.topk(2, -1).values.diff(dim=-1).neg().squeeze(-1),
    ...     higher_is_better=True)
    >>> task = Task((torch.zeros(3, 4), torch.zeros(3)), [lead], "zeros")
    >>> [metric.name for metric in task.metrics]
    ['lead']
    """

    data: Any
    metrics: Sequence[Metric]
    name: str = ""

    def __post_init__(self) -> None:
        given = list(self.metrics) if isinstance(self.metrics, (list, tuple)) else [self.metrics]
        if not given or any(not isinstance(each, Metric) for each in given):
            raise OptionError(
                f"metrics of a task is {describe(self.metrics)}; give a list of Metric objects, "
                "such as metrics.parse(['error'])."
            )
        object.__setattr__(self, "metrics", given)
        object.__setattr__(self, "name", self.name or str(getattr(self.data, "name", "")))


def within(data: Any) -> Any:
    """Return the data set of a task, or what is one itself."""
    return data.data if isinstance(data, Task) else data


def own(data: Any) -> list[Metric]:
    """List the metrics that a data set brings, in its attribute ``metrics``; often there are none.

    >>> own((None, None))
    []
    """
    found = getattr(data, "metrics", None)
    if not isinstance(found, (list, tuple)):
        return []
    return [metric for metric in found if isinstance(metric, Metric)]


def chosen(data: Any, wanted: Sequence[str | Metric] | None) -> list[Metric]:
    """Choose what a data set is measured by: what is wanted, else its own, else the usual ones.

    Raises
    ------
    OptionError
        If there is no metric of that name, neither its own nor known.
    """
    known = {metric.name: metric for metric in own(data)}
    if wanted is None:
        return list(known.values()) or parse(default_names())
    if not known:
        return parse(wanted)
    names: Sequence[Any] = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    return parse([known.get(name, name) if isinstance(name, str) else name for name in names])
