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
from layerscope.errors import LayerError

__all__ = ["borrowed", "like", "swapped"]


@contextmanager
def borrowed(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Lend a network in evaluation mode on `device`; afterwards everything is as before.

    Parameters, buffers, modes and device come back also after an exception or Ctrl-C. Buffers
    are lent as copies, in case the network writes to them.
    """
    parameters = [(p, p.data) for p in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    copies: dict[int, Tensor] = {}  # one for each buffer, also where modules share it
    try:
        for parameter, data in parameters:
            parameter.data = data.to(device)
        for module, own in buffers:
            for name, buffer in own.items():
                if buffer is not None:
                    lent = copies.setdefault(id(buffer), buffer.to(device, copy=True))
                    module._buffers[name] = lent
        with metrics.evaluating(model):
            yield model
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, own in buffers:
            # As a whole, so that buffers which the network made on the way go too.
            module._buffers.clear()
            module._buffers.update(own)


@contextmanager
def swapped(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let tensors of the network stand for `values`; afterwards for their own again.

    Raises
    ------
    LayerError
        If a value has another shape than the tensor that it stands for.
    """
    current = layers.tensors(model)
    for name, value in values.items():
        # copy_ would stretch a smaller tensor to fit.
        if value.shape != current[name].shape:
            raise LayerError(
                f"{name} has the shape {tuple(current[name].shape)} and can't hold a tensor of "
                f"shape {tuple(value.shape)}."
            )
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
