"""Exceptions and warnings of layerscope, and words for wrong choices.

Every message names what came, what was expected and what to do about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ClusterError",
    "DataError",
    "ExtraError",
    "LayerError",
    "LayerscopeError",
    "OptionError",
    "ResultError",
    "SweepWarning",
    "TrainingError",
    "choose",
]


_MOST_LISTED = 60
_FEW_LISTED = 8


class LayerscopeError(Exception):
    """Base of every error that layerscope raises on purpose."""


class DataError(LayerscopeError):
    """A data set is missing, incomplete or of the wrong form."""


class CheckpointError(LayerscopeError):
    """A checkpoint can't be read, or is not one of this network."""


class ClusterError(LayerscopeError):
    """Workers of a cluster are gone, kept dying, or would compute something else."""


class ExtraError(LayerscopeError, ImportError):
    """A package that only an extra installs is missing; see `layerscope.base.extras`."""


class LayerError(LayerscopeError):
    """A layer was asked for that the network does not have."""


class OptionError(LayerscopeError, ValueError):
    """An argument has a value that is not one of the allowed ones."""


class ResultError(LayerscopeError):
    """A Dataset lacks what a function needs, or can't be saved or opened."""


class SweepWarning(UserWarning):
    """Warning of what a sweep's numbers alone do not show; see `results.notices`."""


class TrainingError(LayerscopeError):
    """Training diverged, or can't go on."""


def choose(value: str, allowed: Iterable[str], what: str) -> str:
    """Return `value` if it is one of `allowed`, else raise and list them.

    Parameters
    ----------
    value : str
        What the user gave.
    allowed : iterable of str
        What there is.
    what : str
        What is being chosen, in the singular, such as ``"metric"``.

    Raises
    ------
    OptionError
        If `value` is not in `allowed`; the message suggests the nearest names, and of very many
        lists the first.
    """
    names = list(allowed)
    if value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=3)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    listed = ", ".join(names)
    if len(names) > _MOST_LISTED:
        listed = f"{', '.join(names[:_FEW_LISTED])} and {len(names) - _FEW_LISTED} more"
    raise OptionError(f"there is no {what} {value!r}.{hint} There is: {listed}.")
