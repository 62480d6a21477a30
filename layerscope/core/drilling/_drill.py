"""Drilling down step by step: each sweep looks into the worst row of the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import nn

from layerscope import results, stats
from layerscope.base import validate
from layerscope.base.tensors import named_tensors, owner_name
from layerscope.core import layers, perturb
from layerscope.core.drilling._weights import peaks_of
from layerscope.core.layers import Layer, Norms
from layerscope.core.sweep import sweep
from layerscope.errors import LayerError, OptionError, choose

__all__ = ["drill"]

_VIEWS = ("block", "component", "tensor")
_OWN = ("layers", "view", "perturbations", "whole", "out", "plan")


def drill(
    model: nn.Module,
    data: Any,
    layer: str | None = None,
    *,
    perturbation: perturb.PerturbationLike = "zero",
    metric: str | None = None,
    weights: int = 4,
    norms: Norms | str | Mapping[str, str] = "kept",
    out: str | Path | None = None,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """Find the block that matters most, in it the component, in that the tensor, and its weight.

    Each step is a sweep over what lies in the row whose perturbation made the metric worst in the
    step before. The last sets single weights of the worst tensor to zero: those that alone add most
    to an output of their module, ``|w| · max |x|`` over the tokens of the data; of tensors that are
    no matrix, those of the largest ``|w|``.

    Parameters
    ----------
    model : nn.Module
    data
        As for `layerscope.sweep`.
    layer : str, optional
        The block to look into; by default the worst of all, which takes a sweep over them.
        Embeddings, last normalisation and head are no blocks, and are only looked into by name.
    perturbation : str, Perturbation or function
        What is done to blocks, components and tensors.
    metric : str, optional
        By which the worst is found; by default the error, or the first of `metrics`.
    weights : int
        How many single weights to look at.
    norms : {"own", "with", "kept"}, Norms or mapping
        As for `layerscope.sweep`. By default normalisation is left alone: a block without that
        before its MLP is as good as without the MLP, and which of both is worst is chance.
    out : path, optional
        Folder for the sweeps, each in a folder of its own below it; the same call goes on there.
    **options
        Further arguments of `layerscope.sweep`: `checkpoints`, `metrics`, `batch_size` and so on.

    Returns
    -------
    dict of str to Dataset
        Under ``"block"`` (without `layer`), ``"component"``, ``"tensor"`` and ``"weight"`` the
        sweeps; of the last, each weight is a perturbation.

    Raises
    ------
    LayerError
        If there is no such block.
    OptionError
        If an argument is one that the steps themselves give, such as `view`.
    """
    if given := [name for name in _OWN if name in options]:
        raise OptionError(f"drill sets {given[0]} itself at every step; leave it out.")
    count = validate.integer(weights, "weights", 1, 4)
    network = layers.require_network(model)
    row = None if layer is None else _row(network, layer, norms)
    found: dict[str, xr.Dataset] = {}

    def step(view: str, rows: Sequence[str], kinds: Sequence[perturb.PerturbationLike]) -> str:
        where = None if out is None else Path(out) / view
        seen = "tensor" if view == "weight" else view
        found[view] = sweep(
            model, data, view=seen, layers=rows, norms=norms, perturbations=kinds, whole=False,
            out=where, **options,
        )  # fmt: skip
        return _worst(found[view], metric)

    for view in _VIEWS[0 if row is None else 1 :]:
        # Not embeddings, last normalisation or head, without which nothing works.
        rows = layers.blocks(network, norms=norms)
        rows = rows if row is None else layers.find(network, view, norms)
        inside = [each for each in rows if _within(each, row)]
        names = [each.name for each in inside]
        worst = step(view, names, [perturbation])
        row = next(each for each in inside if each.name == worst)
    assert row is not None
    step("weight", [row.name], _single(model, data, row.name, count, options))
    return found


def _row(network: nn.Module, name: str, norms: Norms | str | Mapping[str, str]) -> Layer:
    rows = {each.name: each for each in layers.find(network, "block", norms)}
    try:
        return rows[choose(name, rows, "block")]
    except OptionError as error:
        raise LayerError(str(error)) from None


def _within(row: Layer, outer: Layer | None) -> bool:
    return outer is None or (bool(row.parameters) and set(row.parameters) <= set(outer.parameters))


def _worst(ds: xr.Dataset, metric: str | None) -> str:
    """The row whose perturbation made a metric worst; what is no number is worst of all."""
    name = results.metric_name(ds, metric)
    moved = stats.degradation(ds).sel(metric=name) * results.metric(ds, name).worse
    broken = results.not_finite(ds).sel(metric=name)
    moved = moved.where(~broken.transpose(*moved.dims), float("inf"))
    worst = moved.max([dim for dim in moved.dims if dim != "layer"])
    if worst.isnull().all():
        raise LayerError(
            "no row could be perturbed, so that none is the worst; see results.refusals."
        )
    # Where several make the same difference, as each matrix of an MLP does, the last of them: it
    # leads back to the hidden states.
    names = [str(each) for each in worst["layer"].values]
    order = worst.fillna(-float("inf")).values.tolist()
    return max(zip(order, range(len(names)), names, strict=True))[2]


def _single(
    model: nn.Module, data: Any, tensor: str, count: int, options: dict[str, Any]
) -> list[perturb.Perturbation]:
    """One perturbation for each of the weights that add most."""
    weight = named_tensors(layers.require_network(model))[tensor].detach()
    size = weight.abs().double().cpu()
    if weight.ndim == 2:
        peaks = peaks_of(model, data, [owner_name(tensor)], options).get(owner_name(tensor))
        if peaks is not None and len(peaks.given) in weight.shape:
            along = weight.shape == (len(peaks.gave), len(peaks.given))
            size = size * (peaks.given if along else peaks.given[:, None])
    places = size.flatten().topk(min(count, size.numel())).indices
    where = torch.stack(torch.unravel_index(places, size.shape), dim=1).tolist()
    return [perturb.zero_weights({tensor: [tuple(place)]}) for place in where]
