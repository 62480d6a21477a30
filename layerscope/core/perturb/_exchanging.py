"""Exchanging a layer with that of another network, wholly or a part of the way."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.copies import uncopied
from layerscope.base.tensors import owner_name
from layerscope.core.checkpoints import Checkpoint, is_adapter_alone, open_checkpoint
from layerscope.core.layers import ROOT
from layerscope.core.networks import is_network, open_network
from layerscope.core.perturb._protocol import Perturbation, Site
from layerscope.errors import LayerError, OptionError

__all__ = ["between", "blend", "exchange", "require_number"]


def exchange(
    other: Mapping[str, Tensor] | nn.Module | str | os.PathLike[str],
    layers: Mapping[str, str] | None = None,
) -> Perturbation:
    """Take the layer from another network, buffers included.

    Restoring layers, or ranges of them, of a tuned network from the one that it was tuned from is
    ``sweep(tuned, data, layers=layers.ranges(tuned), view="block",
    perturbations=[perturb.exchange("base")])``. What a tuned layer alone brings to the base is the
    same with base and tuned in each other's place; both ways in one Dataset are
    ``sweep(tuned, data, checkpoints={0: "base", 1: "tuned"}, model_epochs=[0, 1],
    perturbations=[perturb.exchange("base"), perturb.exchange("tuned")])``, where at ``model_epoch``
    0 the base is given layers of the tuned network, and at 1 the tuned one those of the base.

    Parameters
    ----------
    other : state dict, nn.Module, or path
        Whatever a checkpoint may be; a file is read as weights alone. Of a folder with a LoRA
        adapter, and of a name that `layerscope.open_network` takes, it is the network that this
        opens, the adapter merged.
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
    source = _donor(other, "exchange")
    names = dict(layers or {})
    sha = source.digest()
    return Perturbation(
        f"exchange({_called(other, sha)}{f', {names!r}' if names else ''})",
        lambda site: _taken(source, names, site),
        settings={"sha256": sha, "layers": names},
        towards=_towards(other, sha, names),
        alpha=1.0,
    )


def blend(
    other: Mapping[str, Tensor] | nn.Module | str | os.PathLike[str],
    alpha: float,
    layers: Mapping[str, str] | None = None,
) -> Perturbation:
    """Go a part of the way from the layer to that of another network, buffers included.

    One layer at a time, and ranges of them from either end (`layers.cumulative`), show the
    layer-wise barriers between two networks: see `stats.barrier`.

    Parameters
    ----------
    other : state dict, nn.Module, or path
        As for `exchange`.
    alpha : float
        (1 − alpha) · trained + alpha · other: at 0 exactly the trained values, at 1 exactly those
        of the other. Buffers of whole numbers keep their trained values short of 1.
    layers : mapping of str to str, optional
        As for `exchange`.

    Returns
    -------
    Perturbation
        Named by the path, or by a digest of what was given, and alpha.

    Raises
    ------
    CheckpointError
        If the file can't be read.
    OptionError
        If alpha is not a finite number.
    LayerError
        When it is applied: if the other network lacks a tensor, or has it in another shape.

    Notes
    -----
    Unit by unit, as they stand: no permutation of units is looked for. Networks that were trained
    independently compute the same with their units in any order, so a barrier between them may be
    due to that alone; between two that share their start, or a base and what was tuned from it,
    there is no such doubt to speak of.

    References
    ----------
    Adilova, Andriushchenko, Kamp, Fischer and Jaggi, "Layer-wise linear mode connectivity",
    ICLR 2024.
    """
    source = _donor(other, "blend")
    names = dict(layers or {})
    require_number("blend", "alpha", alpha)
    sha = source.digest()
    more = f", {names!r}" if names else ""
    return Perturbation(
        f"blend({_called(other, sha)}, {float(alpha)!r}{more})",
        lambda site: _blended(source, names, alpha, site),
        settings={"sha256": sha, "alpha": alpha, "layers": names, "permuted": False},
        label=f"{alpha:g} of the way to the other network, its units as they stand",
        towards=_towards(other, sha, names),
        alpha=float(alpha),
    )


def _donor(other: Any, kind: str) -> Checkpoint:
    """Open the network that layers come from.

    An adapter alone is no network: it needs its base, and merging both is left to where that is
    done for networks.
    """
    if isinstance(other, (str, os.PathLike)):
        path = Path(other).expanduser()
        if is_adapter_alone(path) or (not path.exists() and is_network(other)):
            other = open_network(other)
    return open_checkpoint(other, f"the network that {kind} was given")


def _blended(
    source: Checkpoint, names: Mapping[str, str], alpha: float, site: Site
) -> dict[str, Tensor]:
    own = uncopied(site.trained)
    there = _taken(source, names, site)
    return {
        name: between(here, there[name].to(here.dtype), alpha)
        for name, here in own.items()
        if alpha == 1 or here.is_floating_point() or here.is_complex()
    }


def between(here: Tensor, there: Tensor, alpha: float) -> Tensor:
    """Go a part of the way from one tensor to another."""
    # The formula would lose the sign of zeros at the ends.
    if alpha in (0, 1):
        return there if alpha else here
    return torch.lerp(here, there, alpha)


def _called(other: Any, sha: str) -> str:
    """Name a network by its path, or by a digest of what was given."""
    is_path = isinstance(other, (str, os.PathLike))
    return repr(os.fspath(other)) if is_path else f"sha256:{sha[:8]}"


def _towards(other: Any, sha: str, names: Mapping[str, str]) -> str:
    # The same for every part of the way, and for whoever exchanges the whole of it.
    return f"{_called(other, sha)}{f', {dict(names)!r}' if names else ''}"


def require_number(kind: str, what: str, value: object) -> None:
    """Refuse what is no finite number, in the name of a perturbation.

    Raises
    ------
    OptionError
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OptionError(f"{kind} got {value!r} as {what}; give a finite number, such as 0.5.")


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
