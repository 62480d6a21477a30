"""A series of checkpoints θ⁰ … θᵀ, read lazily, one layer at a time.

>>> from layerscope import checkpoints
>>> series = checkpoints.open_series({0: "start.pt", 10: "trained.pt"})     # doctest: +SKIP
>>> series.epochs                                                           # doctest: +SKIP
(0, 10)
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope import files, layers, models
from layerscope.errors import CheckpointError
from layerscope.results import write_bytes

__all__ = ["MANIFEST", "Series", "Writer", "apart", "finite", "open_series"]

MANIFEST = "manifest.json"
_FORMAT: Mapping[str, Any] = {"format": "layerscope-series", "version": 1}


class Series:
    """Checkpoints of one network by epoch; the last is the trained network.

    Parameters
    ----------
    sources : mapping of int to state dict, path or source
        By epoch. Files are opened for their header only.
    folder : Path, optional
        Where the series is kept.
    manifest : mapping, optional
        What is known of how it was made.

    Raises
    ------
    CheckpointError
        If there are none, an epoch is not a whole number from 0 up, or a file is damaged.
    """

    def __init__(
        self,
        sources: Mapping[int, Any],
        folder: Path | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        if not sources:
            raise CheckpointError("the series holds no checkpoints; give at least the trained one.")
        for epoch in sources:
            if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
                raise CheckpointError(
                    f"epoch {epoch!r}, of type {type(epoch).__name__}, is not a whole number (int) "
                    "from 0 up; name checkpoints by epoch."
                )
        self._sources = {
            epoch: files.source(sources[epoch], f"the checkpoint of epoch {epoch}")
            for epoch in sorted(sources)
        }
        self._names: dict[int, dict[str, str]] = {}
        _apart(self._sources)
        self.folder = folder
        self.manifest = dict(manifest or {})

    @property
    def epochs(self) -> tuple[int, ...]:
        """The recorded epochs in order."""
        return tuple(self._sources)

    @property
    def last(self) -> int:
        """The epoch of the trained network."""
        return self.epochs[-1]

    def require(self, epochs: Iterable[int]) -> None:
        """Check that every one of `epochs` was recorded.

        Raises
        ------
        CheckpointError
            Names those that were not, and those that were.
        """
        absent = [epoch for epoch in epochs if epoch not in self._sources]
        if absent:
            raise CheckpointError(
                f"epoch {', '.join(map(str, absent))} was not recorded; "
                f"there is {', '.join(map(str, self.epochs))}."
            )

    def fit(self, model: nn.Module) -> Series:
        """Check every checkpoint against a network and learn how its tensors are named.

        Prefixes that wrappers leave behind (``module.``, ``_orig_mod.``) are looked through if
        then every name matches.

        Parameters
        ----------
        model : nn.Module

        Returns
        -------
        Series
            This one, to be chained.

        Raises
        ------
        CheckpointError
            If a checkpoint is of another architecture: shows the first missing, unexpected and
            mismatched tensors.
        """
        wanted = layers.tensors(model)
        for epoch, checkpoint in self._sources.items():
            self._names[epoch] = _matched(wanted, checkpoint)
        return self

    def read(self, epoch: int, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Read tensors of one checkpoint as copies on the CPU.

        Parameters
        ----------
        epoch : int
        names : iterable of str, optional
            As the network that the series was fitted to names them; all by default.

        Raises
        ------
        CheckpointError
            If the epoch was not recorded, or its file can't be read.
        """
        self.require([epoch])
        checkpoint = self._sources[epoch]
        stored = self._names.get(epoch) or {name: name for name in checkpoint.signature()}
        wanted = list(stored) if names is None else list(names)
        absent = [name for name in wanted if name not in stored]
        if absent:
            raise CheckpointError(f"{checkpoint.where} holds no tensor {absent[0]}.")
        found = checkpoint.read(sorted({stored[name] for name in wanted}))
        return {name: found[stored[name]] for name in wanted}

    def digests(self) -> dict[int, str]:
        """SHA-256 of every checkpoint, compared with the manifest where there is one.

        Raises
        ------
        CheckpointError
            If a file is not the one that was recorded.
        """
        found = {epoch: checkpoint.digest() for epoch, checkpoint in self._sources.items()}
        for epoch, digest in found.items():
            recorded = self.manifest.get("epochs", {}).get(str(epoch), {}).get("sha256", digest)
            if recorded != digest:
                raise CheckpointError(
                    f"{self._sources[epoch].where} is not the file that was recorded: SHA-256 "
                    f"{digest[:12]}…, the manifest says {recorded[:12]}…. Train or copy it again."
                )
        return found

    def build(self) -> models.FCN:
        """Build the trained network that the series was recorded from.

        Raises
        ------
        CheckpointError
            If the series does not say which network it is of.
        """
        if "network" not in self.manifest:
            raise CheckpointError(
                "this series does not say which network it is of; build the network in Python and "
                "pass it to layerscope.sweep beside the series."
            )
        model = models.build(self.manifest["network"])
        self.fit(model)
        model.load_state_dict(self.read(self.last))
        return model

    def __repr__(self) -> str:
        place = f" in {self.folder}" if self.folder else ""
        return f"<Series of {len(self.epochs)} checkpoints, epochs {self.epochs}{place}>"


