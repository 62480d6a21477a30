"""Recording from a plain PyTorch loop."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from layerscope.core.checkpoints import MANIFEST, Series, SeriesWriter, open_series
from layerscope.errors import OptionError

__all__ = ["CheckpointRecorder"]


class CheckpointRecorder:
    """Writes a series while a network is trained; epoch 0 at once.

    Parameters
    ----------
    folder : path
        Where the series is kept.
    model : nn.Module
        Freshly initialised, or with `resume` as it stands.
    epochs : iterable of int, optional
        Which to record; all by default.
    unit : str
        What is counted: ``"epoch"`` or ``"step"``.
    resume : bool
        Go on with the series that is in the folder, if there is one.

    Raises
    ------
    OptionError
        If the folder holds a series already and `resume` is not set.

    Examples
    --------
    >>> import tempfile
    >>> net = nn.Linear(2, 1)
    >>> recorder = CheckpointRecorder(tempfile.mkdtemp(), net, epochs=[2])
    >>> [recorder.step(epoch) for epoch in (1, 2)]
    [False, True]
    >>> recorder.series().epochs
    (0, 2)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: nn.Module,
        *,
        epochs: Iterable[int] | None = None,
        unit: str = "epoch",
        resume: bool = False,
    ) -> None:
        self._model = model
        self._wanted = None if epochs is None else frozenset(epochs)
        there = (Path(folder) / MANIFEST).is_file()
        if there and not resume:
            raise OptionError(
                f"{folder} holds a series already; give another folder, or resume=True to go on "
                "with it."
            )
        self._writer = SeriesWriter(Path(folder), {"unit": unit})
        if not there:
            self._writer.record(0, model.state_dict(), {})

    def step(self, epoch: int, **metrics: float) -> bool:
        """Record the network after `epoch` if it is wanted, with what was measured; say whether."""
        if epoch < 1:
            raise OptionError(
                f"epoch is {epoch}; count those that are finished, from 1. The network as it was "
                "at first is recorded already."
            )
        if self._wanted is not None and epoch not in self._wanted:
            return False
        self._writer.record(epoch, self._model.state_dict(), metrics)
        return True

    def series(self) -> Series:
        """Series of what has been recorded."""
        return open_series(self._writer.folder)
