"""Questions about one scene after the other, and what is shown of the last of them alone."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from layerscope.core.session import Estimate
from layerscope.jupyter import _rows as rows, _trouble as trouble_, _words as words
from layerscope.jupyter._backend import Backend
from layerscope.jupyter._display import Display
from layerscope.jupyter._history import Scene
from layerscope.jupyter._texts import Texts

__all__ = ["Measurement", "Question"]


@dataclass(frozen=True)
class Question:
    """A question about a scene.

    Attributes
    ----------
    scene : Scene
    task : str or None
        Name of the data set, where there are several.
    metric : str
        What the result is said in.
    note : str
        To be said with the result.
    """

    scene: Scene
    task: str | None
    metric: str
    note: str = ""


class Measurement:
    """Measuring and showing of the present scene: never of two scenes at once.

    Parameters
    ----------
    display : Display
    texts : Texts
    """

    def __init__(self, display: Display, texts: Texts) -> None:
        self._display, self._texts = display, texts
        self._latest: tuple[int, Estimate] | None = None
        self._seq = 0

    @property
    def estimate(self) -> Estimate | None:
        """Estimate of the present scene; None before the first batch."""
        seq, estimate = self._latest or (-1, None)
        return estimate if seq == self._seq else None

    def ask(self, backend: Backend, question: Question) -> Callable[[], Iterator[None]]:
        """Mark what is shown as that of another scene; return what answers, in steps."""
        # What an earlier question has to show, it shows before or not at all.
        with self._display.drawing:
            self._seq += 1
            self._display.stale(self._texts.box)
            self._display.trouble(None)
            self._display.measuring(question.scene, 0.0)
            return functools.partial(self._answers, backend, question, self._seq)

    def _answers(self, backend: Backend, question: Question, seq: int) -> Iterator[None]:
        if trouble := backend.move():
            self._display.show_device(str(backend.options["device"]))
        began, scene = time.monotonic(), question.scene
        self._texts.clear()  # which were of another state
        self._display.fresh(self._texts.box)
        try:
            if question.task is not None and question.task != backend.session.task:
                self._display.clear()
                backend.session.select_task(question.task)
            for estimate in backend.session.evaluate(scene.state, scene.view):
                if not self._show(backend, question, seq, estimate, began):
                    return
                if trouble:
                    self._display.fail(trouble)
                yield
        except Exception as error:
            with self._display.drawing:
                if seq == self._seq:
                    self._latest = None
                    self._display.no_numbers(seq)
                    self._display.trouble(trouble_.of_error(scene, error))
            raise
        if self.estimate is not None and self.estimate.final:
            yield from self._texts.answers(backend.session, scene, self.estimate)

    def _show(
        self, backend: Backend, question: Question, seq: int, estimate: Estimate, began: float
    ) -> bool:
        """Show an estimate, unless something else was asked meanwhile; tell which."""
        scene, trained = question.scene, not question.scene.state
        # Before the lock is taken, which the next click waits for.
        details = self._display.details(estimate, backend.session) if estimate.final else []
        with self._display.drawing:
            if seq != self._seq:
                return False
            self._latest = seq, estimate
            self._display.numbers(estimate, seq, trained)
            if not estimate.final:
                self._display.measuring(scene, estimate.examples / estimate.total)
                return True
            self._display.detail(details)
            said = words.result(estimate, question.metric, trained)
            found = trouble_.of_estimate(scene, estimate)
            self._display.trouble(found)
            said += f"; {found.named}: {found.why}" if found else ""
            took = f"{estimate.total:,} examples in {time.monotonic() - began:.2f} s"
            text = f"{rows.name(scene)}: {said} ({took}). {question.note}".rstrip()
            self._display.say(text, "warning" if found else "info")
            return True
