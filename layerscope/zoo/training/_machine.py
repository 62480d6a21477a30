"""Machine of a training: weights depend on it, and the name of their series does not say it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from layerscope._version import __version__
from layerscope.base import devices

__all__ = ["same_machine"]

_COMPARED = ("layerscope", "torch", "device")


@contextmanager
def same_machine(begun: Mapping[str, Any], device: torch.device) -> Iterator[dict[str, Any]]:
    """Train as it was begun, with as many threads; say so where that can't be.

    Parameters
    ----------
    begun : mapping
        The manifest of a training that stopped; empty for one that begins.
    device : torch.device

    Yields
    ------
    dict
        What the manifest says of it.
    """
    with devices.Threads(begun.get("threads")):
        here = {
            "layerscope": __version__,
            "torch": str(torch.__version__),
            "device": devices.describe(device),
            "threads": torch.get_num_threads(),
        }
        if other := [name for name in _COMPARED if begun.get(name, here[name]) != here[name]]:
            was = {name: begun[name] for name in other}
            now = {name: here[name] for name in other}
            warnings.warn(
                f"this training was begun with {was} and goes on with {now}: its weights will be "
                "those of neither alone. Delete its folder to train all of it here.",
                stacklevel=4,
            )
            here["begun_with"] = begun.get("begun_with", was)
        yield here
