"""Identity of a sweep: all its values depend on, so that only the same call goes on in a folder.

What can be told is told: code, tensors, plain values, settings of torch and of the machine. The
rest shows in what the network says of the first inputs, which is kept as a digest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import platform
import re
import sys
import types
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from layerscope._version import __version__
from layerscope.base import devices
from layerscope.base.fingerprints import Fingerprint, fingerprint, is_library
from layerscope.base.tensors import tied_names, update_digest as data_digest
from layerscope.base.undoing import Undo
from layerscope.core import metrics
from layerscope.core.checkpoints import Series
from layerscope.core.measures import MEASURES
from layerscope.core.perturb import Perturbation
from layerscope.core.probe import Probe, Subject
from layerscope.core.reuse import moved_by
from layerscope.core.running import OutputSpec
from layerscope.core.sweep._plan import Plan
from layerscope.results import FULL_MODEL, NO_EPOCH

__all__ = ["identify"]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""What some modules say of the functions that they hold; another in every process."""

_SAID_ELSEWHERE = {"name", "settings", "parts"}
_REGISTRIES = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
# What a training, or a pass of ours, leaves in a module.
_PASSING = {"training", "_is_full_backward_hook", "_compiled_call_impl", "_is_hf_initialized"}
# Where values may come from; what else a class can do, such as train, is of no account.
_USED = ("forward", "__call__", "__getattr__", "reset_parameters", "init_weights", "initializers")


def identify(
    plan: Plan,
    fresh: Callable[[], nn.Module] | None,
    *,
    compared: bool = True,
    lend: Callable[[Undo], Probe] | None = None,
) -> dict[str, Any]:
    """Describe a sweep in plain values, the same in every process for the same call.

    Parameters
    ----------
    plan : Plan
    fresh : callable, optional
        What makes a freshly initialised network.
    compared : bool
        False leaves out what takes long and is only there to tell sweeps apart: digests of
        checkpoints, and what the network says of a few inputs.
    lend : callable, optional
        Lends the network, until the block that it is given ends, or for longer.
    """
    subject, perturbations = plan.subject, plan.grid.perturbations
    known = _known(subject.model)
    own = [m for m in subject.metrics if metrics.METRICS.get(m.name) is not m]
    said = {f"the metric {m.name!r}": Fingerprint(m, known) for m in own}
    code = {m.name: said[f"the metric {m.name!r}"].sha256 for m in own}
    settings = {p.name: _settings(p, known, said) for p in perturbations}
    for each in plan.measures:
        if MEASURES.get(each.name) is not each:
            said[f"the measure {each.name!r}"] = Fingerprint(each, known)
    made = Fingerprint(fresh, known)
    said["fresh="] = made
    measured = {m.name: _code(said.get(f"the measure {m.name!r}")) for m in plan.measures}
    return _plain_values(plan, compared=compared) | {
        **({"measures": measured} if measured else {}),
        "metric_code": code,
        "perturbation_settings": {name: told for name, told in settings.items() if told},
        "fresh": made.sha256 if fresh else "",
        "arithmetic": devices.arithmetic(subject.device),
        **(_network(subject, known, lend or partial(_lent, subject)) if compared else {}),
        "not_described": _opaque(said),
    }


def _code(own: Fingerprint | None) -> str:
    """Digest of what is the user's own; of what goes by name, none."""
    return "" if own is None else own.sha256


def _plain_values(plan: Plan, *, compared: bool) -> dict[str, Any]:
    """Describe a sweep as far as it can be without running the network."""
    rows, perturbations = plan.grid.rows, plan.grid.perturbations
    return _environment(plan.subject, compared=compared) | {
        "layers": sorted(row.name for row in rows),
        # Two sweeps may give one name to different groups.
        "groups": {
            row.name: list(row.members)
            for row in rows
            if row.members != (row.name,) and row.name != FULL_MODEL
        },
        "view": plan.view,
        "norms": plan.norms.describe(),
        "epochs": plan.grid.epochs,
        "perturbations": [p.name for p in perturbations],
        "perturbation_settings": {p.name: dict(p.settings) for p in perturbations if p.settings},
        "draws": plan.grid.draws,
        "seed": plan.seed,
        "stopping": plan.rule.describe() if plan.rule else {},
        "outcomes": plan.outcomes,
        # Where there is more memory, there are other cells.
        **({"too_large": sorted(plan.tensors.too_large)} if plan.tensors.too_large else {}),
    }


