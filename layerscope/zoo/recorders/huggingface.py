"""Recording from transformers' Trainer (extra ``huggingface``).

>>> from layerscope.zoo.recorders.huggingface import TrainerRecorder
>>> trainer = Trainer(model, callbacks=[TrainerRecorder("runs/net")])       # doctest: +SKIP
"""

# ruff: noqa: ARG002  the signatures are those of transformers

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from layerscope.base.extras import extra
from layerscope.zoo.recorders._plain import CheckpointRecorder

with extra("huggingface", "recording from transformers' Trainer"):
    from transformers import TrainerCallback, TrainerState

__all__ = ["TrainerRecorder"]


class TrainerRecorder(TrainerCallback):
    """Records a series by epoch, or by step where steps are given; the start in any case.

    Parameters
    ----------
    folder : path
    epochs : iterable of int, optional
        Which to record; all by default.
    steps : iterable of int, optional
        Which steps of the optimiser to record instead; the series is then counted in steps.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        epochs: Iterable[int] | None = None,
        steps: Iterable[int] | None = None,
    ) -> None:
        self._folder, self._unit = folder, "epoch" if steps is None else "step"
        wanted = epochs if steps is None else steps
        self._wanted = None if wanted is None else frozenset(wanted)
        self._recorder: CheckpointRecorder | None = None

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Record the initialisation."""
        if state.is_world_process_zero:
            self._recorder = CheckpointRecorder(
                self._folder,
                kwargs["model"],
                epochs=self._wanted,
                unit=self._unit,
                resume=state.global_step > 0,
            )

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Record a wanted step."""
        if self._recorder is not None and self._unit == "step":
            self._recorder.step(state.global_step)

    def on_epoch_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Record an epoch that is finished."""
        if self._recorder is not None and self._unit == "epoch" and state.epoch:
            self._recorder.step(round(state.epoch))
