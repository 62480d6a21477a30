"""Peaks of a network's modules, with its trained weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core.measures import Peaks, find_peaks
from layerscope.core.probe import Probe, Subject
from layerscope.core.sweep import sweep

__all__ = ["peaks_of"]

_SHARED = ("checkpoints", "metrics", "batch_size", "device", "dtype", "output")


def peaks_of(
    model: nn.Module, data: Any, paths: Iterable[str], options: Mapping[str, Any]
) -> dict[str, Peaks]:
    """Find the peaks of modules in one pass over the data, lent as a sweep with `options` does."""
    usual = {name: each.default for name, each in inspect.signature(sweep).parameters.items()}
    given = {name: options.get(name, usual[name]) for name in _SHARED}
    with Undo() as undo, undo:
        undo.enter(devices.NoGradients())
        return find_peaks(undo.enter(Probe(Subject.of(model, data, **given), "drilling")), paths)
