"""The network that questions are about, with its checkpoints and data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.tensors import named_tensors
from layerscope.base.undoing import Undo
from layerscope.core import batches, layers, metrics as metrics_
from layerscope.core.batches import Batch
from layerscope.core.checkpoints import Series, open_series
from layerscope.core.lending import borrowed
from layerscope.core.metrics import Metric
from layerscope.core.networks import network_of, require_readable, require_undispatched
from layerscope.core.running import (
    OutputFinder,
    OutputSpec,
    explain_mismatch,
    infer_reader,
    run_network,
)

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """A trained network with its checkpoints and data, how it is run, and what is measured.

    It is `alone` if it came without checkpoints: then it holds the weights itself.
    """

    model: nn.Module
    series: Series
    data: batches.FixedBatches
    metrics: list[Metric]
    device: torch.device
    dtype: torch.dtype | None = None
    output: OutputFinder = field(default_factory=OutputFinder)
    steady: bool = False
    alone: bool = False

    @classmethod
    def of(
        cls,
        model: nn.Module | str | os.PathLike[str],
        data: Any,
        *,
        checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str] | None,
        metrics: Sequence[str | Metric] | None,
        batch_size: int,
        device: str | torch.device,
        dtype: str | torch.dtype | None,
        output: OutputSpec,
        shuffle_seed: int | None = None,
        limit: int = batches.HELD_BYTES,
    ) -> Subject:
        """Open and check what a user gave; the arguments are those of `layerscope.sweep`.

        Of the data at most `limit` bytes are held on the device.

        Raises
        ------
        CheckpointError, DataError, OptionError
            As `layerscope.sweep`.
        """
        place = devices.resolve(device)
        model = layers.require_network(network_of(model, checkpoints))
        require_undispatched(model, place)
        require_readable(model)
        series = (Series.of(model) if checkpoints is None else open_series(checkpoints)).fit(model)
        known = metrics_.chosen(data, metrics)
        precision, find = devices.precision(dtype), OutputFinder(output)
        read = _reader(model, known, place, precision)
        plain = metrics_.within(data)
        held = batches.FixedBatches(
            plain, batch_size, place, limit=limit, shuffle_seed=shuffle_seed, read=read
        )
        held.name = str(getattr(data, "name", ""))
        if metrics is None and not metrics_.own(data):
            known = metrics_.parse(metrics_.default_names(positions=held.positions))
        alone = checkpoints is None
        return cls(model, series, held, known, place, precision, find, alone=alone)

    def fitted(self, outputs: Tensor, inputs: Any, targets: Any) -> Subject:
        """Return the same, with what can be told from the outputs of the first batch.

        Raises
        ------
        DataError
            If there is a class that the network has no output for, or it can't be told in which
            dimension classes stand.
        """
        found = self.output.fitted(outputs, inputs, targets)
        metrics_.check_labels(self.metrics, found.classes_last(outputs), self.data.labels)
        return replace(self, output=found)

    def call(self, inputs: Any) -> Tensor:
        """Run the network on one batch, and find in what it returned what metrics read."""
        return self.output(_run(self.model, inputs, self.device, self.dtype))

    def few(self, batch: Batch) -> Batch:
        """Some examples of a batch, that take little time; all of it where it can't be cut."""
        # A network may treat a single picture otherwise than several, but texts stand alone.
        least = 1 if batches.tokens(*batch) is not None else 2
        few = partial(_few, least)
        return batches.first_examples(batch, few, own=not self.data.cut)

    def trained(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Read tensors of the trained network."""
        return self.series.read(self.series.last, names)

    def pieces(self) -> list[tuple[str, ...]]:
        """Cut the names of all the network's tensors into those that are read together."""
        held = {leaf.name: leaf.tensors for leaf in layers.find(self.model)}
        known = {name for names in held.values() for name in names}
        rest = tuple(name for name in named_tensors(self.model) if name not in known)
        return [*held.values(), rest]


def _few(least: int, count: int) -> int:
    """How many examples of a batch to look at: a small part of many."""
    return max(least, min(16, count // 8))


def _run(model: nn.Module, inputs: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    # Entered anew each time, since autocast remembers cast weights until it ends.
    with devices.autocast(device, dtype):
        return run_network(model, inputs)


def _reader(
    model: nn.Module, wanted: list[Metric], device: torch.device, dtype: torch.dtype | None
) -> Callable[[Any, Any], batches.BatchReader]:
    """Make what finds out from the first batch how all are to be read for a network."""

    def read(inputs: Any, targets: Any) -> batches.BatchReader:
        with Undo() as undo, undo:
            # Only where it is asked, which it is about tokens alone; and once for all questions.
            lend = cache(lambda: undo.enter(_Lent(model, device)))

            def run(within: nn.Module, inputs: Any) -> Any:
                lend()
                with explain_mismatch(inputs):
                    return _run(within, inputs, device, dtype)

            return infer_reader(model, run, inputs, targets, wanted)

    return read


class _Lent(Undo):
    """A network that is asked how batches are to be read."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._model, self._device = model, device

    def begin(self) -> None:
        self.enter(devices.NoGradients())
        self.enter(borrowed(self._model, self._device, "a sweep or a Session"))
