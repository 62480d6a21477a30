"""LoRA adapters, merged into the checkpoint that they were trained on (Hu et al. 2022).

A row of the sum, W + scale · B·A, is computed when it is read, as PEFT's ``merge_and_unload`` does
it, so that a tuned network costs no more memory than its base.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.base import files
from layerscope.core.checkpoints._memory import Checkpoint, Signature
from layerscope.errors import CheckpointError

__all__ = [
    "CONFIG",
    "MERGE",
    "WEIGHTS",
    "AdaptedCheckpoint",
    "adapter_config",
    "base_of",
    "is_adapter",
    "is_adapter_alone",
]

CONFIG = "adapter_config.json"
"""A folder with an adapter has it."""

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What holds the weights of a network in a folder, in order of preference."""

MERGE = (
    "merge them, with PEFT's model.merge_and_unload(), and save that; or give the network with its "
    "adapter, and checkpoints that hold both"
)
"""What to do with an adapter that can't be merged here."""

_WHAT = "the configuration of an adapter"
_LONGEST_CHAIN = 8  # adapters on adapters
_REPEATED = 2  # parts of a pattern

_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_PREFIX = "base_model.model."
_PAIR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(?:\.weight)?")

# Where the sum is another one, or the base is changed when the adapter is loaded.
_OTHER_SUMS = (
    *(
        "use_dora",
        "lora_bias",
        "layer_replication",
        "target_parameters",
        "use_qalora",
        "use_bdlora",
    ),
    *("alora_invocation_tokens", "arrow_config", "megatron_config"),
)
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class _Config(files.Schema, kw_only=True):
    """An adapter's configuration, as far as it is read."""

    peft_type: str
    base_model_name_or_path: str | None = None
    revision: str | None = None
    lora_alpha: float = 8
    alpha_pattern: dict[str, float] | None = None


class AdaptedCheckpoint:
    """A checkpoint with a LoRA adapter merged into it.

    Parameters
    ----------
    folder : Path
        With ``adapter_config.json`` and the adapter's weights.
    base : Checkpoint
        What it was trained on.
    opened : callable
        Opens a file.

    Raises
    ------
    CheckpointError
        If it is another kind of adapter, or changes what the base does not hold.
    """

    def __init__(
        self, folder: Path, base: Checkpoint, opened: Callable[[Path], Checkpoint]
    ) -> None:
        self.where = str(folder)
        self._config, self._base, self._folder = adapter_config(folder), base, folder
        _require_plain(self._config, folder)
        self._adapter = opened(_weights(folder))
        self._pairs: dict[str, dict[str, str]] = {}
        self._replaced: dict[str, str] = {}
        self._flipped: set[str] = set()
        self._embeddings: set[str] = set()
        self._find()

    def signature(self) -> Signature:
        """Shape and type of every tensor, which are those of the base."""
        return self._base.signature()

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Return copies of some of the tensors on the CPU."""
        found = self._base.read([name for name in names if name not in self._replaced])
        for name in names:
            if stored := self._replaced.get(name):
                own = self._base.signature()[name][1]
                found[name] = self._adapter.read([stored])[stored].to(own)
            if name in self._pairs:
                found[name] += self._change(name, found[name].dtype)
        return {name: found[name] for name in names}

    def digest(self) -> str:
        """SHA-256 over the digests of the base and the adapter, and the adapter's settings."""
        seen = hashlib.sha256(files.read_bytes(self._folder / CONFIG, error=CheckpointError))
        seen.update(f"{self._base.digest()} {self._adapter.digest()}".encode())
        return seen.hexdigest()

    def _find(self) -> None:
        held, shapes = self._base.signature(), self._adapter.signature()
        for stored in shapes:
            name = stored.removeprefix(_PREFIX).replace(".base_layer", "")
            pair = _PAIR.fullmatch(name)
            target = _held(held, f"{pair['module']}.weight" if pair else name)
            if target is None:
                raise CheckpointError(
                    f"the adapter in {self._folder} has {stored}, and its base "
                    f"({self._base.where}) nothing that this changes; is it the base of another? "
                    f"Else {MERGE}."
                )
            if pair is None:
                self._replaced[target] = stored
                continue
            self._pairs.setdefault(target, {})[pair["side"]] = stored
            if pair["embedding"]:
                self._flipped.add(target)
                self._embeddings.add(target)
        for target, pair_ in self._pairs.items():
            self._fit(target, pair_, shapes, held[target][0])

    def _fit(
        self, target: str, pair: Mapping[str, str], shapes: Signature, shape: tuple[int, ...]
    ) -> None:
        """Check that the product of a pair has the shape of what it is added to, or turned."""
        parts = [shapes[pair[side]][0] for side in "AB" if side in pair]
        if len(parts) == 2 and all(len(part) == 2 and min(part) > 0 for part in parts):
            product = (parts[1][0], parts[0][1])
            turned = target in self._flipped or bool(self._config.get("fan_in_fan_out"))
            if shape == product and (shape[0] != shape[1] or not turned):
                return
            if shape == product[::-1]:
                self._flipped.add(target)
                return
        raise CheckpointError(
            f"the adapter in {self._folder} does not fit {target} of {self._base.where}, of shape "
            f"{shape}: {', '.join(f'{name} {shapes[name][0]}' for name in pair.values())}."
        )

    def _change(self, name: str, dtype: torch.dtype) -> Tensor:
        pair = self._adapter.read(list(self._pairs[name].values()))
        # PEFT keeps an adapter in single precision, or double as its base.
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        first, second = (pair[self._pairs[name][side]].to(wide) for side in "AB")
        product = second @ first
        change = (product.T if name in self._flipped else product) * self._scale(
            self._pairs[name]["A"], first.shape[0]
        )
        # PEFT rounds that of an embedding before it adds it, and that of a matrix with the sum.
        return change.to(dtype) if name in self._embeddings else change

    def _scale(self, stored: str, rank: int) -> float:
        module = stored.removeprefix(_PREFIX).rpartition(".lora_")[0]
        alpha = self._config.get("lora_alpha", 8)
        for pattern, value in (self._config.get("alpha_pattern") or {}).items():
            if _matches(pattern, module, self._folder):
                alpha = value
                break
        return float(alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank))


