"""The attributes and tensors that modules keep, and how a pass leaves no trace in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.base.tensors import as_bytes
from layerscope.core.reuse._forms import CONSTANT, CONTAINER, tensors_in

T = TypeVar("T")

_REGISTRIES = ("_parameters", "_buffers", "_modules")


def picture_of(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Remember a module's attributes, and the contents of those that are containers."""
    return {
        key: (value, value.copy() if type(value) in CONTAINER else None)
        for key, value in vars(module).items()
    }


def _same(value: Any, seen: Any, contents: Any) -> bool:
    if value is not seen:
        return isinstance(value, CONSTANT) and type(value) is type(seen) and value == seen
    if contents is None:
        return True
    if isinstance(value, dict):
        return list(value) == list(contents) and all(value[k] is contents[k] for k in value)
    if isinstance(value, set):
        return bool(value == contents)
    return len(value) == len(contents) and all(a is b for a, b in zip(value, contents, strict=True))


def unchanged(module: nn.Module, picture: dict[str, tuple[Any, Any]]) -> bool:
    """Tell whether a module's attributes are what they were."""
    now = vars(module)
    return now.keys() == picture.keys() and all(
        _same(now[key], seen, contents) for key, (seen, contents) in picture.items()
    )


def _repaint(module: nn.Module, picture: dict[str, tuple[Any, Any]]) -> None:
    """Give a module back the attributes it had."""
    now = vars(module)
    for key in now.keys() - picture.keys():
        del now[key]
    for key, (seen, contents) in picture.items():
        now[key] = seen
        if contents is not None and not _same(seen, seen, contents):
            seen.clear()
            (seen.update if isinstance(seen, dict | set) else seen.extend)(contents)


def is_opaque(module: nn.Module) -> bool:
    """Tell whether a module runs code that a dispatch mode can't follow."""
    return (
        isinstance(module, torch.jit.ScriptModule)
        or type(module).__module__.startswith("torch._dynamo")
        or module._compiled_call_impl is not None
    )


def is_hooked(module: nn.Module) -> bool:
    """Tell whether hooks run around a module's forward."""
    globally = nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
    return bool(module._forward_hooks or module._forward_pre_hooks or globally)


def loose_tensors(module: nn.Module) -> list[Tensor]:
    """List a module's tensors that are neither parameters nor buffers."""
    values = [v for k, v in vars(module).items() if k not in _REGISTRIES]
    tensors = tensors_in([v for v in values if isinstance(v, Tensor | list | tuple | dict)])
    return [tensor for tensor in tensors if not isinstance(tensor, nn.Parameter)]


def moved_by(model: nn.Module, call: Callable[[], T]) -> tuple[T, set[tuple[str, str]]]:
    """Run a pass, and tell which attributes and buffers it changed, by path and name."""
    before = {
        (path, key): (value, value.copy() if type(value) in CONTAINER else None, _clones(value))
        for path, module in model.named_modules()
        for key, value in _kept(module).items()
    }
    out = call()
    after = {
        (path, key): value
        for path, module in model.named_modules()
        for key, value in _kept(module).items()
    }
    moved = {
        at
        for at, (seen, contents, clones) in before.items()
        if at not in after
        or not _same(after[at], seen, contents)
        or not all(map(_same_bytes, _clones(after[at]), clones))
    }
    return out, moved | (after.keys() - before.keys())


def _kept(module: nn.Module) -> dict[str, Any]:
    plain = {key: value for key, value in vars(module).items() if key not in _REGISTRIES}
    return plain | module._buffers


def _clones(value: Any) -> list[Tensor]:
    if not isinstance(value, Tensor | list | tuple | dict):
        return []
    return [t.detach().clone() for t in tensors_in(value) if not isinstance(t, nn.Parameter)]


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    # As bytes, for NaN differs from itself.
    return a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


class State:
    """The attributes and tensors that modules keep, so that a pass can leave no trace in them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._pictures = [(module, picture_of(module)) for module in modules]
        self._copies = [
            (module, tensor, tensor.detach().clone())
            for module, _ in self._pictures
            for tensor in (*module.buffers(recurse=False), *loose_tensors(module))
        ]
        self.changed: list[nn.Module] = []
        self.written: list[Tensor] = []

    def restore(self, *, note: bool = True) -> None:
        """Put everything back, and note what had to be.

        Unless that is asked for, a tensor on an accelerator is put back without looking at it.
        """
        for module, picture in self._pictures:
            if not unchanged(module, picture):
                self.changed.append(module)
                _repaint(module, picture)
        if not note:
            for _, tensor, copy in self._copies:
                _put_back(tensor, copy)
            return
        differing = _differ([(tensor, copy) for _, tensor, copy in self._copies])
        for (module, tensor, copy), written in zip(self._copies, differing, strict=True):
            if written:
                self.changed.append(module)
                self.written.append(tensor)
                tensor.copy_(copy)


def _put_back(tensor: Tensor, copy: Tensor) -> None:
    if devices.is_apart(tensor.device):
        # As data, so that to others a tensor is written to only where the network did.
        tensor.data.copy_(copy)
    elif not _same_bytes(tensor, copy):
        tensor.copy_(copy)


def _differ(pairs: list[tuple[Tensor, Tensor]]) -> list[bool]:
    """Compare tensors with copies of them, on an accelerator by one look at all."""
    looks: list[Tensor] = []
    found: list[bool | None] = []
    for tensor, copy in pairs:
        if devices.is_apart(tensor.device) and tensor.shape == copy.shape:
            looks.append((as_bytes(tensor) != as_bytes(copy)).any())
            found.append(None)
        else:
            found.append(not _same_bytes(tensor, copy))
    seen = iter(torch.stack([look.to(looks[0].device) for look in looks]).tolist() if looks else [])
    return [bool(next(seen)) if known is None else known for known in found]
