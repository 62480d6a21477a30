"""Checkpoints of transformers whose tensors have other names, or another cut, than in the network.

Since its version 5 networks may hold several matrices as one (the experts of Mixtral) or under a
new name, while files keep the old form; how one becomes the other only transformers knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.core.checkpoints import _source as files
from layerscope.core.checkpoints._gguf import quietly
from layerscope.core.checkpoints._matching import Form
from layerscope.core.checkpoints._temporary import write_temporary

__all__ = ["ConvertedCheckpoint", "convert"]


class ConvertedCheckpoint:
    """A checkpoint as the network names it, in a file of its own that goes with this object.

    Parameters
    ----------
    checkpoint : Source
        What it was made from.
    state : mapping
    """

    def __init__(self, checkpoint: files.Checkpoint, state: dict[str, Tensor]) -> None:
        self.where = checkpoint.where
        self._made_from = checkpoint
        self._file = write_temporary(self, state)

    def signature(self) -> files.Signature:
        """Shape and type of every tensor."""
        return self._file.signature()

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        return self._file.read(names)

    def digest(self) -> str:
        """SHA-256 of the content of what it was made from."""
        return self._made_from.digest()


def convert(
    model: nn.Module, checkpoint: files.Checkpoint, spare: Callable[[str, Form], bool]
) -> ConvertedCheckpoint | None:
    """Let transformers read a checkpoint into a network like this one, and keep what came out.

    Parameters
    ----------
    model : nn.Module
    checkpoint : Source
    spare : callable
        Says what to leave aside.

    Returns
    -------
    Converted or None
        None if the network is not one of transformers', or the checkpoint does not fit it so.
    """
    library: Any = sys.modules.get("transformers")
    if library is None or not isinstance(model, library.PreTrainedModel):
        return None
    wanted = [name for name, form in checkpoint.signature().items() if not spare(name, form)]
    state = checkpoint.read(wanted)
    kinds = {t.dtype for t in state.values() if t.is_floating_point()} or {torch.float32}
    try:
        with quietly():
            made, about = type(model).from_pretrained(
                None,
                config=model.config,
                state_dict=state,
                # The widest: every value of a narrower one is one of it too.
                dtype=reduce(torch.promote_types, sorted(kinds, key=str)),
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, OSError):
        return None
    # What it did not find it made up.
    return None if any(about.values()) else ConvertedCheckpoint(checkpoint, made.state_dict())
