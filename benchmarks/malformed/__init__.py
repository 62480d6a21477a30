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
from malformed._spoiling import flipped
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

_ALL = 40
"""Of each kind with chance: enough that every value stands in every place of a JSON."""

_FLIPPED = re.compile(r"(.+): bit (\d) of byte (\d+) flipped")

READERS = {each.name: each for each in (*_WEIGHTS, *_RESULTS, *_DATA, *_CALLS)}


def cases(reader: Reader, folder: Path, seed: int = 0, each: int = 3) -> Iterator[Case]:
    """Make the inputs of a reader from the sound one in a folder."""
    return reader.cases(folder, random.Random(f"{reader.name} {seed}"), each)


def called(reader: Reader, folder: Path, names: set[str]) -> Iterator[Case]:
    """Make the inputs of these names, which say how they are made."""
    bits = {name: found for name in names if (found := _FLIPPED.fullmatch(name))}
    for found in bits.values():
        yield flipped(found[1], int(found[3]), int(found[2]))
    left = names - bits.keys()
    for case in cases(reader, folder, each=_ALL) if left else ():
        if case.how in left:
            left.remove(case.how)
            yield case
