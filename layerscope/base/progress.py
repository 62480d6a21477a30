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
from pathlib import Path

__all__ = ["RELAY", "Advance", "bar", "read_relay"]

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
