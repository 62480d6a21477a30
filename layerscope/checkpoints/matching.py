"""Whether a checkpoint fits a network, and under which names it holds its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from layerscope import files, layers
from layerscope.errors import CheckpointError

__all__ = ["finite", "matched", "spare_names"]

# What loops that hold the network as an attribute put before every name.
_HOLDERS = ("model.", "net.", "network.", "_forward_module.")


def _plain(name: str) -> str:
    """Take off what DataParallel and torch.compile put into names."""
    return layers.bare(name).removeprefix("module.")


def _unheld(names: Iterable[str]) -> dict[str, str]:
    """Map names without the prefix that they all have to the names themselves."""
    plain = {_plain(name): name for name in names}
    for holder in _HOLDERS:
        if all(name.startswith(holder) for name in plain):
            return {_plain(name.removeprefix(holder)): stored for name, stored in plain.items()}
    return plain


def spare_names(model: nn.Module) -> Callable[[str], bool]:
    """Tell which names may be in a checkpoint though the network would not save them.

    These are its non-persistent buffers, which many networks saved in an earlier version, and what
    networks of transformers say themselves that they ignore.
    """
    kept = model.state_dict().keys()
    buffers = {name for name, _ in model.named_buffers()} - kept
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []
    return lambda name: name in buffers or any(re.search(pattern, name) for pattern in patterns)


def matched(
    wanted: Mapping[str, Tensor], checkpoint: files.Source, spare: Callable[[str], bool]
) -> dict[str, str]:
    """Map each name in the network to the name under which the checkpoint holds it.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or of another shape: names the first of each.
    """
    there = checkpoint.signature()
    stored = {name: name for name in there}
    if wanted.keys() != there.keys():
        for stripped in ({_plain(name): name for name in there}, _unheld(there)):
            matches = {name: stripped[_plain(name)] for name in wanted if _plain(name) in stripped}
            rest = {name for name, held in stripped.items() if held not in matches.values()}
            if len(stripped) == len(there) and matches and all(map(spare, rest)):
                stored, there = matches, {held: there[held] for held in matches.values()}
                break
        else:
            there = {n: form for n, form in there.items() if n in wanted or not spare(n)}
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


def _first(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{what}: {names[0]}{more}"] if names else []


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
