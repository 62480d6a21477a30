"""Which devices there are, and the one that is meant."""

from __future__ import annotations

from collections.abc import Callable

import torch

from layerscope.base import validate
from layerscope.errors import OptionError


def present() -> list[str]:
    """List the devices of this machine, the one that ``"auto"`` takes first."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    found = ["cuda"] if len(found) == 1 else found
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def resolve(device: str | torch.device = "auto") -> torch.device:
    """Turn the user's choice of device into one that is there.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes the first of cuda, mps and cpu that is present.

    Raises
    ------
    OptionError
        If the device is unknown, or not present on this machine.
    """
    present: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device == "auto":
        return torch.device(next((name for name, there in present.items() if there()), "cpu"))
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(
            f"{validate.describe(device)} is not a device; use 'auto', 'cpu', 'cuda', 'cuda:1' or "
            "'mps'."
        ) from None
    # Other kinds, such as xpu, each have a module in torch; meta, which holds no values, has none.
    backend = getattr(torch, chosen.type, None)
    there = present.get(chosen.type) or getattr(backend, "is_available", None)
    if there is None or not there():
        raise OptionError(
            f"device {str(device)!r} is not present on this machine; use 'auto' or 'cpu'."
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {str(device)!r} is not present: this machine has "
            f"{torch.cuda.device_count()} CUDA device(s), counted from 0."
        )
    # There is one of these, whatever number it goes by; tensors on it would say they are elsewhere.
    return torch.device(chosen.type) if chosen.type in ("cpu", "mps") else chosen


def describe(device: torch.device) -> str:
    """Name the device as a person would, such as ``"NVIDIA H100 (cuda:0)"``."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)
