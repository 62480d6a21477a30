"""Tensors that are kept in a file for as long as somebody reads them."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping

from torch import Tensor

from layerscope.base.owners import make_temporary
from layerscope.core.checkpoints._safe import SafeTensors
from layerscope.core.checkpoints._writer import separate_tensors
from layerscope.errors import ResultError

__all__ = ["write_temporary"]


def write_temporary(owner: object, state: Mapping[str, Tensor]) -> SafeTensors:
    """Write tensors into a file that goes with `owner`, so that memory holds one at a time.

    Raises
    ------
    ResultError
        If the temporary folder is missing, full or can't be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder = make_temporary()
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    path = folder / "converted.safetensors"
    try:
        save_file(separate_tensors(state), path)
    except (OSError, SafetensorError) as error:
        raise ResultError(
            f"can't write {path}: {error}. Let the environment variable TMPDIR name a folder that "
            "has room for the checkpoint."
        ) from None
    return SafeTensors(path)