def _environment(subject: Subject, *, compared: bool) -> dict[str, Any]:
    model, data = subject.model, subject.data
    return {
        "layerscope": __version__,
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "libraries": _libraries(model),
        "threads": torch.get_num_threads(),
        "network": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "parameters": sum(p.numel() for p in model.parameters()),
            "sha256": hashlib.sha256(_ADDRESS.sub("", repr(model)).encode()).hexdigest(),
            "dtypes": sorted({str(p.dtype) for p in model.parameters()}),
            **_attention(model),
        },
        **_weights(_digests(subject.series, compared=compared)),
        "data": {
            "name": data.name,
            "examples": data.count,
            "sha256": data.fingerprint,
            "order": data.order,
            "targets": str(data.reader),
        },
        "output": _where(subject.output.where),
        "tied": {name: list(others) for name, others in tied_names(model).items()},
        "metrics": [m.name for m in subject.metrics],
        "device": subject.device.type,  # which of several cards of a kind makes no difference
        "dtype": str(subject.dtype).removeprefix("torch.") if subject.dtype else "",
    }


def _libraries(model: nn.Module) -> dict[str, str]:
    """Versions of the installed packages that the network's code is of, but torch."""
    kinds = {type(module) for module in model.modules() if is_library(type(module))}
    names = {kind.__module__.partition(".")[0] for kind in kinds} - {"torch", "builtins"}
    known = {name: getattr(sys.modules.get(name), "__version__", None) for name in names}
    return {name: str(known[name]) for name in sorted(known) if known[name]}


def _attention(model: nn.Module) -> dict[str, str]:
    """Say how a network of transformers computes attention, each way to other last bits."""
    said = getattr(getattr(model, "config", None), "_attn_implementation", None)
    return {"attention": said} if isinstance(said, str) else {}


def _digests(series: Series, *, compared: bool) -> Mapping[int, str]:
    """Take the digests of checkpoints; nobody's but those of a network that came alone are told."""
    # A series that says what its files were is held to it, whoever asks.
    taken = compared or series.recorded or not series.epochs
    return series.digests() if taken else dict.fromkeys(series.epochs, "")


def _weights(digests: Mapping[int, str]) -> dict[str, Any]:
    """Name every checkpoint by its digest; of a network without any, the weights that it holds."""
    recorded = {str(epoch): sha for epoch, sha in digests.items() if epoch != NO_EPOCH}
    held = {"weights": digests[NO_EPOCH]} if NO_EPOCH in digests else {}
    return {"checkpoints": recorded} | held


def _where(where: OutputSpec) -> str:
    return fingerprint(where) if callable(where) else "" if where is None else repr(where)


def _known(model: nn.Module) -> dict[int, str]:
    """Name the network's own modules and tensors, whose values come from the checkpoints."""
    modules = {id(module): f"module {name}" for name, module in model.named_modules()}
    held = (*model.named_parameters(), *model.named_buffers())
    return modules | {id(tensor): f"tensor {name}" for name, tensor in held}


def _settings(
    perturbation: Perturbation, known: Mapping[int, str], said: dict[str, Fingerprint]
) -> dict[str, Any]:
    """Settings as they were given; else a digest of the function as it is now."""
    if perturbation.parts:
        parts = [[part.name, _settings(part, known, said)] for part in perturbation.parts]
        return {"parts": parts}
    if perturbation.settings.keys() != {"code"}:
        return dict(perturbation.settings)
    names = (f.name for f in dataclasses.fields(perturbation) if f.name not in _SAID_ELSEWHERE)
    found = Fingerprint([(name, getattr(perturbation, name)) for name in names], known)
    said[f"the perturbation {perturbation.name!r}"] = found
    return {"code": found.sha256}


def _opaque(said: Mapping[str, Fingerprint]) -> list[str]:
    """List what can't be described, and may change without anybody noticing."""
    return sorted({f"{what} uses a {kind}" for what, of in said.items() for kind in of.opaque})


