"""Values written as in Python, read without running anything."""

from __future__ import annotations

import ast
from typing import Any

__all__ = ["evaluate", "parse", "read"]

_LONGEST = 100_000
"""Characters: the parser of Python itself may take a process down that gives it more."""

_FAILURES = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


def read(text: str) -> Any:
    """Read a literal.

    Raises
    ------
    ValueError
        If it is none, is too long or nested too deep.

    Examples
    --------
    >>> read("{'robust': 0.1}")
    {'robust': 0.1}
    """
    _require_short(text)
    return evaluate(text)


def parse(code: str) -> list[ast.stmt]:
    """Parse statements.

    Raises
    ------
    ValueError
        As for `read`.
    """
    _require_short(code)
    try:
        return ast.parse(code).body
    except _FAILURES as error:
        raise ValueError(_words(error)) from None


def evaluate(literal: str | ast.expr) -> Any:
    """Give the value of a literal, parsed or not; errors as of `read`."""
    try:
        return ast.literal_eval(literal)
    except _FAILURES as error:
        raise ValueError(_words(error)) from None


def _require_short(text: str) -> None:
    if len(text) > _LONGEST:
        raise ValueError(f"it has {len(text):,} characters, and may have {_LONGEST:,}")


def _words(error: Exception) -> str:
    if isinstance(error, (MemoryError, RecursionError)):
        return "it is nested too deep"
    return str(error)
