"""Metrics that a data set brings along, such as the scores of a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerscope.core.metrics._named import Metric, default_names, parse

__all__ = ["chosen", "own"]


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