def _lent(subject: Subject, undo: Undo) -> Probe:
    undo.enter(devices.NoGradients())
    return cast("Probe", undo.enter(Probe(subject)))


def _network(
    subject: Subject, known: Mapping[int, str], lend: Callable[[Undo], Probe]
) -> dict[str, Any]:
    """Describe the network besides its checkpoints, and what it says of a few inputs."""
    classes = list(dict.fromkeys(type(module) for module in subject.model.modules()))
    found: dict[str, Any] = {}
    with Undo() as undo, undo:
        probe = lend(undo)
        # Only now: while others have the network, its modules may have forwards of theirs.
        patched = [_patches(module) for module in subject.model.modules()]
        code = Fingerprint(([_used(each) for each in classes], patched), known)
        found["network_code"] = code.sha256

        def twice(inputs: Any) -> None:
            # The first fills what a network keeps for later, such as rotary tables; what changes
            # once more, such as a counter, is of the passes and not of the network.
            subject.call(inputs)
            outputs, moved = moved_by(subject.model, lambda: subject.call(inputs))
            told = list(_attributes(subject.model, known, moved))
            found["network_attributes"] = Fingerprint(told, known).sha256
            seen = hashlib.sha256()
            data_digest(seen, outputs)
            found["network_outputs"] = seen.hexdigest()

        probe.first_look(twice)
    return found


def _used(kind: type) -> list[Any]:
    """Find what a user's class does in a pass, or to initialise; any other by its name."""
    members = {name: held for base in reversed(_own(kind)) for name, held in vars(base).items()}
    found: dict[str, Any] = {}
    waiting = [name for name in _USED if name in members]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = members[name]
            waiting += sorted(_names(members[name]) & members.keys())
    return [kind.__mro__[len(_own(kind))], sorted(found.items())]


def _own(kind: type) -> tuple[type, ...]:
    return tuple(base for base in kind.__mro__ if not is_library(base))


def _names(member: Any) -> set[str]:
    """Find the attributes that code may ask of an object."""
    inside = [getattr(member, name, None) for name in ("fget", "__func__", "func", "__wrapped__")]
    found = set()
    for function in (member, *inside):
        waiting = [getattr(function, "__code__", None)]
        while waiting:
            code = waiting.pop()
            if isinstance(code, types.CodeType):
                found |= set(code.co_names)
                waiting += code.co_consts
    return found


def _patches(module: nn.Module) -> list[Any]:
    """A forward of the module's own, and its hooks."""
    hooks = (module._forward_pre_hooks, module._forward_hooks)
    return [vars(module).get("forward"), *(list(held.values()) for held in hooks)]


def _attributes(
    model: nn.Module, known: Mapping[int, str], moved: set[tuple[str, str]]
) -> Iterator[tuple[str, str, Any]]:
    """Yield what modules hold besides parameters and what a checkpoint has, if it can be told."""
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch._dynamo"):
            # What it holds of its own is the compiler's, and other in every process.
            continue
        buffers = {n: module._buffers[n] for n in module._non_persistent_buffers_set}
        passing = _REGISTRIES | _PASSING | {"forward"}
        plain = {n: held for n, held in vars(module).items() if n not in passing}
        for name, held in sorted((plain | buffers).items()):
            hooks = name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
            if hooks or (path, name) in moved:
                continue
            # A buffer is among what is known; its values are of the network alone.
            told = held.detach() if name in buffers and held is not None else held
            yield path, name, told if _tellable(told, known) else type(held)


def _tellable(value: Any, known: Mapping[int, str], depth: int = 4) -> bool:
    """Recognise an attribute that is a value; of others, the outputs tell what matters."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return depth > 0 and all(_tellable(item, known, depth - 1) for item in value)
    if isinstance(value, dict):
        return depth > 0 and all(_tellable(item, known, depth - 1) for item in value.values())
    simple = (int, float, complex, str, bytes, type(None), Tensor, np.ndarray, np.generic)
    said = (torch.dtype, torch.device, types.FunctionType, types.MethodType, type, Namespace)
    own = dataclasses.is_dataclass(value) or not is_library(type(value))
    return id(value) in known or own or isinstance(value, (*simple, *said, types.SimpleNamespace))
