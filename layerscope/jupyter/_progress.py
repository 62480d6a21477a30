"""How far the sweep is that fills the heat map in the background."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from layerscope.jupyter._controls import Controls
from layerscope.jupyter._worker import Stopped

__all__ = ["progress"]

_DRAWN_EVERY_S = 0.25


@contextmanager
def progress(
    parts: Controls,
    total: Callable[[], int],
    between: Callable[[], None],
    failed: Callable[[BaseException | None], object],
) -> Iterator[Callable[[], None]]:
    """Show how far a sweep is and how long it will take; count its steps with what is yielded.

    Parameters
    ----------
    parts : Controls
    total : callable
        Says how many steps there are; asked when the first is done, and so of a call that is valid.
    between : callable
        Called before every step.
    failed : callable
        Called with None at the beginning, and with what ends the sweep but the user.
    """
    done, drawn, began = 0, 0.0, time.monotonic()

    def count() -> None:
        nonlocal done, drawn
        between()
        done, now = done + 1, time.monotonic()
        if now - drawn > _DRAWN_EVERY_S:
            drawn, share = now, min(done / max(total(), 1), 1.0)
            parts.progress.value = share
            parts.left.value = f"{share:.0%}, {(now - began) * (1 / share - 1):.0f} s left"

    failed(None)
    try:
        yield count
        parts.progress.value, parts.left.value = 1.0, f"{time.monotonic() - began:.1f} s"
    except BaseException as error:
        parts.left.value = "stopped"
        if not isinstance(error, Stopped):
            failed(error)
        raise
    finally:
        parts.start.disabled, parts.cancel.disabled = False, True
