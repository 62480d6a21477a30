"""Weights that are packed into small numbers, as quantised networks hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from layerscope.base.tensors import owner_name
from layerscope.errors import OptionError

__all__ = ["find_packed", "require_readable"]

_SCALES = ("scale", "absmax", "scb")
"""Parts of the names of what a packed weight is multiplied by."""


def find_packed(model: nn.Module) -> dict[str, str]:
    """Find the tensors whose numbers mean nothing without a scale that stands elsewhere.

    Parameters of whole numbers (bitsandbytes, MXFP4), buffers of whole numbers beside their scales
    (GPTQ, AWQ), and floating-point numbers of eight bits.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict of str to str
        From each tensor's name to how it is stored, such as ``"uint8 (bitsandbytes)"``.

    Examples
    --------
    >>> find_packed(nn.Linear(2, 1))
    {}
    """
    how = _method(model)
    own = {name: True for name, _ in model.named_parameters()}
    held: dict[str, Tensor] = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    scaled = {owner_name(name) for name in held if _is_scale(name)}
    return {
        name: f"{str(tensor.dtype).removeprefix('torch.')}{how}"
        for name, tensor in held.items()
        if _is_packed(tensor, name in own, owner_name(name) in scaled)
    }


def require_readable(model: nn.Module) -> None:
    """Refuse weights that are tensors of a class of their own, which hides what they hold.

    Raises
    ------
    OptionError
        Names the first, as those of torchao and quanto.
    """
    for name, parameter in model.named_parameters():
        inner = parameter.data
        kind = type(inner)
        if is_traceable_wrapper_subclass(inner) and kind.__name__ != "DTensor":
            raise OptionError(
                f"{name} is a {kind.__module__}.{kind.__qualname__}, whose values can't be "
                "exchanged one tensor at a time; open the network without quantisation."
            )


def _is_packed(tensor: Tensor, parameter: bool, scaled: bool) -> bool:
    if tensor.is_floating_point():
        return tensor.element_size() == 1
    if tensor.dtype == torch.bool or tensor.is_complex() or tensor.numel() < 2:
        return False
    return parameter or (scaled and tensor.ndim > 1)


def _is_scale(name: str) -> bool:
    last = name.rpartition(".")[2].lower()
    return any(part in last for part in _SCALES)


def _method(model: nn.Module) -> str:
    """Name what packed the weights, as the configuration of a network of transformers says it."""
    about: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    said = about.get("quant_method") if isinstance(about, Mapping) else None
    said = said or getattr(about, "quant_method", None)
    return f" ({getattr(said, 'value', said)})" if said else ""
