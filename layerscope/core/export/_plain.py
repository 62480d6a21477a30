"""Networks of any origin without some of their blocks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from layerscope.base.tensors import canonical_names, named_tensors
from layerscope.core.export._blocks import BlockList

__all__ = ["WEIGHTS", "cut", "save_weights"]

WEIGHTS = "model.safetensors"


def cut(
    model: nn.Module, blocks: BlockList, kept: Sequence[int], state: Mapping[str, Tensor]
) -> nn.Module:
    """Copy a network with these weights, and take blocks out of the list that they stand in."""
    network = copy.deepcopy(model)
    network.load_state_dict(state)
    holder = network.get_submodule(blocks.path)
    assert isinstance(holder, (nn.ModuleList, nn.Sequential))
    for at in reversed(range(len(blocks.names))):
        if at not in kept:
            del holder[at]  # which numbers those behind it anew
    return network


def save_weights(network: nn.Module, folder: Path) -> None:
    """Write what a network saves, each tensor once; the names of tied ones are left to it."""
    from safetensors.torch import save_file

    held = named_tensors(network)
    names = canonical_names(held)
    once = {name: t.detach().cpu().contiguous() for name, t in held.items() if names[name] == name}
    save_file(once, folder / WEIGHTS)


def load_weights(network: nn.Module, folder: Path) -> None:
    """Read what `save_weights` wrote."""
    from safetensors.torch import load_file

    open_ = load_file(folder / WEIGHTS)
    names = canonical_names(named_tensors(network))
    network.load_state_dict({name: open_[first] for name, first in names.items()})
