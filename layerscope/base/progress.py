"""Progress with an estimate, in a terminal, in a notebook, and out of a batch run.

A notebook that runs in batch has nobody to look at it, so its bars are relayed through a small
file (`RELAY`) to the process that runs it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

__all__ = ["RELAY", "Advance", "Joint", "bar", "joint", "read_relay"]

RELAY = "LAYERSCOPE_PROGRESS"
"""Environment variable with the file to report to, or ``off``."""

_DELAY_S = 2.0
_EVERY_S = 0.2

Advance = Callable[..., None]
"""Call it with the number of steps done, and what to show beside the bar as keywords."""


@contextmanager
def bar(total: int, what: str, unit: str, start: int = 0, show: bool = True) -> Iterator[Advance]:
    """Show progress over `total` steps once two seconds have passed.

    Parameters
    ----------
    total : int
    what : str
        What is being done, such as ``"train fcn-3x256"``.
    unit : str
        What a step is, in the singular.
    start : int
        Steps that were done before.
    show : bool

    Yields
    ------
    callable
        ``advance(steps, **shown)``.
    """
    relay = os.environ.get(RELAY)
    share = _SHARE.get()
    if share is not None:
        yield share.advance_of(total, start) if unit == share.joint.unit else _silent
        return
    if not show or relay == "off":
        yield _silent
        return
    if relay:
        with _relaying(Path(relay), total, what, unit, start) as advance:
            yield advance
        return
    from tqdm.auto import tqdm

    with tqdm(
        total=total, desc=what, unit=unit, initial=start, delay=_DELAY_S, leave=False
    ) as shown_bar:

        def advance(steps: int = 1, **shown: str) -> None:
            shown_bar.update(steps)
            if shown:
                shown_bar.set_postfix(shown, refresh=False)

        yield advance


class Joint:
    """One bar over several pieces of work, each of which has a bar of its own when done alone.

    Parameters
    ----------
    advance : callable
        Of the bar.
    unit : str
        Bars of this unit advance it; others, of what is only prepared, show nothing.
    """

    def __init__(self, advance: Advance, unit: str) -> None:
        self.advance, self.unit = advance, unit

    @contextmanager
    def share(self, steps: int) -> Iterator[None]:
        """Let what is done in the block count as so many steps, however it counts itself."""
        share = _Share(self, steps)
        token = _SHARE.set(share)
        try:
            yield
        finally:
            _SHARE.reset(token)
        share.finish()


class _Share:
    """One piece's steps of a joint bar."""

    def __init__(self, joint: Joint, steps: int) -> None:
        self.joint, self._steps, self._shown = joint, steps, 0

    def advance_of(self, total: int, start: int) -> Advance:
        done = start

        def advance(steps: int = 1, **shown: str) -> None:
            nonlocal done
            done += steps
            self._show(self._steps * done // max(total, 1), **shown)

        return advance

    def finish(self) -> None:
        """Count what was found done already, or was not needed."""
        self._show(self._steps)

    def _show(self, upto: int, **shown: str) -> None:
        # A bar that begins anew, as after memory ran out, does not take the joint one back.
        upto = min(upto, self._steps)
        self.joint.advance(max(upto - self._shown, 0), **shown)
        self._shown = max(upto, self._shown)


# For each thread its own: an explorer sweeps in another than the notebook's.
_SHARE: ContextVar[_Share | None] = ContextVar("share", default=None)


@contextmanager
def joint(total: int, what: str, unit: str, show: bool = True) -> Iterator[Joint]:
    """Show one bar over several pieces of work; the arguments are those of `bar`.

    Examples
    --------
    >>> with joint(300, "sweep", "example", show=False) as together:
    ...     with together.share(100), bar(7, "sweep", "example") as advance:
    ...         advance(7)
    """
    with bar(total, what, unit, show=show) as advance:
        yield Joint(advance, unit)


def _silent(steps: int = 1, **shown: str) -> None:
    """Show nothing."""


@contextmanager
def _relaying(path: Path, total: int, what: str, unit: str, start: int) -> Iterator[Advance]:
    began, last, done = time.monotonic(), 0.0, start

    def advance(steps: int = 1, **shown: str) -> None:
        nonlocal last, done
        done += steps
        now = time.monotonic()
        if now - last < _EVERY_S:
            return
        last = now
        rate = (done - start) / max(now - began, 1e-9)
        left = (total - done) / rate if rate else float("nan")
        beside = "".join(f", {name} {value}" for name, value in shown.items())
        line = f"{what}: {done}/{total} {unit}s, {left:.0f} s left{beside}"
        draft = path.with_suffix(".tmp")
        with suppress(OSError):  # no reason to stop what is being done
            draft.write_text(json.dumps(line), encoding="utf-8")
            draft.replace(path)

    yield advance


def read_relay(path: Path) -> str:
    """Return the line last reported to a relay file; empty where there is none."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return ""
