"""Where the answers go: what is shown of a scene, and of what is known of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr

from layerscope import results, stats
from layerscope.core.layers import Layer
from layerscope.core.session import Estimate, Session
from layerscope.errors import CheckpointError
from layerscope.jupyter import _drawing as drawing, _rows as rows, _words as words
from layerscope.jupyter._controls import Controls
from layerscope.jupyter._heat import heat
from layerscope.jupyter._history import History, Scene
from layerscope.jupyter._reader import TokenReader
from layerscope.jupyter._trouble import Trouble

__all__ = ["Display"]

_STALE = "ls-stale"
"""Class of parts that are still those of another state."""


class Display:
    """All that can be seen of the explorer.

    Parameters
    ----------
    controls : Controls
    tokenizer : TokenReader or None
        Says what tokens are.
    texts : bool
        Whether examples are texts, which have a part of their own.

    Attributes
    ----------
    damaged : dict of int to str
        Checkpoints that can't be read, and why; can be set.
    drawing : lock
        Held by whoever draws, while what is to be drawn is looked up, too: a sweep draws in a
        thread of its own, and what it began must not come to stand over what was chosen since.
    """

    def __init__(
        self, controls: Controls, tokenizer: TokenReader | None, texts: bool = False
    ) -> None:
        self._parts, self._tokenizer, self._texts = controls, tokenizer, texts
        self.drawing = threading.RLock()
        self._framed, self._doubts = ("", ""), dict[str, str]()
        self.damaged: dict[int, str] = {}
        self._held: _Known | None = None
        self._blocks: list[dict[str, Any]] = []
        self._legend: list[dict[str, Any]] = []
        self._trouble: Trouble | None = None
        self._heat: tuple[Any, ...] | None = None

    def say(self, text: str, kind: str = "info") -> None:
        """Write into the status line."""
        self._status(text, kind, -1.0)

    def _status(self, text: str, kind: str, share: float) -> None:
        with self._parts.status.hold_sync():
            status = self._parts.status
            status.text, status.kind, status.share = text, kind, share

    def show_device(self, device: str) -> None:
        """Show where the network is, where that is not where it was wanted."""
        self._parts.device.value = device

    def measuring(self, scene: Scene, share: float) -> None:
        """Say what is measured, and how far that is."""
        self._status(f"measuring {rows.name(scene)}, {100 * share:.0f}\u00a0%", "busy", share)

    def stale(self, *more: Any) -> None:
        """Mark all numbers that are shown as those of another state than the present one."""
        for part in (*self._numbers(), *more):
            part.add_class(_STALE)

    def fresh(self, *parts: Any) -> None:
        """Mark parts as those of the present state; all without one."""
        for part in parts or self._numbers():
            part.remove_class(_STALE)

    def _numbers(self) -> tuple[Any, ...]:
        parts = self._parts
        return parts.cards, parts.changed, parts.classes, parts.confusion

    def fail(self, error: BaseException) -> None:
        """Say what went wrong."""
        text = words.said(error)
        if isinstance(error, CheckpointError):
            text += " Put it right, or choose another checkpoint; Undo goes back."
        self.say(text, "error")

    def stopped(self, error: BaseException | None) -> None:
        """Say, for as long as no other begins, why a sweep came to no end."""
        why = f"The sweep stopped: {words.said(error)}" if error else ""
        self.doubt("failed", why)

    def trouble(self, trouble: Trouble | None) -> None:
        """Mark the present state as one without numbers, or without such that say anything."""
        with self.drawing:
            self._trouble = trouble
            self._mark()

    @property
    def wrong(self) -> str:
        """Reason why the present state has no number that says anything; empty where it has."""
        return f"{self._trouble.named}: {self._trouble.why}" if self._trouble else ""

    def _mark(self) -> None:
        parts, trouble = self._parts, self._trouble
        parts.strip.blocks = trouble.blocks(self._blocks) if trouble else self._blocks
        parts.strip.legend = [*self._legend, *([trouble.sign] if trouble else [])]
        parts.grid.trouble = trouble.cell if trouble else {}

    def frame(self, history: History, layers: Sequence[Layer], name: str, about: str) -> None:
        """Show what stands around the layers: the title, and what can be pressed."""
        parts = self._parts
        parts.undo.disabled, parts.redo.disabled = not history.can_undo, not history.can_redo
        parts.view.value = history.now.view
        parts.preset.options = ["–", *drawing.presets(layers)]
        parts.code.text = ""
        self._framed = name, f"{len(layers)} rows, {about}"
        self.doubt("warning", self.note)

    @property
    def note(self) -> str:
        """The warning that stands below the title."""
        return self._doubts.get("warning", "")

    def doubt(self, kind: str, text: str) -> None:
        """Show, below the title, what speaks against what is shown.

        Parameters
        ----------
        kind : {"warning", "error", "failed", "note"}
            One text of each stays until it is replaced.
        text : str
        """
        self._doubts[kind] = text
        self._parts.title.value = words.title(*self._framed, self._doubts)

    def draw(
        self, scene: Scene, layers: Sequence[Layer], ds: xr.Dataset | None, metric: str
    ) -> None:
        """Draw the strip, and the heat map as far as it is known."""
        parts, by = self._parts, str(self._parts.colour.value)
        known = self._known(ds, metric)
        info = results.metric(ds, metric)
        self._blocks = drawing.blocks(
            layers,
            scene.state,
            known.table,
            known.verdicts,
            info,
            known.refused,
            known.measures,
            by,
        )
        self._legend = drawing.legend(self._blocks, known.table, info, by)
        if self._trouble is not None and self._trouble.scene != scene:
            self._trouble = None
        self._mark()
        self._draw_heat(ds, known.table, metric, [layer.name for layer in layers], by)
        parts.grid.marked = [[r, drawing.column_of(c)] for r, c in scene.state.items()]

    def _draw_heat(
        self,
        ds: xr.Dataset | None,
        table: pd.DataFrame | None,
        metric: str,
        names: list[str],
        by: str,
    ) -> None:
        """Draw the heat map where it is another: of hundreds of rows it takes longer than a click.

        Without a Dataset there is none, since that of another task or view must not stay.
        """
        wanted = (ds, metric, names, by, self.damaged)
        if self._heat is not None and _same(self._heat, wanted):
            return
        with self._parts.grid.hold_sync():
            for name, value in heat(ds, table, metric, names, by, self.damaged).items():
                setattr(self._parts.grid, name, value)
        self._heat = wanted

    def _known(self, ds: xr.Dataset | None, metric: str) -> _Known:
        """Look up what a Dataset says of its layers; once, since clicks come faster than sweeps."""
        if self._held is None or self._held.ds is not ds or self._held.metric != metric:
            self._held = _known(ds, metric)
        return self._held

    def numbers(self, estimate: Estimate, seq: int, trained: bool) -> None:
        """Show what is known so far of the question of this number."""
        self._parts.cards.value = words.cards(estimate, seq, trained)
        self.fresh(self._parts.cards)

    def no_numbers(self, seq: int) -> None:
        """Show that a state can't be measured: numbers of another must not stay beside it."""
        parts = self._parts
        self.clear()
        parts.cards.value = words.no_numbers(seq)

    def clear(self) -> None:
        """Show no numbers until others come."""
        for part in self._numbers():
            part.value = ""
        self.fresh()

    def details(self, estimate: Estimate, session: Session) -> list[str]:
        """Write which predictions changed, and of which classes, for `detail` to show."""
        places = words.sample(estimate)
        changed = words.changes(estimate, places, session.inputs(places), self._tokenizer)
        return [
            "" if self._texts else changed,  # which texts show token by token
            words.classes(estimate, self._tokenizer),
            words.confusion(estimate, self._tokenizer),
        ]

    def detail(self, details: Sequence[str]) -> None:
        """Show what `details` gave."""
        for part, said in zip(self._numbers()[1:], details, strict=True):
            part.value = said
        self.fresh()


class _Known(NamedTuple):
    """Words of a Dataset on its layers."""

    ds: xr.Dataset | None
    metric: str
    table: pd.DataFrame | None
    verdicts: Mapping[str, str]
    refused: Mapping[str, str]
    measures: Mapping[str, Sequence[str]]


def _known(ds: xr.Dataset | None, metric: str) -> _Known:
    table = stats.summary(ds, metric) if ds is not None else None
    refused, measures = drawing.refused_rows(ds, table), drawing.measured_rows(ds)
    return _Known(ds, metric, table, drawing.verdicts(ds, metric), refused, measures)


def _same(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    return old[0] is new[0] and old[1:] == new[1:]
