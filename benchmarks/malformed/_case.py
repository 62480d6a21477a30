"""A reader, and an input that it may be given."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CANARY", "Case", "Reader"]

CANARY = "executed-by-an-input"
"""The file, in the folder of the run, that an input makes whose code is run."""


@dataclass(frozen=True)
class Case:
    """A malformed input.

    Attributes
    ----------
    how : str
        How it is made, in words, the same in every run with the same seed.
    spoil : callable
        Takes a copy of the sound folder and spoils something in it.
    names : tuple of str
        Of which the error must hold one, where that is not the path of a file in the folder.
    """

    how: str
    spoil: Callable[[Path], object]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """Something of layerscope that reads what may come from a stranger.

    Attributes
    ----------
    name : str
    build : callable
        Makes a sound input in an empty folder.
    read : callable
        Reads what is in a folder, and returns what came of it: tensors, arrays, texts, nested.
    cases : callable
        Takes the folder with the sound input, random numbers, and how many inputs to make of
        each random kind.
    oracle : callable, optional
        Reads the same by the format's own library: what it gives of a changed file is right. `SAME`
        from it stands for a file that is sound to that library. Without it every answer but that
        of the sound input is wrong, as where a digest says what was there.
    """

    name: str
    build: Callable[[Path], object]
    read: Callable[[Path], Any]
    cases: Callable[[Path, random.Random, int], Iterator[Case]]
    oracle: Callable[[Path], Any] | None = None
