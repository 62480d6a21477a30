"""The specification: what the number in a cell is, computed in the plainest way there is.

The trained network is copied, one layer of the copy gets other values (or other blocks, or none,
run at its place), and the copy is evaluated on one batch after the other. Nothing is reused. What
`layerscope.sweep` and `Session` give is this, bit for bit, with less work; their tests compare
them with this file.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from layerscope.base import seeds
from layerscope.base.tensors import named_tensors, owner_name
from layerscope.core import metrics
from layerscope.core.batches import Batch
from layerscope.core.checkpoints import Series
from layerscope.core.layers import Layer
from layerscope.core.metrics import Metric, Tally
from layerscope.core.perturb import Perturbation, Redraw, Site
from layerscope.core.running import (
    Route,
    call_and_restore,
    first_tensor,
    hidden_first,
    merged,
    with_first,
    with_hidden,
)
from layerscope.results import NO_EPOCH

__all__ = ["cell", "copy_with", "evaluate"]


def copy_with(
    model: nn.Module, values: Mapping[str, Tensor], routes: Mapping[str, Route] | None = None
) -> nn.Module:
    """Copy a network, give tensors of the copy other values, and let other blocks run at places.

    One parameter under several names is changed under all. Of parameters that merely share memory
    a deep copy makes separate ones, so each of them must be named in `values`.
    """
    network = copy.deepcopy(model).eval()
    held = named_tensors(network)  # parameters and saved buffers, by name
    with torch.no_grad():
        for name, value in values.items():
            held[name].copy_(value)
    if routes:
        _reroute(network, copy.deepcopy(model).eval(), routes)
    return network


def _reroute(network: nn.Module, trained: nn.Module, routes: Mapping[str, Route]) -> None:
    """Let a route say what runs at a place, instead of the block that stands there."""
    names = {*routes, *(block for route in routes.values() for branch in route for block in branch)}
    blocks = {name: network.get_submodule(name).forward for name in names}
    seen: dict[str, Any] = {}  # what each is given and returns in the trained network
    for name in names:

        def note(_: nn.Module, *call: Any, name: str = name) -> None:
            seen[name] = tree_map(lambda leaf: leaf, call)  # as lists are now

        trained.get_submodule(name).register_forward_hook(note, with_kwargs=True)

    def show(_: nn.Module, args: Any, kwargs: Any) -> None:
        call_and_restore(trained, kwargs or args)

    network.register_forward_pre_hook(show, with_kwargs=True)  # the same inputs, before each pass
    for place, route in routes.items():
        network.get_submodule(place).forward = partial(_run_route, place, route, blocks, seen)


def _run_route(
    place: str, route: Route, blocks: Mapping[str, Any], seen: Mapping[str, Any],
    /, *args: Any, **kwargs: Any,
) -> Any:  # fmt: skip
    """Run blocks on the hidden states, each with its own other arguments; average the branches."""
    ends = []
    for branch in route:
        hidden = first_tensor(hidden_first((args, kwargs))).clone()
        for block in branch:
            given = hidden_first((args, kwargs) if block == place else seen[block][:2])
            its_args, its_kwargs = with_first(given, hidden)
            hidden = first_tensor(blocks[block](*its_args, **its_kwargs))
        ends.append(hidden)
    out = seen[place][-1] if place in seen else ends[0]
    return with_hidden(out, merged(ends, first_tensor(out)))


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
    chance = seeds.generator(seed, layer.name, perturbation.name, epoch, draw)
    routes = perturbation.routes(layer, chance) if perturbation.routes else {}
    perturbed = copy_with(trained, perturbation.apply(site), routes)
    return evaluate(perturbed, batches, wanted, trained)
