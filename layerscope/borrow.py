"""A network that is lent and comes back as it was.

Weights are changed by pointing parameters at other memory, never by writing into theirs, so that
giving them back is an assignment which can't fail half-way and restores every bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from layerscope import layers, metrics

__all__ = ["borrowed", "like", "swapped"]


@contextmanager
def borrowed(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Lend a network in evaluation mode on `device`; afterwards everything is as before.

    Parameters, buffers, modes and device come back also after an exception or Ctrl-C. Buffers
    are lent as copies, in case the network writes to them.
    """
    parameters = [(p, p.data) for p in model.parameters()]
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        for parameter, data in parameters:
            parameter.data = data.to(device)
        for module, name, buffer in buffers:
            module._buffers[name] = buffer.to(device, copy=True)
        with metrics.evaluating(model):
            yield model
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, name, buffer in buffers:
            module._buffers[name] = buffer


@contextmanager
def swapped(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let tensors of the network stand for `values`; afterwards for their own again."""
    current = layers.tensors(model)
    own = [(current[name], current[name].data) for name in values]
    try:
        for (tensor, data), value in zip(own, values.values(), strict=True):
            tensor.data = like(data, value)
        yield
    finally:
        for tensor, data in own:
            tensor.data = data


def like(model_tensor: Tensor, value: Tensor) -> Tensor:
    """Copy `value` into new memory of the device, type and strides of `model_tensor`."""
    return torch.empty_like(model_tensor).copy_(value)
