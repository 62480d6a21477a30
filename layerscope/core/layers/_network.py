"""Networks that can be examined: their tensors hold values and can be exchanged."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.validate import describe
from layerscope.errors import OptionError

__all__ = ["require_module", "require_network"]


def require_network(model: Any, name: str = "model") -> nn.Module:
    """Return the network if it can be examined, else say what to pass instead.

    Of one that is spread over devices (``DataParallel``, ``DistributedDataParallel``) it is the one
    inside, so that layers have the names, and draws, that they have without.

    Parameters
    ----------
    model
        What came.
    name : str
        Of the argument.

    Raises
    ------
    OptionError
        If it is no ``nn.Module``, is scripted, traced or exported, or has tensors without a
        shape, without values, or made in inference mode.

    Examples
    --------
    >>> require_network(nn.Linear)
    Traceback (most recent call last):
    ...
    layerscope.errors.OptionError: model is the class Linear, not an nn.Module; pass the network \
itself, such as Net().
    """
    require_module(model, name)
    if isinstance(model, torch.jit.ScriptModule):
        raise OptionError(
            f"{name} is scripted or traced (torch.jit), so that its layers can't be changed one by "
            "one; pass the nn.Module that it was made from, with the same weights."
        )
    # Exported programs (torch.export) bring their own, which refuses.
    if "eval" in vars(model):
        raise OptionError(
            f"{name} is an exported program, which has no evaluation mode; pass the nn.Module that "
            "it was made from, with the same weights."
        )
    for tensors in (model.named_parameters(), model.named_buffers()):
        for at, tensor in tensors:
            if why := _unfit(tensor):
                raise OptionError(f"{at} of {name} {why}")
    result: nn.Module = model
    while isinstance(result, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        result = result.module
    return result


def require_module(model: Any, name: str = "model") -> None:
    """Refuse what is no ``nn.Module``, whether or not its tensors hold values.

    Raises
    ------
    OptionError
    """
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"{name} is {describe(model)}, not an nn.Module; pass the network itself, such as "
            "Net()."
        )


def _unfit(tensor: Tensor) -> str:
    """Say what is the matter with a tensor, and what to do; empty for an ordinary one."""
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet, as in a lazy module; run the network on one batch first."
    if tensor.is_meta:
        return (
            "is on the device meta, which holds no values; build the network on the CPU, or give "
            "it memory: model.to_empty(device='cpu')."
        )
    if tensor.is_inference():
        return (
            "was made in inference mode and can't be changed outside of it; build the network "
            "without torch.inference_mode(), or pass copy.deepcopy(model)."
        )
    return ""
