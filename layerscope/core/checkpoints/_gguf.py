"""GGUF files, whose blocks of small numbers transformers turns into ordinary tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import files
from layerscope.base.extras import extra
from layerscope.core.checkpoints._memory import Signature
from layerscope.core.checkpoints._safe import SafeTensors
from layerscope.core.checkpoints._single import WholeFile
from layerscope.core.checkpoints._temporary import write_temporary
from layerscope.errors import CheckpointError

__all__ = ["GGUF", "GGUFFile", "load_gguf", "quietly"]

GGUF = ".gguf"
"""How the name of such a file ends."""

_MAGIC = b"GGUF"


class GGUFFile(WholeFile):
    """A ``.gguf`` file as transformers dequantises it, kept in single precision beside it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        _require_gguf(path)

    def signature(self) -> Signature:
        """Shape and type of every tensor."""
        return self._plain.signature()

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        return self._plain.read(names)

    @cached_property
    def _plain(self) -> SafeTensors:
        # As a whole, and once: which tensor is which only transformers knows.
        return write_temporary(self, load_gguf(self.path).state_dict())


def load_gguf(path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Build the causal language model in a GGUF file, with ordinary weights.

    Raises
    ------
    CheckpointError
        If it is none, or transformers does not know its architecture.
    ExtraError
        If transformers or gguf is not installed.
    """
    _require_gguf(path)
    with extra("huggingface", f"reading {path.name}"):
        import gguf  # noqa: F401 - transformers asks for it later, in its own words
        import transformers
    try:
        with quietly(), _without_bar():
            found: nn.Module = transformers.AutoModelForCausalLM.from_pretrained(
                str(path.parent), gguf_file=path.name, dtype=dtype, local_files_only=True
            )
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"transformers can't read {path}: {reason}") from None
    return _without_quantizer(found).eval()


@contextmanager
def _without_bar() -> Iterator[None]:
    """Let tensors be dequantised without the one bar that transformers' switch leaves on."""
    with extra("huggingface", "a GGUF file"):
        import transformers.modeling_gguf_pytorch_utils as reading

    module: Any = reading
    bar = getattr(module, "tqdm", None)
    if bar is None:
        yield
        return
    module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar


def _without_quantizer(model: nn.Module) -> nn.Module:
    """Forget how the weights were stored: they are ordinary ones now, and can be saved as such."""
    for name in ("hf_quantizer", "is_quantized", "quantization_method"):
        vars(model).pop(name, None)
    config: Any = getattr(model, "config", None)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    return model


def _require_gguf(path: Path) -> None:
    with files.open_file(path, error=CheckpointError, what="a GGUF file") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise CheckpointError(f"{path} is no GGUF file: it does not begin with GGUF.")


@contextmanager
def quietly() -> Iterator[None]:
    """Let transformers load without bars, without advice, and without a draw from chance."""
    with extra("huggingface", "a network of transformers"):
        import transformers
    logging: Any = transformers.utils.logging
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
