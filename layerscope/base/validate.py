"""One validator for each kind of argument that many functions take.

Each returns what was given in its plain form, or says what came, what was expected and what to do.

>>> from layerscope.base import validate
>>> validate.integer(3, "draws", least=1)
3
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import OptionError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "arrays",
    "describe",
    "expand",
    "flag",
    "function",
    "integer",
    "integers",
    "kind_of",
    "number",
    "path",
    "resolve",
]

_SHORT = 60  # characters of a value that a message still shows
_LONGEST_NAME, _LONGEST_PATH = 255, 4096  # bytes, on all file systems in use; of Linux


def describe(value: Any) -> str:
    """Name a value in a message: as it is written where that is short, else by its kind.

    Examples
    --------
    >>> describe("64"), describe(None), describe([0.0] * 99), describe(len)
    ("'64'", 'None', 'a list of 99', 'the function len')
    """
    name = getattr(value, "__name__", None)
    if isinstance(name, str) and callable(value):
        return f"the {'class' if isinstance(value, type) else 'function'} {name}"
    kind = type(value)
    plain = kind.__module__ == "builtins" or isinstance(value, (Real, os.PathLike))
    if plain and len(text := repr(value)) <= _SHORT and "\n" not in text and " at 0x" not in text:
        return text
    count = f" of {len(value)}" if isinstance(value, (list, tuple, dict, set)) else ""
    return f"{kind_of(value)}{count}"


def kind_of(value: Any) -> str:
    """Name the kind of a value with its article, such as "an int"; None by itself."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def integer(value: Any, name: str, least: int | None = None, example: int = 0) -> int:
    """Return a whole number, of Python's kind; True and "3" are none.

    Parameters
    ----------
    value
        What came.
    name : str
        Of the argument.
    least : int, optional
        The lowest that is allowed.
    example : int
        For the message; at least `least`.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> integer("64", "batch_size", 1)
    Traceback (most recent call last):
    ...
    layerscope.errors.OptionError: batch_size is '64', a str; give a whole number, such as 1.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        such = example if least is None else max(least, example)
        raise OptionError(f"{name} is {_with_kind(value)}; give a whole number, such as {such}.")
    if least is not None and value < least:
        raise OptionError(f"{name} is {value}; it must be at least {least}.")
    return int(value)


def arrays(**given: Any) -> list[npt.NDArray[np.float64]]:
    """Return arrays of numbers that go together, as NumPy's of double precision.

    Raises
    ------
    OptionError
        If one holds something else, or their shapes can't be broadcast against each other.

    Examples
    --------
    >>> [array.shape for array in arrays(errors=[0.1, 0.2], n=100)]
    [(2,), ()]
    """
    import numpy as np

    found = []
    for name, value in given.items():
        try:
            found.append(np.asarray(value, float))
        except (TypeError, ValueError):
            value = None
        if value is None:
            raise OptionError(
                f"{name} is {_with_kind(given[name])}; give a number, or an array of numbers."
            )
    try:
        np.broadcast_shapes(*(array.shape for array in found))
    except ValueError:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in zip(given, found, strict=True))
        raise OptionError(f"the shapes of {shapes} don't go together; give one of each.") from None
    return found


def integers(values: Any, name: str, example: str = "[0, 1]") -> list[int]:
    """Return whole numbers in any container, tensors and arrays included, as plain ones.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> integers(range(3), "epochs")
    [0, 1, 2]
    """
    listed = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))
    found: list[Any] = list(values) if listed else [None]
    # One-element tensors are what iterating over a tensor gives.
    found = [each.item() if hasattr(each, "item") else each for each in found]
    if not all(isinstance(each, Integral) and not isinstance(each, bool) for each in found):
        raise OptionError(f"{name} is {describe(values)}; give whole numbers, such as {example}.")
    return [int(each) for each in found]


def number(value: Any, name: str, span: str, example: float) -> float:
    """Return a finite number as a plain one.

    Parameters
    ----------
    value
        What came.
    name : str
        Of the argument.
    span : str
        Where it must lie, such as ``"[0, 1)"`` or ``"(0, inf)"``.
    example : float
        For the message.

    Raises
    ------
    OptionError

    Examples
    --------
    >>> number("5 %", "critical", "[0, 1]", 0.05)
    Traceback (most recent call last):
    ...
    layerscope.errors.OptionError: critical is '5 %', a str; give a number, such as 0.05.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise OptionError(f"{name} is {_with_kind(value)}; give a number, such as {example:g}.")
    found = float(value)
    low, high = map(float, span[1:-1].split(","))
    inside = low < found < high or (found == low and span[0] == "[")
    inside |= found == high and span[-1] == "]"
    if not inside or found in (float("inf"), float("-inf")):
        least = "at least" if span[0] == "[" else "above"
        where = f"{least} {low:g}" if high == float("inf") and low > -high else f"in {span}"
        raise OptionError(f"{name} is {value}; it must be {where}, such as {example:g}.")
    return found


def flag(value: Any, name: str) -> bool:
    """Return True or False; "no" would count as true.

    Raises
    ------
    OptionError
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name} is {_with_kind(value)}; give True or False.")
    return value


def function(value: Any, name: str, takes: str) -> Callable[..., Any]:
    """Return what can be called.

    Parameters
    ----------
    value
        What came.
    name : str
        Of the argument.
    takes : str
        How it is called, such as ``"callback(ds)"``.

    Raises
    ------
    OptionError
    """
    if not callable(value):
        raise OptionError(
            f"{name} is {_with_kind(value)}; give a function, which is called as {takes}."
        )
    result: Callable[..., Any] = value
    return result


def path(value: Any, name: str, example: str) -> Path:
    """Return the path of a file or folder.

    Raises
    ------
    OptionError
        If it is no text or path, is empty, or is one that no file can have.
    """
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise OptionError(f"{name} is {_with_kind(value)}; give a path, such as {example!r}.")
    _require_possible(os.fspath(value), name)
    return Path(value)


def expand(value: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` at its beginning filled in, where that is somebody's.

    Raises
    ------
    OptionError
        If it is one that no file can have.
    """
    _require_possible(os.fspath(value), "the path")
    # Path.expanduser raises for a user that is not there.
    return Path(os.path.expanduser(value))  # noqa: PTH111


def resolve(value: str | os.PathLike[str]) -> Path:
    """Return a path without links in it; of one that leads to itself as far as it goes."""
    # Path.resolve raises RuntimeError for such a link.
    return Path(os.path.realpath(value))


def _require_possible(text: str | bytes, name: str) -> None:
    """Refuse what the system would answer with an error of its own wherever it is asked."""
    try:
        content = os.fsencode(text)
    except UnicodeEncodeError:  # half of a character
        content = b"\0"
    if b"\0" in content:
        raise OptionError(f"{name} is {ascii(text)[:_SHORT]}; no file can be called so.")
    longest = max(content.split(os.sep.encode()), key=len)
    if len(longest) > _LONGEST_NAME or len(content) >= _LONGEST_PATH:
        raise OptionError(
            f"{name} begins with {os.fsdecode(content[:_SHORT])!r} and has {len(content):,} bytes; "
            f"a path has less than {_LONGEST_PATH:,}, and each name in it at most {_LONGEST_NAME}."
        )


def _with_kind(value: Any) -> str:
    """Show a value together with its kind, where the one does not say the other."""
    text = describe(value)
    shown = value is not None and text == repr(value)
    return f"{text}, {kind_of(value)}" if shown else text
