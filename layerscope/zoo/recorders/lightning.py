"""Recording from Lightning (extra ``lightning``).

>>> from layerscope.zoo.recorders.lightning import LightningRecorder
>>> trainer = Trainer(callbacks=[LightningRecorder("runs/net")])            # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from layerscope.base.extras import extra
from layerscope.zoo.recorders._plain import CheckpointRecorder

with extra("lightning", "recording from Lightning"):
    from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["LightningRecorder"]


class LightningRecorder(Callback):
    """Records a series by epoch; epoch 0 before the first step.

    Parameters
    ----------
    folder : path
    epochs : iterable of int, optional
        Which to record, counted from 1 for the first finished; all by default.

    Notes
    -----
    Tensors are named as in the `LightningModule`; where it holds nothing but a network called
    ``model``, ``net`` or ``network``, the series fits that network as well. A fit that goes on
    from a checkpoint goes on with the series.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, epochs: Iterable[int] | None = None
    ) -> None:
        self._folder, self._epochs = folder, None if epochs is None else frozenset(epochs)
        self._recorder: CheckpointRecorder | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the initialisation."""
        if trainer.is_global_zero:
            self._recorder = CheckpointRecorder(
                self._folder, pl_module, epochs=self._epochs, resume=trainer.global_step > 0
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record an epoch that is finished, with what was logged."""
        del pl_module  # the recorder holds it
        logged: dict[str, Any] = dict(trainer.callback_metrics)
        if self._recorder is not None:
            scores = {name: float(value) for name, value in logged.items()}
            self._recorder.step(trainer.current_epoch + 1, **scores)
