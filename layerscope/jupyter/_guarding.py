"""Errors of what is pressed are shown to the user."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["guard"]

F = TypeVar("F", bound=Callable[..., Any])


def guard(method: F) -> F:
    """Show what a method raises in the status line; Jupyter would drop it silently."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - shown to the user
            self._display.fail(error)
            return None

    return guarded  # type: ignore[return-value]
