"""Networks without values, as ``torch.device("meta")`` and ``init_empty_weights`` make them."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.tensors import as_bytes, named_tensors
from layerscope.core.checkpoints import Series, open_series
from layerscope.errors import OptionError

__all__ = ["is_skeleton", "materialize"]

Checkpoints = Series | Mapping[int, Any] | str | os.PathLike[str]

_BUILD = (
    "build the network with accelerate.init_empty_weights(), which leaves buffers their values, or "
    "on the CPU; or give its folder or name"
)


def is_skeleton(model: object) -> bool:
    """Check for a network of which a parameter or buffer holds no values."""
    return isinstance(model, nn.Module) and any(
        tensor.is_meta for tensors in (model.parameters(), model.buffers()) for tensor in tensors
    )


def materialize(model: nn.Module, checkpoints: Checkpoints | None) -> nn.Module:
    """Copy a network on the device meta to the CPU, with the weights of the last checkpoint.

    They are read tensor by tensor. Weights that transformers ties are tied. Buffers that no
    checkpoint holds are computed by the method that transformers has for them.

    Parameters
    ----------
    model : nn.Module
        It stays as it is.
    checkpoints : Series, mapping, or path of a folder
        As for `layerscope.sweep`.

    Raises
    ------
    CheckpointError
        If the last checkpoint does not fit.
    OptionError
        If nothing says what values a tensor has.
    """
    if checkpoints is None:
        _refuse(model)
    network = copy.deepcopy(model)
    of_transformers = _is_of_transformers(network)
    if of_transformers:
        network.tie_weights()  # type: ignore[operator]
    saved = {id(tensor) for tensor in named_tensors(network).values()}
    unsaved = _give_memory(network, saved)
    for path, names in unsaved.items():
        _compute(network, path, names, possible=of_transformers)
    _require_values(network)
    series = open_series(checkpoints).fit(network)
    done = set()
    with torch.no_grad():
        for name, tensor in named_tensors(network).items():
            if id(tensor) not in done:
                tensor.copy_(series.read(series.last, [name])[name])
                done.add(id(tensor))
    return network


def _refuse(model: nn.Module) -> NoReturn:
    held = (*model.named_parameters(), *model.named_buffers())
    at = next(name for name, tensor in held if tensor.is_meta)
    raise OptionError(
        f"{at} of model is on the device meta, which holds no values; give checkpoints=, of which "
        "the last is the trained network, or the folder or name of the network itself."
    )


def _give_memory(network: nn.Module, saved: set[int]) -> dict[str, list[str]]:
    """Put memory in the place of what has none; list the buffers, by module, that are not saved."""
    made: dict[int, Tensor] = {}
    unsaved: dict[str, list[str]] = {}
    for path, module in network.named_modules():
        holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in holders:
            for name, tensor in held.items():
                if tensor is None or not tensor.is_meta:
                    continue
                if id(tensor) not in saved:
                    unsaved.setdefault(path, []).append(name)
                held[name] = made.setdefault(id(tensor), _on_cpu(tensor))
    return unsaved


def _on_cpu(tensor: Tensor) -> Tensor:
    memory = torch.empty_like(tensor, device="cpu", requires_grad=False)
    if isinstance(tensor, nn.Parameter):
        memory = nn.Parameter(memory, requires_grad=tensor.requires_grad)
        vars(memory).update(vars(tensor))
    return memory


def _compute(network: nn.Module, path: str, names: list[str], possible: bool) -> None:
    """Let a network of transformers compute buffers that it does not save.

    What a method writes does not depend on what was there, so it is told apart from what is left.
    """
    module = network.get_submodule(path)
    found: list[list[Tensor]] = []
    able = possible and not module._parameters and hasattr(network, "_init_weights")
    for byte in (0, 85) if able else ():
        for name in names:
            as_bytes(module._buffers[name]).fill_(byte)  # type: ignore[arg-type]
        with devices.Generators(torch.device("cpu")), torch.no_grad():
            network._init_weights(module)  # type: ignore[operator]
        found.append([module._buffers[name].clone() for name in names])  # type: ignore[union-attr]
    if not able or not all(map(torch.equal, *found)):
        where = f"{path}.{names[0]}" if path else names[0]
        raise OptionError(
            f"the buffer {where} of model is on the device meta, and checkpoints do not hold it; "
            f"{_BUILD}."
        )


def _require_values(network: nn.Module) -> None:
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.is_meta:
                raise OptionError(
                    f"the attribute {name} of {path or 'model'} is a tensor on the device meta; "
                    f"{_BUILD}."
                )


def _is_of_transformers(network: nn.Module) -> bool:
    library: Any = sys.modules.get("transformers")
    return library is not None and isinstance(network, library.PreTrainedModel)
