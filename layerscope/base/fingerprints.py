"""A digest of what a function does, to notice that it, or what it uses, is another by now."""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layerscope.base.tensors import as_bytes

__all__ = ["Fingerprint", "fingerprint", "is_library"]

_PLAIN = (int, float, complex, str, bytes, bool, type(None), range, slice, type(...), PurePath)
_SAID = (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, np.dtype)
_LIBRARIES = tuple({sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib")})
# Of another environment that this one sees, too: the system's, the user's, one on the path.
_INSTALLED = frozenset({"site-packages", "dist-packages"})

# Of a class: what says nothing about what it does, or differs between equal ones.
_SILENT = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "_abc_impl",
    "__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "__firstlineno__",
    "__slotnames__", "__static_attributes__", "__annotate__", "__annotate_func__", "__orig_bases__",
}  # fmt: skip
# Of a module: what passes and training leave, and its hooks, which are counted on from one to the
# next wherever they are.
_PASSING = {"training", "_is_full_backward_hook", "_compiled_call_impl", "_is_hf_initialized"}


def fingerprint(value: Any, known: Mapping[int, str] | None = None) -> str:
    """SHA-256 over what a function does: its code, and the values that it refers to.

    Those are its defaults, its closure, what it is bound to, and the globals that it names.
    Functions and classes among them are followed, tensors, arrays and modules count by their
    content, objects by their attributes. What belongs to an installed package counts by its name
    and version. It is the same in another process, and differs between versions of Python, which
    compile otherwise.

    Parameters
    ----------
    value : callable, or any value
    known : mapping of int to str, optional
        By id, what stands for itself, such as the network that is swept.

    Examples
    --------
    >>> fingerprint(lambda x: x / 2) == fingerprint(lambda x: x / 2) != fingerprint(lambda x: x / 3)
    True
    """
    return Fingerprint(value, known).sha256


class Fingerprint:
    """Description of a value in a form that is the same in another process.

    Attributes
    ----------
    sha256 : str
    opaque : list of str
        Types of which objects were met that can't be described, such as an open file: a change of
        theirs does not show.
    """

    def __init__(self, value: Any, known: Mapping[int, str] | None = None) -> None:
        self.opaque: list[str] = []
        self._known = known or {}
        # Kept with their place, so that an address is not another's later.
        self._met: dict[int, tuple[int, Any]] = {}
        self.sha256 = self._sha(value)

    def _sha(self, value: Any) -> str:
        seen = hashlib.sha256()
        for piece in self._pieces(value):
            plain = piece if isinstance(piece, bytes) else piece.encode()
            seen.update(f"{len(plain)}:".encode())
            seen.update(plain)
        return seen.hexdigest()

    def _pieces(self, value: Any) -> Iterator[str | bytes]:
        if id(value) in self._known:
            yield f"known {self._known[id(value)]}"
        elif isinstance(value, enum.Enum):
            yield f"{type(value).__qualname__}.{value.name}"
        elif type(value) in _PLAIN or isinstance(value, (*_SAID, PurePath)):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, (CodeType, tuple, frozenset)):
            # Constants, which may be one object or several.
            yield from self._of(value)
        elif id(value) in self._met:
            yield f"again {self._met[id(value)][0]}"
        else:
            self._met[id(value)] = len(self._met), value
            yield from self._of(value)

    def _of(self, value: Any) -> Iterator[str | bytes]:
        yield type(value).__qualname__
        for kinds, described in self._KINDS:
            if isinstance(value, kinds):
                yield from described(self, value)
                return
        yield from self._of_object(value)

    def _of_tensor(self, value: Tensor) -> Iterator[str | bytes]:
        yield f"{tuple(value.shape)} {value.dtype} {value.layout}"
        if value.is_meta:
            return
        try:
            plain = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            yield as_bytes(plain.resolve_conj().resolve_neg().cpu()).numpy().tobytes()
        except (RuntimeError, TypeError):
            # Of a kind that holds its values otherwise, such as quantised or nested.
            self.opaque.append(f"{type(value).__name__} of {value.dtype}")

    def _of_array(self, value: Any) -> Iterator[str | bytes]:
        yield f"{value.shape} {value.dtype}"
        yield from self._of_items(value.tolist()) if value.dtype.hasobject else [value.tobytes()]

    def _of_generator(self, value: torch.Generator) -> Iterator[str | bytes]:
        yield from self._pieces(value.get_state())

    def _of_items(self, value: Any) -> Iterator[str | bytes]:
        for item in value:
            yield from self._pieces(item)

    def _of_set(self, value: Any) -> Iterator[str | bytes]:
        # In an order that does not hang on hashes, which differ between processes.
        yield from sorted(Fingerprint(item, self._known).sha256 for item in value)

    def _of_mapping(self, value: Any) -> Iterator[str | bytes]:
        for key, item in value.items():
            yield from self._pieces(key)
            yield from self._pieces(item)

    def _of_code(self, code: CodeType) -> Iterator[str | bytes]:
        yield code.co_code
        yield repr((code.co_names, code.co_varnames, code.co_freevars))
        yield from self._of_items(code.co_consts)

    def _of_function(self, value: FunctionType) -> Iterator[str | bytes]:
        if _in_library(value.__code__.co_filename):
            yield _named(value)
        else:
            yield from self._pieces(value.__code__)
            yield from self._pieces((value.__defaults__, value.__kwdefaults__))
            for name, used in _globals(value.__code__, value.__globals__):
                yield name
                yield from self._pieces(used)
            yield from self._of_mapping(
                {name: held for name, held in vars(value).items() if name != "__wrapped__"}
            )
        for cell in value.__closure__ or ():
            try:
                yield from self._pieces(cell.cell_contents)
            except ValueError:
                yield "empty"

    def _of_method(self, value: MethodType) -> Iterator[str | bytes]:
        yield from self._pieces((value.__func__, value.__self__))

    def _of_partial(self, value: Any) -> Iterator[str | bytes]:
        yield from self._pieces((value.func, value.args, value.keywords))

    def _of_builtin(self, value: Any) -> Iterator[str | bytes]:
        yield value.__qualname__
        bound = getattr(value, "__self__", None)
        yield from self._pieces(None if isinstance(bound, (type, ModuleType)) else bound)

    def _of_descriptor(self, value: Any) -> Iterator[str | bytes]:
        names = ("fget", "fset", "__func__", "func")
        yield from self._pieces(tuple(getattr(value, name, None) for name in names))

    def _of_class(self, value: type) -> Iterator[str | bytes]:
        yield _named(value)
        if is_library(value):
            return
        for base in value.__bases__:
            yield from self._pieces(base)
        for name, member in vars(value).items():
            if name not in _SILENT and not inspect.isdatadescriptor(member):
                yield name
                yield from self._pieces(member)
            elif isinstance(member, property):
                yield from self._pieces(member)

    def _of_import(self, value: ModuleType) -> Iterator[str | bytes]:
        yield f"{value.__name__} {_version(value.__name__)}"

    def _of_module(self, value: nn.Module) -> Iterator[str | bytes]:
        yield from self._pieces(type(value))
        for name, held in vars(value).items():
            if name not in _PASSING:
                yield name
                hooks = name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called"))
                yield from self._pieces(list(held.values()) if hooks else held)

    def _of_script(self, value: Any) -> Iterator[str | bytes]:
        yield str(value.code)
        if isinstance(value, nn.Module):
            yield from self._of_mapping(value.state_dict())

    def _of_wrapped(self, value: Any) -> Iterator[str | bytes]:
        inner = getattr(value, "_torchdynamo_orig_callable", None)
        yield from self._pieces(inner if inner is not None else value.__wrapped__)

    def _of_object(self, value: Any) -> Iterator[str | bytes]:
        """An object of any class: as it would be pickled, or by its attributes."""
        kind = type(value)
        if kind.__module__.startswith("torch._"):
            return  # of the compiler and the like: what it holds says nothing about values
        yield from self._pieces(kind)
        if hasattr(value, "__wrapped__"):
            yield from self._of_wrapped(value)
        elif not is_library(kind) and hasattr(value, "__dict__"):
            yield from self._of_mapping(vars(value))
        else:
            yield from self._of_pickled(value)

    def _of_pickled(self, value: Any) -> Iterator[str | bytes]:
        try:
            found = value.__reduce_ex__(2)
        except Exception:  # noqa: BLE001 - whatever its class raises, it can't be taken apart
            self.opaque.append(f"{type(value).__module__}.{type(value).__qualname__}")
            return
        if isinstance(found, str):
            yield found
            return
        made, *rest = found
        yield _named(made)
        for part in rest:
            # Items of lists and dicts come as iterators.
            yield from self._pieces(list(part) if isinstance(part, Iterator) else part)

    _KINDS: tuple[tuple[Any, Callable[[Any, Any], Iterator[str | bytes]]], ...] = (
        (Tensor, _of_tensor),
        ((np.ndarray, np.generic), _of_array),
        (torch.Generator, _of_generator),
        ((torch.jit.ScriptModule, torch.jit.ScriptFunction), _of_script),
        (nn.Module, _of_module),
        (CodeType, _of_code),
        (FunctionType, _of_function),
        (MethodType, _of_method),
        (BuiltinFunctionType, _of_builtin),
        (functools.partial, _of_partial),
        ((property, staticmethod, classmethod, functools.cached_property), _of_descriptor),
        (type, _of_class),
        (ModuleType, _of_import),
        ((list, tuple), _of_items),
        ((set, frozenset), _of_set),
        (dict, _of_mapping),
        (re.Pattern, lambda _, value: iter([value.pattern, str(value.flags)])),
    )


