"""The sweep that fills the heat map in the background."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import xarray as xr

from layerscope import results
from layerscope.core import sweep as engine
from layerscope.core.session import Session
from layerscope.jupyter._controls import Controls

__all__ = ["shown_progress", "sweep"]

_DRAWS = 3
_DRAWN_EVERY_S = 0.25


def sweep(
    session: Session,
    data: Any,
    view: str,
    options: Mapping[str, Any],
    show: Callable[[xr.Dataset], object],
    between: Callable[[], object],
) -> str:
    """Sweep all rows of a view, and show what is known every now and then.

    Parameters
    ----------
    session : Session
        Asked by others before every cell, so the sweep has a copy of its network.
    data, view, options
        As for `layerscope.sweep`.
    show : callable
        Takes the Dataset as far as it is known.
    between : callable
        Called before every cell; what it raises stops the sweep.

    Returns
    -------
    str
        What the numbers alone do not show; empty where there is nothing to say.
    """
    ds = engine.sweep(
        copy.deepcopy(session.plan.model),
        data,
        checkpoints=session.plan.series,
        view=view,
        draws=_DRAWS,
        callback=show,
        between=between,
        show_progress=False,
        **{**options, "device": session.device},
    )
    return " ".join(results.notices(ds))


@contextmanager
def shown_progress(
    parts: Controls, session: Session, view: str, between: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Show how far a sweep is and how long it will take; count its cells with what is yielded."""
    cells = len(session.rows(view)) * (len(session.epochs) + _DRAWS)
    total, done, drawn = cells * len(session.data.lengths), 0, 0.0
    began = time.monotonic()

    def count() -> None:
        nonlocal done, drawn
        between()
        done, now = done + 1, time.monotonic()
        if now - drawn > _DRAWN_EVERY_S:
            drawn, share = now, min(done / total, 1.0)
            parts.progress.value = share
            parts.left.value = f"{share:.0%}, {(now - began) * (1 / share - 1):.0f} s left"

    try:
        yield count
        parts.progress.value, parts.left.value = 1.0, f"{time.monotonic() - began:.1f} s"
    except BaseException:
        parts.left.value = "stopped"
        raise
    finally:
        parts.start.disabled, parts.cancel.disabled = False, True
