"""Several named data sets at once, and what each is measured by."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from layerscope.core import metrics as metrics_
from layerscope.core.batches import Cuttable, iterate_tensors
from layerscope.core.metrics import Metric
from layerscope.errors import OptionError

__all__ = ["metrics_by_task", "tasks_of"]

Wanted = Sequence[str | Metric] | None


def tasks_of(model: nn.Module, data: Any, wanted: Wanted) -> dict[str, Any] | None:
    """Find several named data sets in what a user gave; None where it is one.

    A mapping to tensors is one data set, of arguments by name. A mapping to what are data sets
    themselves is several, unless the network could take its values as arguments.

    Parameters
    ----------
    model : nn.Module
    data
        As for `layerscope.sweep`.
    wanted : sequence of str or Metric, optional
        Its metrics.

    Examples
    --------
    >>> pair = torch.zeros(2, 3), torch.zeros(2)
    >>> list(tasks_of(nn.Linear(3, 1), {"news": pair, "code": pair}, None))
    ['news', 'code']
    >>> tasks_of(nn.Linear(3, 1), {"input": pair, "labels": torch.zeros(2)}, None) is None
    True
    """
    if not isinstance(data, Mapping) or not data or isinstance(data, Cuttable):
        return None
    if not all(map(_is_data_set, data.values())) or _are_arguments(model, data, wanted):
        return None
    return {str(name): each for name, each in data.items()}


def metrics_by_task(tasks: Mapping[str, Any], wanted: Wanted) -> dict[str, Wanted]:
    """Choose for each data set what it is measured by: its own metrics where it brings some.

    Raises
    ------
    OptionError
        If nothing of what is wanted can be measured on one of them, or a name is nobody's.
    """
    if wanted is None:
        return dict.fromkeys(tasks)
    names: list[str | Metric] = [wanted] if isinstance(wanted, (str, Metric)) else list(wanted)
    own = {task: {m.name for m in metrics_.own(data)} for task, data in tasks.items()}
    brought = {name for theirs in own.values() for name in theirs}
    metrics_.parse([name for name in names if name not in brought] or ["error"])
    found: dict[str, Wanted] = {}
    for task, theirs in own.items():
        # What goes by name is a data set's own, or for those that bring none.
        known = [n for n in names if isinstance(n, Metric) or (n in theirs or not theirs)]
        found[task] = [n for n in known if n in theirs or n not in brought]
        if not found[task]:
            raise OptionError(
                f"task {task!r} can't be measured by any of {', '.join(map(str, names))}; "
                + (f"it has {', '.join(sorted(theirs))}." if theirs else "add 'error' or 'loss'.")
            )
    return found


def _is_data_set(value: Any) -> bool:
    """Recognise what may hold examples on its own; a tensor is an argument of a network."""
    if torch.is_tensor(value) or isinstance(value, str) or hasattr(value, "dtype"):
        return False
    if isinstance(value, (Cuttable, metrics_.Task)):
        return True
    if isinstance(value, (Mapping, tuple, list)):
        return next(iterate_tensors(value), None) is not None
    return isinstance(value, Iterable) or hasattr(value, "with_format")


def _are_arguments(model: nn.Module, data: Mapping[Any, Any], wanted: Wanted) -> bool:
    """Check that the network could be called with the values by name, as they are."""
    if not all(isinstance(each, (tuple, Mapping)) for each in data.values()):
        return False  # arguments are tensors, or tuples or mappings of them
    network = getattr(model, "_orig_mod", model)
    takes = inspect.signature(network.forward).parameters.values()
    named = {each.name for each in takes if each.kind is not each.VAR_KEYWORD}
    if not data.keys().isdisjoint(named):
        return True
    # Without labels among them, only metrics that need none can have been meant.
    return _need_no_targets(wanted) and any(each.kind is each.VAR_KEYWORD for each in takes)


def _need_no_targets(wanted: Wanted) -> bool:
    if wanted is None:
        return False
    try:
        return not any(metric.needs_targets for metric in metrics_.parse(wanted))
    except OptionError:  # a name that only some of the data sets know
        return False