def _globals(code: CodeType, names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the globals that code, or code inside it, uses, by name.

    Of a module of the user's own, what is used of it.
    """
    steps = list(dis.get_instructions(code))
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or step.argval not in names:
            continue
        used = names[step.argval]
        if isinstance(used, ModuleType) and not _in_library(getattr(used, "__file__", None) or ""):
            part = str(following.argval) if following else ""
            used = getattr(used, part, None)
            yield f"{step.argval}.{part}", used
        else:
            yield step.argval, used
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _globals(constant, names)


def _named(value: Any) -> str:
    name = str(getattr(value, "__module__", ""))
    return f"{name}.{getattr(value, '__qualname__', '')} {_version(name)}"


def _version(name: str) -> str:
    """Version of the package that a module belongs to, where it says so."""
    return str(getattr(sys.modules.get(name.partition(".")[0]), "__version__", ""))


def is_library(kind: type) -> bool:
    """Recognise a class from an installed package, or from Python itself."""
    module = sys.modules.get(kind.__module__)
    if kind.__module__ == "__main__" or module is None:
        return False
    return _in_library(getattr(module, "__file__", None) or "")


def _in_library(file: str) -> bool:
    return (
        not file
        or file.startswith(("<frozen", *_LIBRARIES))
        or not _INSTALLED.isdisjoint(PurePath(file).parts)
    )
