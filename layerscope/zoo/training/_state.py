"""Where a training stands, in one file: what going on from there needs, to the last bit."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from layerscope.base import files
from layerscope.base.tensors import update_digest
from layerscope.base.writing import failures, write_bytes
from layerscope.core.checkpoints import SafeTensors, separate_tensors
from layerscope.errors import CheckpointError

__all__ = ["RESUME", "Position", "clear", "is_begun", "restore", "save"]

RESUME = "resume.safetensors"

# What stood there before is kept until the next is written, for the case that one is damaged.
_BEFORE = "resume-before.safetensors"
_DAMAGED = ".damaged"
_DIGEST = "sha256"


class _DamageError(Exception):
    """A file is not what an interrupted training of this network wrote."""


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
    content = serialise(kept, metadata=metadata)
    if files.is_file(folder / RESUME):
        with failures(folder / RESUME):
            (folder / RESUME).replace(folder / _BEFORE)
    write_bytes(folder / RESUME, content)


def is_begun(folder: Path) -> bool:
    """Check for a training that was interrupted."""
    return any(os.path.lexists(folder / name) for name in (RESUME, _BEFORE))


def clear(folder: Path) -> None:
    """Remove where a training stood, once it is at its end."""
    for name in (RESUME, _BEFORE):
        with suppress(OSError):  # the series is finished, and nobody reads it any more
            (folder / name).unlink()


def restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, sums: Mapping[str, Tensor]
) -> Position:
    """Load what an interrupted training left, into the tensors that are there.

    A file that is damaged is set aside, with a warning, and the one before it is taken; where there
    is none, the training begins again. Either way it comes to the same weights.
    """
    damaged = ""
    for name in (RESUME, _BEFORE):
        path = folder / name
        if not os.path.lexists(path):
            continue
        try:
            position = _load(path, model, optimizer, sums)
        except _DamageError as why:
            with failures(path):
                aside = path.replace(path.with_name(f"{name}{_DAMAGED}"))
            damaged += f"{path} is not what the interrupted training wrote: {why} "
            damaged += f"It was set aside as {aside.name}. "
            continue
        _warn(damaged, f"from epoch {position.epoch}, step {position.step}")
        return position
    _warn(damaged, "from the start")
    return Position()


def _warn(damaged: str, where: str) -> None:
    if damaged:
        warnings.warn(
            f"{damaged}Training goes on {where}, to the same weights; checkpoints that were "
            "recorded stay.",
            stacklevel=6,
        )


def _load(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    sums: Mapping[str, Tensor],
) -> Position:
    """Load one file, all of it or nothing."""
    own = {f"sums.{name}": tensor for name, tensor in sums.items()}
    # Not load_state_dict: copying keeps each tensor's layout in memory, on which bits depend.
    own |= {f"model.{name}": t for name, t in model.state_dict().items() if torch.is_tensor(t)}
    parameters = dict(model.named_parameters())
    try:
        file = SafeTensors(path)
        about = file.metadata
        if _DIGEST not in about:  # of an earlier layerscope; beginning again gives the same weights
            return Position()
        _require_fit(file, own, parameters)
        state = file.read(list(file.signature()))
    except CheckpointError as why:
        raise _DamageError(str(why)) from None
    if about.pop(_DIGEST) != _digest(state, about):
        raise _DamageError("its SHA-256 is another.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state.pop(name))
    for name, value in state.items():
        _, key, owner = name.split(".", 2)
        parameter = parameters[owner]
        like = parameter if value.shape == parameter.shape else value
        held = torch.empty_like(like, dtype=value.dtype, device=parameter.device)
        optimizer.state[parameter][key] = held.copy_(value).detach()
    return Position(int(about["epoch"]), int(about["step"]), float(about["seconds"]))


def _require_fit(
    file: SafeTensors, own: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> None:
    """See that a file is of this network, before anything of it is read."""
    there = {name: shape for name, (shape, _) in file.signature().items()}
    wrong = [name for name, tensor in own.items() if there.pop(name, None) != tuple(tensor.shape)]
    for name, shape in there.items():
        kind, _, rest = name.partition(".")
        parameter = parameters.get(rest.partition(".")[2]) if kind == "optimizer" else None
        # What an optimiser keeps of a parameter has its shape, or counts its steps.
        if parameter is None or shape not in ((), tuple(parameter.shape)):
            wrong.append(name)
    if wrong:
        raise _DamageError(f"it is of another network, or of another optimiser ({wrong[0]}).")


def _digest(state: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """SHA-256 of where a training stands, and of everything that goes on from there."""
    seen = hashlib.sha256(repr(sorted(about.items())).encode())
    update_digest(seen, {name: state[name] for name in sorted(state)})
    return seen.hexdigest()
