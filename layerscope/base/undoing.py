"""Putting back what is changed for a while, however the while ends."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

__all__ = ["Undo"]

T = TypeVar("T", covariant=True)


class _Entered(Protocol[T]):
    def __enter__(self) -> T: ...
    def close(self) -> None: ...


class Undo:
    """Steps that put something back, taken in reverse order when the block ends.

    A step is added before what it undoes is done, may be taken twice, and is kept until it is
    through. Ctrl-C may come at any instruction, also at the first of ``__exit__``, which then does
    nothing. So where it matters the block is entered twice; what interrupts the first leaving is
    made good by the second:

    >>> log = []
    >>> with Undo() as undo, undo:
    ...     undo.add(lambda: log.append("put back"))
    >>> log
    ['put back']

    A generator is no good for this: interrupted at the wrong instant it stays suspended, as long
    as somebody keeps the traceback, and puts back what it remembers whenever it is freed.

    A subclass changes something in `begin`.
    """

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []

    def add(self, step: Callable[[], object]) -> None:
        """Note how to put back what is going to be changed."""
        self._steps.append(step)

    def enter(self, other: _Entered[T]) -> T:
        """Enter another block, to be left with this one."""
        self.add(other.close)
        return other.__enter__()

    def close(self) -> None:
        """Put everything back that is not yet; again does nothing."""
        failed: Exception | None = None
        while self._steps:
            try:
                self._steps[-1]()
            except Exception as error:  # noqa: BLE001 - the others are put back all the same
                failed = failed or error
            self._steps.pop()
        if failed is not None:
            raise failed

    def begin(self) -> Any:
        """Change what is to be changed; return what the block is given."""
        return self

    def __enter__(self) -> Any:
        try:
            return self.begin()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
