"""Networks whose weights Accelerate moves about in every pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from layerscope.errors import OptionError

__all__ = ["require_undispatched"]

_INSTEAD = (
    "a sweep puts other weights in their place and reuses passes on one device. Give the folder or "
    "name of the network, or what accelerate.hooks.remove_hook_from_submodules left of it on one "
    "device"
)


def require_undispatched(model: nn.Module, device: torch.device | None = None) -> None:
    """Refuse a network with hooks that fetch its weights, or send inputs to another device.

    Hooks that keep everything on the device of the sweep change nothing, and may stay.

    Parameters
    ----------
    model : nn.Module
    device : torch.device, optional
        Where it is going to run.

    Raises
    ------
    OptionError
    """
    places = {}
    for path, hook in _hooks(model):
        if getattr(hook, "offload", False):
            raise OptionError(
                f"the weights of {path or 'model'} wait elsewhere until Accelerate's hooks fetch "
                f"them (CPU or disk offload), and {_INSTEAD}."
            )
        if (place := getattr(hook, "execution_device", None)) is not None:
            places[_named(torch.device(place))] = path
    wrong = [name for name in places if device is not None and name != _named(device)]
    if len(places) > 1 or wrong:
        run = f", and the sweep is to run on {device}" if wrong else ""
        raise OptionError(
            f"Accelerate's hooks run the network on {', '.join(sorted(places))}{run}; {_INSTEAD}."
        )


def _hooks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):
            if each is not None:
                yield path, each


def _named(device: torch.device) -> str:
    """Name a device with its number, of those that have one."""
    return str(device) if device.type == "cpu" else f"{device.type}:{device.index or 0}"
