"""Warnings in the name of the line that called `sweep`."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]


def warn(message: str, kind: type[Warning] = UserWarning) -> None:
    """Warn in the name of the line that called into this room, however deep in it this is."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)
