"""Putting back what is changed for a while, however the while ends."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

__all__ = ["Quiet", "Undo"]

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


class Quiet(Undo):
    """No gradients; afterwards everything that PyTorch keeps for a thread is as it was.

    That is the mode of gradients, autocast, and modes that watch operators.
    """

    def begin(self) -> Self:
        """Switch gradients off."""
        gradients = torch.is_grad_enabled()
        self.add(lambda: torch.set_grad_enabled(gradients))
        self.add(_autocast_as_now())
        self.add(_modes_as_now())
        torch.set_grad_enabled(False)
        return self


def _autocast_as_now() -> Callable[[], None]:
    """Return what brings autocast back to where it is now."""
    kinds = ("cpu", "cuda", "mps")
    known = {
        kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds
    }
    cached, depth = torch.is_autocast_cache_enabled(), _autocast_depth()

    def restore() -> None:
        for kind, (enabled, dtype) in known.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(cached)
        while _autocast_depth() > depth:
            if torch.autocast_decrement_nesting() == 0:
                # It remembers cast weights until the outermost ends.
                torch.clear_autocast_cache()

    return restore


def _autocast_depth() -> int:
    torch.autocast_increment_nesting()
    return int(torch.autocast_decrement_nesting())


def _modes_as_now() -> Callable[[], None]:
    """Return what ends modes that were entered later and are still on."""
    kinds: tuple[tuple[Any, Any], ...] = (
        (_get_current_function_mode_stack, torch.overrides._pop_mode),
        (_get_current_dispatch_mode_stack, torch.utils._python_dispatch._pop_mode),
    )
    depths = [len(stack()) for stack, _ in kinds]

    def restore() -> None:
        for (stack, pop), depth in zip(kinds, depths, strict=True):
            while len(stack()) > depth:
                try:
                    stack()[-1].__exit__(None, None, None)
                except IndexError:  # it was interrupted half-way through this
                    pop()

    return restore
