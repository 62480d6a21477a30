"""The one place where a device is named.

>>> from layerscope import devices
>>> str(devices.resolve("cpu"))
'cpu'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from layerscope.errors import OptionError

__all__ = ["chance", "describe", "resolve"]


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
            f"{device!r} is not a device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
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
    return chosen


def describe(device: torch.device) -> str:
    """Name the device as a person would, such as ``"NVIDIA H100 (cuda:0)"``."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return str(device)


@contextmanager
def chance(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Lend torch's global generators, of the CPU and of `device`; afterwards they are as before.

    Yields
    ------
    callable
        Takes a seed and sets them all to it.

    Examples
    --------
    >>> with chance(torch.device("cpu")) as seed:
    ...     seed(7)
    ...     one = torch.rand(3)
    >>> bool((one == torch.rand(3, generator=torch.Generator().manual_seed(7))).all())
    True
    """
    generators = [torch.default_generator]
    if device.type == "mps":
        generators.append(torch.mps._get_default_mps_generator())
    elif device.type != "cpu":
        backend = torch.get_device_module(device)
        backend.init()  # the generators are there from then on
        index = backend.current_device() if device.index is None else device.index
        generators.append(backend.default_generators[index])
    before = [generator.get_state() for generator in generators]

    def seed(number: int) -> None:
        for generator in generators:
            generator.manual_seed(number)

    try:
        yield seed
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)
