"""The audit of a series: digests and distances of every tensor, and what they say against it.

>>> import torch
>>> from layerscope import checkpoints
>>> trained = {"weight": torch.randn(8, 8)}
>>> found = checkpoints.audit({0: trained, 1: {"weight": torch.zeros(8, 8)}, 2: {
...     "weight": trained["weight"].clone()}})
>>> [finding.kind for finding in found.findings]
['copy']

Series that others published have held copies of the last weights as step 0, foreign shards,
identical neighbours, and first checkpoints from which nothing of the rest came.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from layerscope.base import progress
from layerscope.core.checkpoints._findings import find_faults
from layerscope.core.checkpoints._opening import open_series
from layerscope.core.checkpoints._sentences import Finding, Sentences
from layerscope.core.checkpoints._series import Series
from layerscope.core.checkpoints._trails import COUNTER, History, Trail
from layerscope.errors import CheckpointError

__all__ = ["Audit", "audit", "find_copies"]


@dataclass(frozen=True)
class Audit:
    """Findings about a series, and what they rest on.

    Attributes
    ----------
    findings : list of Finding
        Faults first, then what is so in sound series too.
    dataset : Dataset
        Along ``tensor`` and ``epoch``: ``digest`` (SHA-256), ``norm``, ``distance`` (from the first
        checkpoint), ``step`` (from the one before), ``to_last``, ``not_finite``, and the cosines
        ``cosine_first`` and ``cosine_before`` of tensors less their means. All but ``digest``,
        ``norm``, ``not_finite`` and what is from the first are estimated within some 2 % for
        tensors of more than 4,096 elements.
    """

    findings: list[Finding]
    dataset: xr.Dataset

    @property
    def faults(self) -> list[Finding]:
        """Findings that no sound series has."""
        return [finding for finding in self.findings if finding.fault]

    def __repr__(self) -> str:
        said = [f"- {finding.sentence} {finding.advice}" for finding in self.findings]
        size = self.dataset.sizes
        head = f"<Audit of {size['tensor']} tensors at {size['epoch']} checkpoints"
        faults = f"{(n := len(self.faults))} fault{'' if n == 1 else 's'}"
        return "\n".join([f"{head}: {faults}>", *said])


def audit(
    checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str],
    model: nn.Module | None = None,
    *,
    show_progress: bool = True,
) -> Audit:
    """Look through a series for what should not be trusted.

    It is read tensor by tensor; of no more than two checkpoints a tensor is held at a time.

    Single tensors of another run are told from some 256 elements on inside a series. At its ends,
    where one neighbour is missing, it takes some 1,600, of one tensor or of several such together,
    and more where weights grew; a small output layer alone may pass.

    Parameters
    ----------
    checkpoints : Series, mapping, or path of a folder
        As `open_series` takes it.
    model : nn.Module, optional
        The network that they are of; with it, checkpoints may name their tensors differently.
    show_progress : bool

    Returns
    -------
    Audit

    Raises
    ------
    CheckpointError
        If there is no series, a file is damaged, or does not fit `model`.

    Examples
    --------
    >>> import torch
    >>> draws = [{"weight": torch.randn(64, 64)} for _ in range(2)]
    >>> audit({0: draws[0], 1: draws[1]}).faults
    []
    """
    series = open_series(checkpoints)
    if not series.epochs:
        raise CheckpointError(
            "there are no checkpoints to audit, only the weights that a network holds; give a "
            "folder, or a mapping from epoch to state dict or path."
        )
    if model is not None:
        series.fit(model)
    names, differing = _common(series)
    trails = []
    total = len(names) * len(series.epochs)
    with progress.bar(total, "audit checkpoints", "tensor", show=show_progress) as advance:
        for name in names:
            trail = Trail(name)
            first = series.read(series.epochs[0], [name])[name]
            trail.add(first, first)
            advance(1)
            for epoch in series.epochs[1:]:
                trail.add(series.read(epoch, [name])[name], first)
                advance(1)
            del first  # before the next is read
            trail.finish()
            trails.append(trail)
    history = History.of(trails, series.epochs)
    return Audit([*differing, *find_faults(history, series.unit)], _dataset(history, series.unit))


def find_copies(series: Series) -> list[Finding]:
    """Find earlier checkpoints with the very weights of the last, reading little of the others.

    Tensors are compared from the smallest on, one of each at a time, up to the first that differs.
    """
    shapes = series.shapes(series.last)
    names = sorted((n for n in shapes if not n.endswith(COUNTER)), key=lambda n: prod(shapes[n]))

    def equal(epoch: int, name: str) -> bool:
        (then,), (now,) = (series.read(at, [name]).values() for at in (epoch, series.last))
        return then.dtype == now.dtype and torch.equal(then, now)

    epochs = series.epochs
    same = [at for at, e in enumerate(epochs[:-1]) if all(equal(e, name) for name in names)]
    say = Sentences(epochs, series.unit)
    return [say.copy([*same, len(epochs) - 1], same, names)] if same else []


def _common(series: Series) -> tuple[list[str], list[Finding]]:
    """Find the tensors that all checkpoints have in one shape, and say which do not."""
    forms = [series.shapes(epoch) for epoch in series.epochs]
    last, say = forms[-1], Sentences(series.epochs, series.unit)
    names = [n for n, shape in last.items() if all(form.get(n) == shape for form in forms)]
    found = []
    for at, form in enumerate(forms):
        other = sorted(n for n in form.keys() | last.keys() if form.get(n) != last.get(n))
        if other:
            found.append(say.other_tensors(at, other))
    return names, found


_VARIABLES = {
    "digest": ("digest", "SHA-256 over values, shape and type", ""),
    "norm": ("norm", "‖θ‖₂", "1"),
    "distance": ("from_first", "distance from the first checkpoint, ‖θ − θ⁰‖₂", "1"),
    "step": ("step", "distance from the checkpoint before", "1"),
    "to_last": ("to_last", "distance from the last checkpoint", "1"),
    "cosine_first": ("like_first", "cosine with the first checkpoint, each less its mean", "1"),
    "cosine_before": ("like_before", "cosine with the checkpoint before, each less its mean", "1"),
    "not_finite": ("not_finite", "number of values that are NaN or infinite", "1"),
}


def _dataset(history: History, unit: str) -> xr.Dataset:
    dims = ("tensor", "epoch")
    variables: dict[str, Any] = {
        name: (dims, getattr(history, field), _about(words, units))
        for name, (field, words, units) in _VARIABLES.items()
    }
    coords: dict[str, Any] = {
        "tensor": (
            "tensor",
            np.array(history.names, dtype=object),
            _about("tensor, by its name", ""),
        ),
        "epoch": ("epoch", list(history.epochs), _about("checkpoint", unit)),
        "elements": ("tensor", history.sizes, _about("number of elements", "1")),
    }
    return xr.Dataset(variables, coords)


def _about(words: str, units: str) -> dict[str, str]:
    return {"long_name": words} | ({"units": units} if units else {})
