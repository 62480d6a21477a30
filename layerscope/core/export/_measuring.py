"""Loss and speed of a network with and without its blocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from layerscope.base import devices
from layerscope.base.undoing import Undo
from layerscope.core.running import call_and_restore, evaluation_mode

__all__ = ["speeds"]

_ROUNDS = range(7, 100)
_ENOUGH_S = 2.0
"""At least the least number of rounds; more of short passes, until they took this long."""


def speeds(networks: Mapping[str, nn.Module], inputs: Any, device: torch.device) -> dict[str, Any]:
    """Measure how many tokens, or examples, each network takes in a second.

    In turns: one pass each to warm up, then seven rounds or more in which each runs once, so that
    what else the machine does meets all alike. Passes without gradients, over one whole batch.

    Returns
    -------
    dict
        The median of each network by its name; ``ratio``, the median over rounds of what the last
        does in the time of the first, and its least and largest; and how it was measured.
    """
    spent: dict[str, list[float]] = {name: [] for name in networks}
    moved = tree_map(lambda leaf: leaf.to(device) if torch.is_tensor(leaf) else leaf, inputs)
    with Undo() as undo, undo:
        undo.enter(devices.NoGradients())
        for network in networks.values():
            undo.enter(evaluation_mode(network))
        for network in networks.values():
            _seconds(network, moved)
        while not _enough(spent):
            for name, network in networks.items():
                spent[name].append(_seconds(network, moved))
    first, *_, last = spent.values()
    ratios = sorted(before / after for before, after in zip(first, last, strict=True))
    unit, count, shape = _size(moved)
    return {
        "unit": f"{unit} a second",
        **{name: round(count / statistics.median(each), 1) for name, each in spent.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(ratios[0], 3), round(ratios[-1], 3)],
        "rounds": len(first),
        "batch": list(shape),
        "device": devices.describe(device),
    }


def _size(inputs: Any) -> tuple[str, int, torch.Size]:
    """Say in what a batch is counted, how many that is, and its shape."""
    found = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    leaf = next(leaf for leaf in tree_leaves(found) if torch.is_tensor(leaf))
    tokens = not leaf.is_floating_point() and leaf.ndim == 2
    return ("tokens", leaf.numel(), leaf.shape) if tokens else ("examples", len(leaf), leaf.shape)


def _enough(spent: Mapping[str, Sequence[float]]) -> bool:
    rounds = min(map(len, spent.values()))
    return rounds >= _ROUNDS.stop or (
        rounds >= _ROUNDS.start and sum(map(sum, spent.values())) > _ENOUGH_S
    )


def _seconds(network: nn.Module, inputs: Any) -> float:
    """Time one pass, until a device has computed it: a value that is read must be there."""
    began = time.perf_counter()
    outputs = call_and_restore(network, inputs)
    leaf = next((each for each in tree_leaves(outputs) if torch.is_tensor(each)), None)
    if leaf is not None and leaf.numel():
        leaf.reshape(-1)[0].item()
    return time.perf_counter() - began
