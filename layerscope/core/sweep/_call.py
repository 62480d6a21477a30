"""How a sweep was called, in plain values, so that it can be called like that again."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from layerscope.base.fingerprints import fingerprint
from layerscope.core import metrics, perturb
from layerscope.core.measures import MEASURES, Measure
from layerscope.core.metrics import Metric
from layerscope.core.perturb import Perturbation
from layerscope.errors import LayerscopeError
from layerscope.results import YOURS

__all__ = ["batches_of", "called"]

_TOLD_ELSEWHERE = ("model", "data", "checkpoints")
_WITHOUT_EFFECT = ("out", "callback", "between", "show_progress", "plan", "client")


def called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a call by the arguments that are not at their defaults.

    Parameters
    ----------
    function : callable
        Its signature says what arguments there are: one that is added to it is described as well.
    arguments : mapping
        By name, all of them.

    Returns
    -------
    dict
        Plain values that JSON holds; of the network, the data and the checkpoints the Dataset's
        other attributes tell, and what is done with the values along the way changes none.

    Examples
    --------
    >>> def f(model, draws=3, scale=len): ...
    >>> called(f, {"model": None, "draws": 5, "scale": max})
    {'draws': 5, 'scale': {'__yours__': 'max'}}
    """
    return {
        name: plain
        for name, parameter in inspect.signature(function).parameters.items()
        if (name not in _TOLD_ELSEWHERE + _WITHOUT_EFFECT or _is_name(name, arguments.get(name)))
        and arguments[name] is not parameter.default
        and (plain := _plain(arguments[name])) != _plain(parameter.default)
    }


def _is_name(argument: str, value: Any) -> bool:
    """Recognise a network that was given by its name or folder, which says what it is."""
    return argument == "model" and isinstance(value, (str, os.PathLike))


def batches_of(size: int, lengths: Sequence[int]) -> int | str:
    """Say how many examples the batches have that were asked for in a size, or are the user's own.

    Parameters
    ----------
    size : int
        What was asked for.
    lengths : sequence of int
        Examples in each batch.

    Returns
    -------
    int or str
        A number where all but a smaller last one have that many.

    Examples
    --------
    >>> batches_of(5, [5, 5, 2]), batches_of(1000, [32, 32, 7]), batches_of(1000, [5, 16, 5])
    (5, 32, '5 to 16, as given')
    """
    *full, last = lengths
    for each in (size, *full[:1], *lengths[:1]):
        if set(full) <= {each} and last <= each:
            return each
    return f"{min(lengths)} to {max(lengths)}, as given"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (torch.dtype, torch.device)):
        return str(value).removeprefix("torch.")
    if isinstance(value, (np.generic, np.ndarray, torch.Tensor)):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    # What can be run through only once is not run through here.
    if isinstance(value, (Sequence, Set)):
        return [_plain(each) for each in value]
    if hasattr(value, "describe") and isinstance(described := value.describe(), Mapping):
        return _plain(described)
    if isinstance(value, (Perturbation, Metric, Measure)) and _goes_by_name(value):
        return value.name
    named = getattr(value, "name", None) or getattr(value, "__name__", None)
    return {YOURS: str(named or type(value).__name__)}


def _goes_by_name(value: Perturbation | Metric | Measure) -> bool:
    """Check that looking its name up gives the same, and not the user's own of that name."""
    if isinstance(value, Measure):
        return MEASURES.get(value.name) is value
    try:
        if isinstance(value, Metric):
            known = metrics.parse(value.name)[0]
            same = replace(known, per_example=value.per_example) == value
            return same and fingerprint(known.per_example) == fingerprint(value.per_example)
        return fingerprint(perturb.parse(value.name)[0].apply) == fingerprint(value.apply)
    except LayerscopeError:  # there is none of that name
        return False
