"""Malformed inputs for every reader of layerscope, and a process of its own for each."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

from malformed._calls import READERS as _CALLS
from malformed._case import CANARY, Case, Reader
from malformed._data import READERS as _DATA
from malformed._results import READERS as _RESULTS
from malformed._running import OUTCOMES, Ending, answer_of, run
from malformed._spoiling import flipped, overwritten
from malformed._weights import READERS as _WEIGHTS

__all__ = [
    "CANARY",
    "OUTCOMES",
    "READERS",
    "RIGHT",
    "Case",
    "Ending",
    "Reader",
    "answer_of",
    "called",
    "cases",
    "run",
]

RIGHT = (OUTCOMES[0], OUTCOMES[2])
"""What may become of an input."""

_ALL = 150
"""Of each kind with chance: enough that every value stands in every place of a JSON."""

_FLIPPED = re.compile(r"(.+): bit (\d) of byte (\d+) flipped")
_OVERWRITTEN = re.compile(r"(.+): 64 bytes of (\w\w) at (\d+), (\d+)")

READERS = {each.name: each for each in (*_WEIGHTS, *_RESULTS, *_DATA, *_CALLS)}


def cases(reader: Reader, folder: Path, seed: int = 0, each: int = 3) -> Iterator[Case]:
    """Make the inputs of a reader from the sound one in a folder."""
    return reader.cases(folder, random.Random(f"{reader.name} {seed}"), each)


def called(reader: Reader, folder: Path, names: set[str]) -> Iterator[Case]:
    """Make the inputs of these names, which say how they are made."""
    left = set(names)
    for name in names:
        if bit := _FLIPPED.fullmatch(name):
            yield flipped(bit[1], int(bit[3]), int(bit[2]))
        elif piece := _OVERWRITTEN.fullmatch(name):
            yield overwritten(piece[1], int(piece[3]), piece[2], int(piece[4]))
        else:
            continue
        left.remove(name)
    for case in cases(reader, folder, each=_ALL) if left else ():
        if case.how in left:
            left.remove(case.how)
            yield case
