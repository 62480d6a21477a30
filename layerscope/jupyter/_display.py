"""Where the answers go: what is shown of a scene, and of what is known of it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import xarray as xr

from layerscope import results, stats
from layerscope.core.layers import Layer
from layerscope.core.session import Estimate, Session
from layerscope.errors import CheckpointError, LayerscopeError
from layerscope.jupyter import _drawing as drawing, _words as words
from layerscope.jupyter._controls import Controls
from layerscope.jupyter._history import History, Scene
from layerscope.jupyter._reader import TokenReader

__all__ = ["Display"]


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
    drawing : lock
        Held by whoever draws, while what is to be drawn is looked up, too: a sweep draws in a
        thread of its own, and what it began must not come to stand over what was chosen since.
    """

    def __init__(
        self, controls: Controls, tokenizer: TokenReader | None, texts: bool = False
    ) -> None:
        self._parts, self._tokenizer, self._texts = controls, tokenizer, texts
        self.drawing = threading.RLock()
        self._framed, self._doubt = ("", ""), ""

    def say(self, text: str, kind: str = "info") -> None:
        """Write into the status line."""
        self._parts.status.value = words.status(text, kind)

    def fail(self, error: BaseException) -> None:
        """Say what went wrong."""
        known = isinstance(error, LayerscopeError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        if isinstance(error, CheckpointError):
            text += " Put it right, or choose another checkpoint; Undo goes back."
        self.say(text, "error")

    def frame(self, history: History, layers: Sequence[Layer], name: str, about: str) -> None:
        """Show what stands around the layers: the title, and what can be pressed."""
        parts = self._parts
        parts.undo.disabled, parts.redo.disabled = not history.can_undo, not history.can_redo
        parts.view.value = history.now.view
        parts.preset.options = ["–", *drawing.presets(layers)]
        parts.code.value = ""
        self._framed = name, f"{len(layers)} rows, {about}"
        self.doubt(self._doubt)

    def doubt(self, text: str) -> None:
        """Show, below the title, why the numbers of the Dataset may be another network's."""
        self._doubt = text
        self._parts.title.value = words.title(*self._framed, text)

    def draw(
        self, scene: Scene, layers: Sequence[Layer], ds: xr.Dataset | None, metric: str
    ) -> None:
        """Draw the strip, and the heat map as far as it is known."""
        parts = self._parts
        table = stats.summary(ds, metric) if ds is not None else None
        found, info = drawing.verdicts(ds, metric), results.metric(ds, metric)
        parts.strip.blocks = drawing.blocks(
            layers, scene.state, table, found, info,
            drawing.refused_rows(ds, table), drawing.measured_rows(ds),
        )  # fmt: skip
        if ds is not None and table is not None:
            names = [layer.name for layer in layers]
            rows, columns, cells = drawing.cells(ds, table, metric, names)
            with parts.grid.hold_sync():
                parts.grid.rows, parts.grid.columns, parts.grid.cells = rows, columns, cells
        else:
            # That of another task or view must not stay.
            with parts.grid.hold_sync():
                parts.grid.rows, parts.grid.columns, parts.grid.cells = [], [], []
        parts.grid.marked = [[r, drawing.column_of(c)] for r, c in scene.state.items()]

    def numbers(self, estimate: Estimate, seq: int) -> None:
        """Show what is known so far of the question of this number."""
        self._parts.cards.value = words.cards(estimate, seq)

    def no_numbers(self, seq: int) -> None:
        """Show that a state can't be measured: numbers of another must not stay beside it."""
        parts = self._parts
        parts.cards.value = words.no_numbers(seq)
        parts.changed.value = parts.classes.value = parts.confusion.value = ""

    def clear(self) -> None:
        """Show no numbers until those of another data set come."""
        parts = self._parts
        parts.cards.value = parts.changed.value = parts.classes.value = parts.confusion.value = ""

    def detail(self, estimate: Estimate, session: Session) -> None:
        """Show which predictions changed, and of which classes."""
        parts, places = self._parts, words.sample(estimate)
        inputs = session.inputs(places)
        changed = words.changes(estimate, places, inputs, self._tokenizer)
        # Which texts show token by token.
        parts.changed.value = "" if self._texts else changed
        parts.classes.value = words.classes(estimate, self._tokenizer)
        parts.confusion.value = words.confusion(estimate, self._tokenizer)
