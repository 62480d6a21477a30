"""Writing a series into a folder, so that it can be read meanwhile; and reading its manifest."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from msgspec import UNSET, Meta, UnsetType
from torch import Tensor

from layerscope.base import files
from layerscope.base.owners import sweep_drafts
from layerscope.base.writing import write_bytes
from layerscope.errors import CheckpointError, choose

__all__ = ["MANIFEST", "SeriesWriter", "read_manifest", "separate_tensors"]

MANIFEST = "manifest.json"

UNITS = ("epoch", "step")
"""Units that checkpoints are counted in."""

_WHAT = "the manifest of a layerscope series"


class _Recorded(files.Schema, kw_only=True):
    """A checkpoint, as the manifest says it."""

    file: str
    bytes: int | UnsetType = UNSET
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | UnsetType = UNSET
    metrics: dict[str, float | bool] | UnsetType = UNSET


class _Data(files.Schema, kw_only=True):
    """Data that a network was trained on."""

    name: str
    sha256: str


class _Recipe(files.Schema, kw_only=True):
    """A recipe, as far as it is read."""

    batch_size: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class _Manifest(files.Versioned, kw_only=True):
    """A series' account of itself, as far as it is read; who writes one may say more."""

    FORMAT: ClassVar[str] = "layerscope-series"
    VERSION: ClassVar[int] = 1

    epochs: dict[Annotated[str, Meta(pattern=r"^(0|[1-9]\d{0,17})$")], _Recorded]
    unit: Literal["epoch", "step"] = "epoch"
    finished: bool = False
    seconds: float = 0.0
    threads: Annotated[int, Meta(ge=1, le=100_000)] | UnsetType = UNSET
    data: _Data | UnsetType = UNSET
    recipe: _Recipe | UnsetType = UNSET
    network: dict[str, Any] | UnsetType = UNSET


_FORMAT: Mapping[str, Any] = {"format": _Manifest.FORMAT, "version": _Manifest.VERSION}


class SeriesWriter:
    """Writes a series into a folder: one safetensors file per epoch, and the manifest.

    Parameters
    ----------
    folder : Path
    about : mapping
        What the manifest says of the run besides its epochs; ``unit`` is ``"step"`` where the
        series is counted in steps of the optimiser instead.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        choose(about.get("unit", UNITS[0]), UNITS, "unit")
        self.folder = folder
        sweep_drafts(folder)
        path = folder / MANIFEST
        known = read_manifest(path) if os.path.lexists(path) else {}
        self.manifest = {**_FORMAT, "epochs": {}, **known, **about}

    def record(self, epoch: int, state: Mapping[str, Tensor], metrics: Mapping[str, float]) -> None:
        """Write one checkpoint, then name it in the manifest: a reader never sees half of it.

        A file that holds these very bytes is left alone: someone may be reading it.
        """
        from safetensors.torch import save

        unit = self.manifest.get("unit", "epoch")
        content = save(separate_tensors(state), metadata={unit: str(epoch)})
        digest = hashlib.sha256(content).hexdigest()
        path = self.folder / f"{unit}-{epoch:04d}.safetensors"
        if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest):
            write_bytes(path, content)
        self.manifest["epochs"][str(epoch)] = {
            "file": path.name,
            "bytes": len(content),
            "sha256": digest,
            "metrics": dict(metrics),
        }
        self.update()

    def update(self, **about: Any) -> None:
        """Write the manifest, with more in it, and with what another process recorded meanwhile."""
        path = self.folder / MANIFEST
        there = read_manifest(path)["epochs"] if os.path.lexists(path) else {}
        self.manifest |= {"epochs": there | self.manifest["epochs"], **about}
        write_bytes(path, json.dumps(self.manifest, indent=1).encode())


def separate_tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors as safetensors takes them: on the CPU, contiguous, none in the memory of another.

    Tied weights, which are one tensor under several names, are kept under each of them.
    """
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in state.items():
        if not torch.is_tensor(value):
            continue  # such as what get_extra_state gives
        tensor = value.detach().to("cpu").contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return plain


def read_manifest(path: Path) -> dict[str, Any]:
    """Read what a series says of itself.

    Raises
    ------
    CheckpointError
        If it is not the manifest of a series, or that of a newer layerscope.
    """
    content = files.read_json(path, error=CheckpointError, what=_WHAT)
    files.fit_schema(content, _Manifest, where=path, error=CheckpointError, what=_WHAT)
    return dict(content)
