"""A folder of transformers, looked at before transformers opens it.

It builds what a configuration says, and draws at random what the weights lack: thousands of layers,
or matrices of a million rows, that no file holds. Here both are held against each other first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from layerscope.base import files
from layerscope.base.tensors import named_tensors
from layerscope.core.checkpoints import WEIGHTS, open_checkpoint
from layerscope.core.networks._finding import CONFIG
from layerscope.errors import CheckpointError

__all__ = ["read_config", "require_held", "require_plausible", "require_regular"]

_READ = (".json", ".txt", ".model", ".jinja", ".safetensors", ".bin", ".gguf")
"""How the names end of what transformers reads."""

_LARGE = ("tokenizer.json", "vocab.json")
"""JSON that is looked at elsewhere, or too long to be read twice."""

_WHAT = "the configuration of a network"

_LAYERS = ("layer", "layers", "blocks")
"""How the names end of how many there are of what has weights of its own."""

_SIZES = (
    *("_size", "_dim", "_width", "_heads", "_embd", "_inner", "_model", "_ff", "_positions"),
    *("_embeddings", "_experts"),
)
"""How the names end of what is the side of a matrix, or divides one."""

_DEEPEST = 10_000  # layers, where there are no weights to count
_FREE = 2**24  # numbers of a network that its weights may lack: they are told one by one
_PACKED = 16  # numbers in one that is stored, at most
_LARGEST = 2**24  # the side of a matrix; vocabularies have less than 2**20


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a network in a folder.

    Raises
    ------
    CheckpointError
        If it is none, or says of a type that the network has what is no text.
    """
    path = folder / CONFIG
    found = files.read_json(path, error=CheckpointError, what=_WHAT)
    files.fit_schema(found, _Config, where=path, error=CheckpointError, what=_WHAT)
    return dict(found)


class _Config(files.Schema, kw_only=True):
    """A configuration, as far as every one of them is alike."""

    model_type: str | None = None
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None


def require_regular(folder: Path) -> None:
    """Refuse a folder with pipes or devices in it, or JSON that transformers would choke on.

    Raises
    ------
    CheckpointError
        Names the first.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ and not files.is_folder(path):
            files.open_file(path, error=CheckpointError).close()
        if path.suffix == ".json" and path.name not in _LARGE:
            files.read_json(path, error=CheckpointError)


def require_plausible(folder: Path) -> None:
    """Refuse a network with more layers, or larger ones, than its weights can be of.

    Raises
    ------
    CheckpointError
        If its configuration or its weights can't be read, or don't go together.
    """
    config = read_config(folder)
    count, side = _DEEPEST, _LARGEST
    if any(files.is_file(folder / name) for name in WEIGHTS):
        held = open_checkpoint(folder, str(folder)).signature()
        count = len(held)
        side = max(side, *(max(shape, default=1) for shape, _ in held.values()))
    for name, value in _numbers(config):
        most = count if name.endswith(_LAYERS) else side if name.endswith(_SIZES) else value
        if value > most:
            raise CheckpointError(
                f"{folder / CONFIG} says {name} = {value:,}, and the weights beside it can be of "
                f"at most {most:,}: it is the configuration of another network, or damaged."
            )


def require_held(folder: Path, outline: nn.Module) -> None:
    """Refuse a network that is much larger than the weights beside it.

    Parameters
    ----------
    folder : Path
    outline : nn.Module
        As its configuration describes it, without values.

    Raises
    ------
    CheckpointError
        Tells both.
    """
    if not any(files.is_file(folder / name) for name in WEIGHTS):
        return
    held = open_checkpoint(folder, str(folder)).signature().values()
    most = _FREE + _PACKED * sum(math.prod(shape) for shape, _ in held)
    need = sum(tensor.numel() for tensor in named_tensors(outline).values())
    if need > most:
        raise CheckpointError(
            f"{folder / CONFIG} describes a network of {need:,} numbers, and the weights beside it "
            f"can be of at most {most:,}: it is the configuration of another one, or damaged."
        )


def _numbers(config: Any) -> Iterator[tuple[str, int]]:
    """Yield every whole number of a configuration, and those of the parts in it."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value
