"""Matching of a checkpoint to a network, and the names under which it holds its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from layerscope.base.tensors import plain_name
from layerscope.core.checkpoints import _source as files
from layerscope.errors import CheckpointError

__all__ = ["match_names", "require_finite", "spare_names"]

# What loops that hold the network as an attribute put before every name.
_HOLDERS = ("model.", "net.", "network.", "_forward_module.")

# Buffers that networks once saved and no longer do: with them a mask of four dimensions, which has
# the name of what is elsewhere a layer's bias.
_DROPPED = re.compile(r"(?:.*\.)?(?:inv_freq|masked_bias|position_ids|cos_cached|sin_cached)")
_MASK = re.compile(r"(?:.*\.)?(?:self_)?(?:attn|attention)\.bias")

_ADAPTER = re.compile(r"\b(?:lora|ia3|vera|hada|lokr|oft|boft)_|prompt_e(?:ncoder|mbeddings)")

Form = tuple[tuple[int, ...], torch.dtype]

_PIECE = 2**20


def _plain(name: str) -> str:
    """Take off what DataParallel and torch.compile put into names."""
    return plain_name(name).removeprefix("module.")


def _renamed(there: Iterable[str], wanted: Iterable[str], base: str) -> Iterator[dict[str, str]]:
    """Yield ways to see the names of a checkpoint as the network's, each to the names themselves.

    Without what wrappers put into them; without the prefix that all have; and with that of the part
    of the network which they may be of, as a base model's without ``transformer.``.
    """
    plain = {_plain(name): name for name in there}
    yield plain
    for holder in (*_HOLDERS, f"{base}."):
        if all(name.startswith(holder) for name in plain):
            yield {_plain(name.removeprefix(holder)): stored for name, stored in plain.items()}
            break
    own = {_plain(name) for name in wanted}
    for part in dict.fromkeys([base, *(name.partition(".")[0] for name in own)]):
        inside = {n: f"{part}.{n}" for n in plain if n not in own and f"{part}.{n}" in own}
        yield {inside.get(n, n): stored for n, stored in plain.items()}


def spare_names(model: nn.Module, ignore: Iterable[str] = ()) -> Callable[[str, Form], bool]:
    """Tell which tensors may be in a checkpoint though the network would not save them.

    These are its non-persistent buffers, which many networks saved in an earlier version, what
    networks of transformers say themselves that they ignore, what is known to have been dropped,
    and what matches one of the patterns in `ignore`.
    """
    kept = model.state_dict().keys()
    buffers = {name for name, _ in model.named_buffers()} - kept
    patterns = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or []

    def spare(name: str, form: Form) -> bool:
        return (
            name in buffers
            or any(re.search(pattern, name) for pattern in patterns)
            or bool(_DROPPED.fullmatch(name))
            or bool(_MASK.fullmatch(name) and len(form[0]) == 4)
            or any(fnmatchcase(name, pattern) for pattern in ignore)
        )

    return spare


def match_names(
    wanted: Mapping[str, Tensor],
    checkpoint: files.Checkpoint,
    spare: Callable[[str, Form], bool],
    base: str = "",
) -> dict[str, str]:
    """Map each name in the network to the name under which the checkpoint holds it.

    Parameters
    ----------
    wanted : mapping
        The network's tensors.
    checkpoint : Source
    spare : callable
        As `spare_names` returns it.
    base : str
        The prefix of what transformers calls the base model.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or of another shape: names the first of each.
    """
    there = checkpoint.signature()
    stored = {name: name for name in there}
    if wanted.keys() != there.keys():
        for seen in _renamed(there, wanted, base):
            matches = {name: seen[_plain(name)] for name in wanted if _plain(name) in seen}
            rest = {name: held for name, held in seen.items() if held not in matches.values()}
            fits = all(spare(name, there[held]) for name, held in rest.items())
            if len(seen) == len(there) and matches and fits:
                stored, there = matches, {held: there[held] for held in matches.values()}
                break
        else:
            there = {n: f for n, f in there.items() if n in wanted or not spare(n, f)}
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
        *_first(
            "packed into eight bits",
            [
                f"{name} {there[stored_name][1]}, expected {wanted[name].dtype}"
                for name, stored_name in names.items()
                if _is_packed(there[stored_name][1], wanted[name].dtype)
            ],
        ),
    ]
    if problems:
        raise CheckpointError(
            f"{checkpoint.where} does not fit the network: {'; '.join(problems)}. {_hint(there)}"
        )
    return names


def _is_packed(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Recognise numbers that mean nothing in the network: their scale stands elsewhere."""
    narrow = stored.itemsize == 1 and stored != torch.bool
    return narrow and wanted.is_floating_point and wanted.itemsize > 1


def _hint(there: Iterable[str]) -> str:
    if all(map(_ADAPTER.search, there)):
        return f"It holds an adapter alone, not the network that it changes: {files.MERGE}."
    return (
        "Was it saved from another architecture? Tensors that the network no longer has are left "
        "aside with open_series(…, ignore=[…])."
    )


def _first(what: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [f"{what}: {names[0]}{more}"] if names else []


def require_finite(state: Mapping[str, Tensor], where: str) -> None:
    """Check that tensors hold no NaN or infinity.

    Raises
    ------
    CheckpointError
        Names the first that does.
    """
    for name, tensor in state.items():
        if tensor.is_floating_point() and (bad := _not_finite(tensor)):
            raise CheckpointError(
                f"{where}: {name} holds {bad:,} values that are NaN or infinite; "
                "training had diverged by then. Leave this checkpoint out."
            )


def _not_finite(tensor: Tensor) -> int:
    """Count values that are NaN or infinite, piece by piece: what tells it is as large as they."""
    pieces = torch.split(tensor.reshape(-1), _PIECE) if tensor.numel() else ()
    finite = (torch.isfinite(piece) for piece in pieces)
    return sum(0 if bool(each.all()) else int((~each).sum()) for each in finite)
