"""Where a training stands, in one file: what going on from there needs, to the last bit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from layerscope.base.tensors import update_digest
from layerscope.base.writing import write_bytes
from layerscope.core.checkpoints import separate_tensors
from layerscope.errors import CheckpointError

__all__ = ["RESUME", "Position", "restore", "save"]

RESUME = "resume.safetensors"

_DIGEST = "sha256"

_DAMAGED = (
    "{} is not what the interrupted training wrote: {}. Copy it again from where it is whole, or "
    "delete it: the same call then trains from the start, to the same weights. Checkpoints that "
    "were recorded stay."
)


@dataclass
class Position:
    """How far a training has come.

    The order of the data and every random number follow from it and the seed.

    Attributes
    ----------
    epoch : int
        Epochs that are finished.
    step : int
        Steps done of the next.
    seconds : float
        Time spent.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0


def save(
    folder: Path,
    position: Position,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sums: Mapping[str, Tensor],
) -> None:
    """Write where a training stands; `sums` were added up over the unfinished epoch."""
    from safetensors.torch import save as serialise

    state = {f"model.{name}": t for name, t in model.state_dict().items() if torch.is_tensor(t)}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"optimizer.{key}.{name}"] = value
    state |= {f"sums.{name}": t for name, t in sums.items()}
    kept = separate_tensors(state)
    about = {"epoch": position.epoch, "step": position.step, "seconds": position.seconds}
    metadata = {key: repr(value) for key, value in about.items()}
    metadata[_DIGEST] = _digest(kept, metadata)
    write_bytes(folder / RESUME, serialise(kept, metadata=metadata))


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, sums: Mapping[str, Tensor]
) -> Position:
    """Load what an interrupted training left, into the tensors that are there.

    Raises
    ------
    CheckpointError
        If it is not what was written.
    """
    path = folder / RESUME
    if not path.is_file():
        return Position()
    state, about = _read(path)
    if _DIGEST not in about:  # of an earlier layerscope; beginning again gives the same weights
        return Position()
    if about.pop(_DIGEST) != _digest(state, about):
        raise CheckpointError(_DAMAGED.format(path, "its SHA-256 is another"))
    with torch.no_grad():
        for name, tensor in sums.items():
            tensor.copy_(state.pop(f"sums.{name}"))
        # Not load_state_dict: copying keeps each tensor's layout in memory, on which bits depend.
        for name, tensor in model.state_dict().items():
            if torch.is_tensor(tensor):
                tensor.copy_(state.pop(f"model.{name}"))
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        _, key, owner = name.split(".", 2)
        parameter = parameters[owner]
        like = parameter if value.shape == parameter.shape else value
        held = torch.empty_like(like, dtype=value.dtype, device=parameter.device)
        optimizer.state[parameter][key] = held.copy_(value).detach()
    return Position(int(about["epoch"]), int(about["step"]), float(about["seconds"]))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(_DAMAGED.format(path, error)) from None


def _digest(state: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of where a training stands, and of everything that goes on from there."""
    seen = hashlib.sha256(repr(sorted(about.items())).encode())
    update_digest(seen, {name: state[name] for name in sorted(state)})
    return seen.hexdigest()
