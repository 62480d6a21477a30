"""The units of a layer in another order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layerscope.base.copies import uncopied
from layerscope.base.tensors import owner_name
from layerscope.core.perturb._protocol import Perturbation, Site
from layerscope.errors import LayerError

__all__ = ["permute"]

_GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
_CELLS: Mapping[type[nn.Module], int] = {nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FEATURES_LAST = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)


def permute() -> Perturbation:
    """Put the output units of every module in the layer in another order, one for each module.

    Weight, bias and running statistics of a module move together, so that it computes what it did,
    only that its outputs come out as others expect other ones.

    Notes
    -----
    A unit is a row of a weight; of ``ConvTranspose`` and ``Embedding`` a slice along their output
    channels, of LayerNorm along its last axis. With grouped convolutions, filters move between
    groups, and so see other inputs. Queries, keys and values of ``MultiheadAttention`` and the
    gates of LSTM and GRU are permuted each in itself, all in the same way. Of parameters of other
    modules the first axis that is longer than one is taken. Buffers of whole numbers stay.
    """
    return Perturbation("permute", _permuted, stochastic=True, settings={}, label="permuted")


def _permuted(site: Site) -> dict[str, Tensor]:
    orders: dict[tuple[str, int], Tensor] = {}
    values = {}
    for name, tensor in uncopied(site.trained).items():
        if not tensor.is_floating_point() and not tensor.is_complex():
            continue
        # A parametrised weight is held by a module inside the one that it is the weight of.
        path = owner_name(name).partition(".parametrizations.")[0]
        values[name] = _reordered(tensor, name, path, site, orders)
    return values


def _reordered(
    tensor: Tensor, name: str, path: str, site: Site, orders: dict[tuple[str, int], Tensor]
) -> Tensor:
    module = uncopied(site.modules).get(owner_name(name))
    if module is None:
        raise LayerError(
            f"permuting {name} needs to know the module that holds it; give the site its modules."
        )
    if isinstance(module, _TRANSPOSED) and tensor.dim() > 1:
        # (in, out / groups, …): the filters of a group lie side by side along the second axis.
        split = (module.groups, len(tensor) // module.groups, *tensor.shape[1:])
        filters = tensor.reshape(split).transpose(1, 2)
        units = filters.flatten(0, 1)
        moved = units.index_select(0, _order(path, len(units), site, orders))
        return moved.reshape(filters.shape).transpose(1, 2).reshape(tensor.shape)
    axis, sections = _units(module, name.rpartition(".")[2], tensor)
    if axis is None:
        return tensor
    size = tensor.shape[axis] // sections
    order = _order(path, size, site, orders)
    whole = torch.cat([order + part * size for part in range(sections)])
    return tensor.index_select(axis, whole)


def _order(path: str, size: int, site: Site, orders: dict[tuple[str, int], Tensor]) -> Tensor:
    """Draw the order of a module's units, once for all of its tensors with as many."""
    if (path, size) not in orders:
        orders[path, size] = torch.randperm(size, generator=site.generator)
    return orders[path, size]


def _units(module: nn.Module, name: str, tensor: Tensor) -> tuple[int | None, int]:
    """Axis along which the units lie (None if there is one only), and sections of it."""
    if isinstance(module, _FEATURES_LAST) and tensor.dim():
        return tensor.dim() - 1, 1
    if isinstance(module, nn.MultiheadAttention) and name in ("in_proj_weight", "in_proj_bias"):
        return 0, 3
    if isinstance(module, nn.RNNBase) and not name.startswith("weight_hr"):
        return 0, _GATES[module.mode]
    for cell, gates in _CELLS.items():
        if isinstance(module, cell):
            return 0, gates
    return next((axis for axis, size in enumerate(tensor.shape) if size > 1), None), 1
