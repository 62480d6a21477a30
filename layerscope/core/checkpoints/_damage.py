"""Checkpoints of a series that can't be read: refused, or left out with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from layerscope.errors import CheckpointError, choose

__all__ = ["DAMAGED", "Damage"]

DAMAGED = ("refuse", "leave out")
"""Fates of a damaged checkpoint before the last one."""


class Damage:
    """Damaged checkpoints of one series.

    Parameters
    ----------
    policy : {"refuse", "leave out"}

    Attributes
    ----------
    reasons : dict of int to str
        By epoch, of those that were left out.

    Examples
    --------
    >>> damage = Damage("leave out")
    >>> with damage.leaving_out(3, unless=5):
    ...     raise CheckpointError("epoch-3.pt is cut short.")
    >>> damage.reasons
    {3: 'epoch-3.pt is cut short.'}
    """

    def __init__(self, policy: str) -> None:
        self._refuse = choose(policy, DAMAGED, "damaged") == DAMAGED[0]
        self.reasons: dict[int, str] = {}

    @contextmanager
    def leaving_out(self, epoch: int, unless: int) -> Iterator[None]:
        """Note what is wrong with a checkpoint, unless it is the trained network's.

        Raises
        ------
        CheckpointError
            If it is, or damaged checkpoints are refused.
        """
        try:
            yield
        except CheckpointError as error:
            if self._refuse:
                raise
            if epoch == unless:
                raise CheckpointError(
                    f"the last checkpoint, {epoch}, is the trained network, and can't be read: "
                    f"{error}"
                ) from None
            self.reasons[epoch] = str(error)
