"""Seeds derived from what they are for, so that no two uses share a stream."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["generator"]


def generator(*purpose: str | int) -> torch.Generator:
    """Return a CPU generator whose seed is a hash of `purpose`.

    A draw thus depends on what it is for, and not on how many others came before it.

    Examples
    --------
    >>> a, b = generator("layer1", 0, 7), generator("layer1", 0, 7)
    >>> a.initial_seed() == b.initial_seed() != generator("layer1", 1, 7).initial_seed()
    True
    """
    # NumPy's integers print otherwise than the same ones of Python.
    plain = tuple(part if isinstance(part, str) else int(part) for part in purpose)
    digest = hashlib.sha256(repr(plain).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
