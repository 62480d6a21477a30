"""A digest of a function's code, to notice that it was edited."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Iterator
from types import CodeType
from typing import Any

__all__ = ["digest"]

_PLAIN = (int, float, complex, str, bytes, bool, type(None))


def digest(function: Any) -> str:
    """SHA-256 over what a function does: its code, and the plain values that it refers to.

    Those are its defaults, its closure and the globals that it names; functions among them are
    followed. Other objects count by their type alone. It differs between versions of Python,
    which compile otherwise.

    Examples
    --------
    >>> digest(lambda x: x / 2) == digest(lambda x: x / 2) != digest(lambda x: x / 3)
    True
    """
    seen = hashlib.sha256()
    for piece in _described(function, {}):
        seen.update(f"{len(piece)}:{piece}".encode())
    return seen.hexdigest()


def _described(value: Any, met: dict[int, Any]) -> Iterator[str]:
    """Yield text that is the same for what does the same, without addresses."""
    if isinstance(value, _PLAIN):
        yield repr(value)
        return
    if id(value) in met:
        yield "again"
        return
    if not isinstance(value, (tuple, frozenset, CodeType)):
        # Kept, so that its address is not another's later; constants may be shared or not.
        met[id(value)] = value
    yield type(value).__qualname__
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _described(item, met)
    elif isinstance(value, (set, frozenset)):
        yield repr(sorted(map(repr, value)))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield repr(key)
            yield from _described(item, met)
    elif isinstance(value, CodeType):
        yield from _of_code(value, met)
    elif isinstance(value, functools.partial):
        yield from _described((value.func, value.args, value.keywords), met)
    elif inspect.ismethod(value):
        yield from _described((value.__func__, getattr(value.__self__, "__dict__", None)), met)
    elif inspect.isfunction(value):
        yield from _of_function(value, met)
    elif callable(value) and not inspect.isclass(value):
        called = inspect.getattr_static(type(value), "__call__")
        if inspect.isfunction(called):
            yield from _described((called, vars(value)), met)


def _of_code(code: CodeType, met: dict[int, Any]) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for constant in code.co_consts:
        yield from _described(constant, met)


def _of_function(function: Any, met: dict[int, Any]) -> Iterator[str]:
    yield from _described(function.__code__, met)
    yield from _described((function.__defaults__, function.__kwdefaults__), met)
    for cell in function.__closure__ or ():
        yield from _described(cell.cell_contents, met)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, _PLAIN) or inspect.isfunction(value):
            yield from _described(value, met)
