"""One thread that answers the last question first, and works on one long task in between."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable

__all__ = ["Stopped", "Worker"]

Question = Callable[[], Iterable[object]]
Task = Callable[[Callable[[], None]], object]


class Stopped(Exception):  # noqa: N818 - not an error
    """The task was cancelled, or the worker closed."""


class Worker:
    """Answers questions step by step in a thread of its own.

    A question is a function that returns an iterator; its steps do the work. A newer question
    supersedes it between two steps. A task is given a function to call often: there questions are
    answered, and there it ends with `Stopped` when it is cancelled.

    Parameters
    ----------
    failed : callable
        Called, in the thread, with an exception that a question or task raised.
    """

    def __init__(self, failed: Callable[[BaseException], object]) -> None:
        self._failed = failed
        self._changed = threading.Condition()
        self._question: Question | None = None
        self._task: Task | None = None
        self._busy = self._cancelled = self._closed = False
        self._thread: threading.Thread | None = None

    def ask(self, question: Question) -> None:
        """Answer this now; an earlier question that is not answered yet is dropped."""
        self._wake(question=question)

    def start(self, task: Task) -> None:
        """Work on this whenever there is no question."""
        self._wake(task=task)

    def cancel(self) -> None:
        """End the task before its next step."""
        with self._changed:
            self._cancelled, self._task = True, None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is answered and done; whether it was in time (seconds)."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and not self._waiting, timeout)

    def close(self) -> None:
        """End after the present step, and wait for that; again does nothing."""
        with self._changed:
            self._closed, self._question, self._task = True, None, None
            self._changed.notify_all()
        if self._thread not in (None, threading.current_thread()):
            assert self._thread is not None
            self._thread.join()

    @property
    def _waiting(self) -> bool:
        return self._question is not None or self._task is not None

    def _wake(self, question: Question | None = None, task: Task | None = None) -> None:
        with self._changed:
            if self._closed:
                return
            self._question = question or self._question
            if task is not None:
                self._task, self._cancelled = task, False
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="layerscope", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                self._busy = True
                task = self._task
                work: Callable[[], object]
                if self._question is not None or task is None:
                    work = self._answer
                else:
                    work, self._task = functools.partial(task, self._between), None
            self._guarded(work)

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Stopped:
            pass
        except Exception as error:  # noqa: BLE001 - told to the user; nobody else would see it
            self._failed(error)

    def _answer(self) -> None:
        with self._changed:
            question, self._question = self._question, None
        for _ in question() if question else ():
            if self._question is not None or self._closed:
                return

    def _between(self) -> None:
        while self._question is not None:
            self._guarded(self._answer)
        if self._cancelled or self._closed:
            raise Stopped
