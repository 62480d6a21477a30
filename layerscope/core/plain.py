"""The specification: what the number in a cell is, computed in the plainest way there is.

The trained network is copied, one layer of the copy gets other values (or modules of it are passed
over), and the copy is evaluated on one batch after the other. Nothing is reused or skipped. What
`layerscope.sweep` and `Session` give is this, bit for bit, with less work; their tests compare
them with this file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from layerscope.base import seeds
from layerscope.base.tensors import named_tensors, owner_name
from layerscope.core import metrics
from layerscope.core.batches import Batch
from layerscope.core.checkpoints import Series
from layerscope.core.layers import Layer
from layerscope.core.metrics import Metric, Tally
from layerscope.core.perturb import Perturbation, Redraw, Site
from layerscope.core.running import call_and_restore
from layerscope.results import NO_EPOCH

__all__ = ["cell", "copy_with", "evaluate"]


def copy_with(
    model: nn.Module, values: Mapping[str, Tensor], skipped: Iterable[str] = ()
) -> nn.Module:
    """Copy a network, give tensors of the copy other values, and pass over modules of it.

    One parameter under several names is changed under all. Of parameters that merely share memory
    a deep copy makes separate ones, so each of them must be named in `values`.
    """
    network = copy.deepcopy(model).eval()
    held = named_tensors(network)  # parameters and saved buffers, by name
    with torch.no_grad():
        for name, value in values.items():
            held[name].copy_(value)
    for name in skipped:
        # Whatever the module would return, a copy of its one input stands for it.
        network.get_submodule(name).forward = lambda given, *_, **__: given.clone()
    return network


def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    wanted: Sequence[str | Metric] = ("error", "loss"),
    reference: nn.Module | None = None,
) -> dict[str, Tally]:
    """Sum every metric over pairs of inputs and targets; ``tally.mean`` is the number of a cell.

    It is Σ values / Σ weights over all examples, in double precision, where a value is what the
    metric says of an example and its weight the number of targets that count. Metrics that compare
    with the unperturbed network need it as `reference`.
    """
    tallies = {metric.name: Tally() for metric in metrics.parse(wanted)}
    with torch.no_grad():
        for inputs, targets in batches:
            outputs = call_and_restore(network, inputs)
            against = None if reference is None else call_and_restore(reference, inputs)
            found = metrics.measure(metrics.parse(wanted), outputs, targets, against)
            for name, outcome in found.items():
                tallies[name] += Tally.of(outcome)
    return tallies


def cell(
    model: nn.Module,
    series: Series,
    batches: Iterable[Batch],
    layer: Layer,
    perturbation: Perturbation,
    epoch: int = NO_EPOCH,
    draw: int = 0,
    *,
    seed: int = 0,
    wanted: Sequence[str | Metric] = ("error", "loss"),
) -> dict[str, Tally]:
    """Compute one cell of the sweep over `model` with the checkpoints `series` and this seed."""
    trained = copy_with(model, series.read(series.last, named_tensors(model)))
    site = Site(
        layer=layer,
        trained=series.read(series.last, layer.tensors),
        checkpoint=series.read(epoch, layer.tensors) if perturbation.uses_checkpoint else None,
        fresh=Redraw(model, series).draw,
        generator=seeds.generator(seed, layer.name, perturbation.name, epoch, draw),
        modules={owner: trained.get_submodule(owner) for owner in map(owner_name, layer.tensors)},
    )
    skipped = perturbation.skips(layer) if perturbation.skips else ()
    perturbed = copy_with(trained, perturbation.apply(site), skipped)
    return evaluate(perturbed, batches, wanted, trained)
