"""Exchanging a layer with that of another network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from layerscope.base.copies import uncopied
from layerscope.base.tensors import owner_name
from layerscope.core.checkpoints import Checkpoint, open_checkpoint
from layerscope.core.layers import ROOT
from layerscope.core.perturb._protocol import Perturbation, Site
from layerscope.errors import LayerError

__all__ = ["exchange"]


def exchange(
    other: Mapping[str, Tensor] | nn.Module | str | os.PathLike[str],
    layers: Mapping[str, str] | None = None,
) -> Perturbation:
    """Take the layer from another network, buffers included.

    Parameters
    ----------
    other : state dict, nn.Module, or path
        A file is read as weights alone.
    layers : mapping of str to str, optional
        From the name of a module of this network to that of the other whose tensors it takes;
        those not named take the tensors of the same name.

    Returns
    -------
    Perturbation
        Named by the path, or by a digest of what was given.

    Raises
    ------
    CheckpointError
        If the file can't be read.
    LayerError
        When it is applied: if the other network lacks a tensor, or has it in another shape.

    Examples
    --------
    >>> import torch
    >>> donor = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    >>> donor[0].weight = torch.nn.Parameter(torch.eye(2))
    >>> exchange(donor).name
    'exchange(sha256:24841c6b)'
    """
    source = open_checkpoint(other, "the network that exchange was given")
    sha = source.digest()
    names = dict(layers or {})
    is_path = isinstance(other, (str, os.PathLike))
    given = repr(os.fspath(other)) if is_path else f"sha256:{sha[:8]}"  # type: ignore[arg-type]
    return Perturbation(
        f"exchange({given}{f', {names!r}' if names else ''})",
        lambda site: _taken(source, names, site),
        settings={"sha256": sha, "layers": names},
    )


def _taken(source: Checkpoint, names: Mapping[str, str], site: Site) -> dict[str, Tensor]:
    there, own = source.signature(), uncopied(site.trained)
    wanted = {name: _renamed(name, names) for name in own}
    for name, its in wanted.items():
        shape = tuple(own[name].shape)
        if its not in there:
            raise LayerError(
                f"{source.where} has no {its} to take for {name}; it has "
                f"{_some(list(there))}. Name the layers that correspond with layers=."
            )
        if there[its][0] != shape:
            raise LayerError(
                f"{source.where} has {its} of shape {there[its][0]}, expected {shape} as "
                f"{name} has; a layer can only be exchanged for one of the same shape."
            )
    found: dict[str, Any] = source.read(sorted(set(wanted.values())))
    return {name: found[its] for name, its in wanted.items()}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """Say what a tensor is called in the other network."""
    path = owner_name(name)
    # A module's name stands for what is inside it too; the longest that fits says most.
    above = [p for p in (path, *_ancestors(path), ROOT) if p in names and (p != ROOT or not path)]
    if not above:
        return name
    old = "" if above[0] == ROOT else above[0]
    new = "" if names[above[0]] == ROOT else names[above[0]]
    rest = name[len(old) :].lstrip(".")
    return f"{new}.{rest}" if new else rest


def _ancestors(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