def _matches(pattern: str, module: str, folder: Path) -> bool:
    """Match as PEFT does, but no pattern of a stranger's that could take for ever."""
    try:
        if not files.is_endless(pattern) and len(re.findall(r"[*+{]", pattern)) <= _REPEATED:
            return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except (re.error, RecursionError, OverflowError):
        pass
    raise CheckpointError(
        f"{folder / CONFIG} has the pattern {pattern[:60]!r} in alpha_pattern, which is none of "
        "names of modules; give such as 'layers.0.q_proj'."
    )


def is_adapter(path: Path) -> bool:
    """Check for a folder that holds an adapter."""
    return files.is_folder(path) and files.is_file(path / CONFIG)


def is_adapter_alone(item: Any) -> bool:
    """Check for a folder with an adapter, and without the network that it changes."""
    if not isinstance(item, (str, os.PathLike)):
        return False
    path = Path(item)
    return is_adapter(path) and not any(files.is_file(path / name) for name in WEIGHTS)


def adapter_config(folder: Path) -> dict[str, Any]:
    """Read what an adapter says of itself.

    Raises
    ------
    CheckpointError
        If it says nothing.
    """
    path = folder / CONFIG
    found = files.read_json(path, error=CheckpointError, what=_WHAT)
    files.fit_schema(found, _Config, where=path, error=CheckpointError, what=_WHAT)
    return dict(found)


def base_of(folder: Path) -> tuple[str, str]:
    """Name the network that an adapter was trained on, and its revision, as the adapter says it.

    Raises
    ------
    CheckpointError
        If it does not, or names an adapter that leads back to itself.
    """
    base, revision = _named_base(folder)
    at = Path(base)
    for _ in range(_LONGEST_CHAIN):
        if not is_adapter_alone(at):
            return base, revision
        at = Path(_named_base(at)[0])
    raise CheckpointError(
        f"the adapter in {folder} says that it was trained on {base}, which leads to no network "
        f"in {_LONGEST_CHAIN} steps; put its base beside it: {{0: 'BASE', 1: '{folder}'}}."
    )


def _named_base(folder: Path) -> tuple[str, str]:
    config = adapter_config(folder)
    base = config.get("base_model_name_or_path")
    if not base:
        raise CheckpointError(
            f"the adapter in {folder} does not say what it was trained on; put that beside it: "
            f"{{0: 'BASE', 1: '{folder}'}}."
        )
    return base, str(config.get("revision") or "main")


def _require_plain(config: Mapping[str, Any], folder: Path) -> None:
    kind = config["peft_type"]
    initial = str(config.get("init_lora_weights"))
    odd = [key for key in _OTHER_SUMS if config.get(key)]
    if kind != "LORA":
        odd = [f"the type {kind}"]
    elif initial.startswith(_CHANGES_BASE):
        odd = [f"init_lora_weights={initial!r}, which changes the base"]
    if odd:
        raise CheckpointError(
            f"the adapter in {folder} has {', '.join(odd)}; layerscope merges plain LoRA. For "
            f"this one {MERGE}."
        )


def _weights(folder: Path) -> Path:
    held = [folder / name for name in _ADAPTERS if files.is_file(folder / name)]
    if not held:
        raise CheckpointError(f"the folder {folder} has {CONFIG} and no {' or '.join(_ADAPTERS)}.")
    return held[0]


def _held(there: Signature, name: str) -> str | None:
    """Find a name among those of a checkpoint, which may lack its prefix or have one more."""
    if name in there:
        return name
    near = [n for n in there if name.endswith(f".{n}") or n.endswith(f".{name}")]
    return near[0] if len(near) == 1 else None
