"""Noticing that Python's or NumPy's global random numbers were drawn."""

from __future__ import annotations

import pickle
import random
import sys
from functools import partial
from types import FrameType
from typing import Any

import numpy as np

from layerscope.base.undoing import Undo

__all__ = ["Draws"]


class Draws(Undo):
    """Notice draws from the generators that a process has once for all of its threads.

    Parameters
    ----------
    own : bool, default False
        Leave out what other threads draw from Python's generator meanwhile, as Dask's do for
        samples of what they send. Every call of this thread is looked at, which takes time; where
        a profiler looks already, others' draws count.

    Attributes
    ----------
    any : bool
        Known once the block has ended.
    """

    def __init__(self, *, own: bool = False) -> None:
        super().__init__()
        self.any = False
        self._own = own and sys.getprofile() is None
        self._called = False

    def begin(self) -> Draws:
        """Begin to look."""
        self._before = _states()
        self.add(self._compare)
        if self._own:
            self.add(partial(sys.setprofile, None))
            sys.setprofile(self._look)
        return self

    def _compare(self) -> None:
        changed = [old != new for old, new in zip(self._before, _states(), strict=True)]
        self.any = changed[1] or (self._called if self._own else changed[0])

    def _look(self, _: FrameType, event: str, called: Any) -> None:
        if event == "c_call" and getattr(called, "__self__", None) is _SHARED:
            self._called = True


_SHARED = random.random.__self__  # type: ignore[attr-defined]
"""Generator that the functions of `random` are methods of."""


def _states() -> tuple[bytes, bytes]:
    return pickle.dumps(random.getstate()), pickle.dumps(np.random.get_state())
