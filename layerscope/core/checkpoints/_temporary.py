"""Tensors that are kept in a file for as long as somebody reads them."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from layerscope.core.checkpoints._safe import SafeTensors
from layerscope.core.checkpoints._writer import separate_tensors

__all__ = ["write_temporary"]


def write_temporary(owner: object, state: Mapping[str, Tensor]) -> SafeTensors:
    """Write tensors into a file that goes with `owner`, so that memory holds one at a time."""
    from safetensors.torch import save_file

    folder = tempfile.mkdtemp(prefix="layerscope-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "converted.safetensors"
    save_file(separate_tensors(state), path)
    return SafeTensors(path)
