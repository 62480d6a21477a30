"""Evaluation of a network as it stands."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core import batches as data_module
from layerscope.core.layers import require_network
from layerscope.core.metrics._named import Metric, parse
from layerscope.core.metrics._per_example import check_in_place, check_labels, measure
from layerscope.core.metrics._tally import Tally
from layerscope.core.running import (
    OutputFinder,
    OutputSpec,
    call_and_restore,
    evaluation_mode,
    explain_mismatch,
    infer_reader,
    run_network,
)
from layerscope.errors import DataError, SweepWarning

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    data: Any,
    metrics: Sequence[str | Metric] = ("error", "loss"),
    batch_size: int = 1000,
    device: str | torch.device = "auto",
    reference: nn.Module | None = None,
    output: OutputSpec = None,
) -> dict[str, Tally]:
    """Evaluate a network as it stands on data of any form: every batch, one after the other.

    A sweep gives the same bits for a copy that holds the same weights, see `layerscope.core.plain`.

    Parameters
    ----------
    model : nn.Module
        Already on `device`; its mode is put back afterwards.
    data : Examples, pair of tensors, or iterable of batches
    metrics : sequence of str or Metric
    batch_size : int
    device : str or torch.device
        Where batches are moved to.
    reference : nn.Module, optional
        The unperturbed network, for metrics that compare with it; treated as `model`.
    output : str, int or callable, optional
        What metrics read, as for `layerscope.sweep`.

    Returns
    -------
    dict of str to Tally

    Raises
    ------
    OptionError
        If there is no such metric, or it needs a reference and there is none.
    DataError
        If outputs and targets do not go together, or no target counts.

    Examples
    --------
    >>> from layerscope import models
    >>> net = models.build("fcn-1x8", inputs=(4,), classes=2)
    >>> tallies = evaluate(net, (torch.zeros(6, 4), torch.zeros(6, dtype=torch.long)), device="cpu")
    >>> tallies["error"].count
    6
    """
    require_network(model)
    if reference is not None:
        require_network(reference, "reference")
    place = devices.resolve(device)
    wanted = parse(metrics)
    tallies = {metric.name: Tally() for metric in wanted}
    with Undo() as undo, undo:
        for each in [model] if reference is None else [model, reference]:
            undo.enter(evaluation_mode(each))
        read: data_module.BatchReader | None = None
        find = OutputFinder(output)
        for given in data_module.batches(data, batch_size):
            first = read is None
            if read is None:
                inputs, targets = data_module.move(given, place)
                read = infer_reader(model, _asked, inputs, targets, wanted)
                if read.guessed:
                    warnings.warn(str(read), SweepWarning, stacklevel=2)
            inputs, targets = read(*given)
            labels = data_module.label_range(targets)
            inputs, targets = data_module.move((inputs, targets), place)
            with explain_mismatch(inputs):
                said = call_and_restore(model, inputs)
            if first:
                find = find.fitted(find(said), inputs, targets)
            outputs = find(said)
            against = None if reference is None else find(call_and_restore(reference, inputs))
            check_labels(wanted, outputs, labels)
            if first:
                check_in_place(wanted, outputs, targets, against)
            for name, outcome in measure(wanted, outputs, targets, against).items():
                tallies[name] += Tally.of(outcome)
    if read is not None and not any(tally.count for tally in tallies.values()):
        raise DataError(
            "no target counts: all are -100, or at padding. Give the class that is right for at "
            "least one."
        )
    return tallies


def _asked(model: nn.Module, inputs: Any) -> Any:
    with explain_mismatch(inputs):
        return run_network(model, inputs)