class Writer:
    """Writes a series into a folder: one safetensors file per epoch, and the manifest.

    Parameters
    ----------
    folder : Path
    about : mapping
        What the manifest says of the run besides its epochs; ``unit`` is ``"step"`` where the
        series is counted in steps of the optimiser instead.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        path = folder / MANIFEST
        known = _read_manifest(path) if path.is_file() else {}
        self.manifest = {**_FORMAT, "epochs": {}, **known, **about}

    def record(self, epoch: int, state: Mapping[str, Tensor], metrics: Mapping[str, float]) -> None:
        """Write one checkpoint, then name it in the manifest: a reader never sees half of it.

        A file that holds these very bytes is left alone: someone may be reading it.
        """
        from safetensors.torch import save

        unit = self.manifest.get("unit", "epoch")
        content = save(apart(state), metadata={unit: str(epoch)})
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
        """Write the manifest, with more in it."""
        self.manifest |= about
        write_bytes(self.folder / MANIFEST, json.dumps(self.manifest, indent=1).encode())


def open_series(checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str]) -> Series:
    """Open a series from any of the forms in which a user may hold it.

    Parameters
    ----------
    checkpoints : Series, mapping, or path of a folder
        A mapping goes from epoch to state dict or path. A folder holds a series that layerscope
        recorded, or checkpoint files that are all named by epoch (``epoch-3.pt``, ``step_10.pt``,
        ``3.safetensors``).

    Raises
    ------
    CheckpointError
        If there is nothing there, a file is damaged, or two files claim one epoch.
    """
    if isinstance(checkpoints, Series):
        return checkpoints
    if isinstance(checkpoints, Mapping):
        return Series(checkpoints)
    if not isinstance(checkpoints, (str, os.PathLike)):
        raise CheckpointError(
            f"checkpoints is a {type(checkpoints).__name__}; give a series, a folder, or a mapping "
            "from epoch to state dict or path, such as {0: 'start.pt', 90: 'trained.pt'}."
        )
    folder = Path(checkpoints)
    if folder.is_file():
        raise CheckpointError(
            f"{folder} is one checkpoint; give a mapping from epoch to path, such as "
            f"{{0: 'start.pt', 90: '{folder.name}'}}, or a folder."
        )
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; give a folder of checkpoints, or a mapping from epoch "
            "to state dict or path."
        )
    path = folder / MANIFEST
    return _recorded(folder, _read_manifest(path)) if path.is_file() else _collected(folder)


def _recorded(folder: Path, manifest: Mapping[str, Any]) -> Series:
    sources = {int(epoch): folder / entry["file"] for epoch, entry in manifest["epochs"].items()}
    return Series(sources, folder, manifest)


_NAMED_BY_EPOCH = re.compile(r"(?:.*[-_.])?(?:epoch|step|ckpt|checkpoint)s?[-_=]?(\d+)|(\d+)", re.I)


def _collected(folder: Path) -> Series:
    found = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".pt", ".pth"))
    if not found:
        raise CheckpointError(
            f"{folder} holds neither a {MANIFEST} nor checkpoints, such as epoch-3.safetensors or "
            "step-10.pt; give a mapping from epoch to path."
        )
    sources: dict[int, Path] = {}
    for path in found:
        match = _NAMED_BY_EPOCH.fullmatch(path.stem)
        if match is None:
            # Left out, it might be the trained network; a number in it might be an accuracy.
            raise CheckpointError(
                f"{path.name} in {folder} does not say its epoch, as epoch-3.pt, step_10.pt or "
                "3.pt would; rename it, or give a mapping from epoch to path."
            )
        if (epoch := int(match[1] or match[2])) in sources:
            raise CheckpointError(
                f"{sources[epoch].name} and {path.name} in {folder} both say epoch {epoch}; "
                "give a mapping from epoch to path."
            )
        sources[epoch] = path
    return Series(sources, folder)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = content["format"] == _FORMAT["format"] and isinstance(content["epochs"], dict)
        newer = int(content["version"]) > _FORMAT["version"]
        if known and not newer:
            _ = {int(epoch): str(entry["file"]) for epoch, entry in content["epochs"].items()}
    except (ValueError, TypeError, LookupError):
        known = newer = False
    if not known:
        raise CheckpointError(f"{path} is not the manifest of a layerscope series.")
    if newer:
        raise CheckpointError(f"{path} was written by a newer layerscope; upgrade layerscope.")
    return dict(content)


def _plain(name: str) -> str:
    """Take off what DataParallel and torch.compile put into names."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def _matched(wanted: Mapping[str, Tensor], checkpoint: files.Source) -> dict[str, str]:
    """Map each name in the network to the name under which the checkpoint holds it."""
    there = checkpoint.signature()
    stored = {name: name for name in there}
    if wanted.keys() != there.keys():
        stripped = {_plain(name): name for name in there}
        matches = {name: stripped[_plain(name)] for name in wanted if _plain(name) in stripped}
        if len(stripped) == len(there) and set(matches.values()) == set(there):
            stored = matches
    # Tied weights are often saved under one of their names only.
    alias = {id(t): stored[name] for name, t in wanted.items() if name in stored}
    names = {
        name: stored.get(name) or alias[id(t)]
        for name, t in wanted.items()
        if name in stored or id(t) in alias
    }
    problems = [
        *_first("missing", [name for name in wanted if name not in names]),
        *_first("unexpected", sorted(there.keys() - set(names.values()))),
        *_first(
            "of another shape",
            [
                f"{name} {there[stored_name][0]}, expected {tuple(wanted[name].shape)}"
                for name, stored_name in names.items()
                if there[stored_name][0] != tuple(wanted[name].shape)
            ],
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint.where} does not fit the network: {'; '.join(problems)}. "
            "Was it saved from another architecture?"
        )
    return names


def _apart(sources: Mapping[int, files.Source]) -> None:
    """Refuse two epochs in the same memory: what a loop without copying leaves."""
    seen: dict[tuple[int, ...], int] = {}
    for epoch, source in sources.items():
        if isinstance(source, files.Memory) and (memory := source.memory()):
            if memory in seen:
                raise CheckpointError(
                    f"the checkpoints of epochs {seen[memory]} and {epoch} are the same memory. "
                    "state_dict() does not copy; keep copy.deepcopy(model.state_dict()) instead."
                )
            seen[memory] = epoch


def _first(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{what}: {names[0]}{more}"] if names else []


def apart(state: Mapping[str, Any]) -> dict[str, Tensor]:
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


def finite(state: Mapping[str, Tensor], where: str) -> None:
    """Check that tensors hold no NaN or infinity.

    Raises
    ------
    CheckpointError
        Names the first that does.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{where}: {name} holds {bad:,} values that are NaN or infinite; "
                "training had diverged by then. Leave this checkpoint out."
            )
