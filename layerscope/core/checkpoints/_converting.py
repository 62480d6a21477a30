"""Checkpoints of transformers whose tensors have other names, or another cut, than in the network.

Since its version 5 networks may hold several matrices as one (the experts of Mixtral) or under a
new name, while files keep the old form; how one becomes the other only transformers knows.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.core.checkpoints import _source as files
from layerscope.core.checkpoints._matching import Form
from layerscope.core.checkpoints._writer import separate_tensors

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
        from safetensors.torch import save_file

        self.where = checkpoint.where
        self._made_from = checkpoint
        folder = tempfile.mkdtemp(prefix="layerscope-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "converted.safetensors"
        save_file(separate_tensors(state), path)
        self._file = files.SafeTensors(path)

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
        with _quietly(library):
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


@contextmanager
def _quietly(library: Any) -> Iterator[None]:
    """Without bars, without advice on what was not found, and without a draw from chance."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
