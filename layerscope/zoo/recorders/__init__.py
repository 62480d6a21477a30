"""Recording a series from a training loop that is not layerscope's.

>>> from layerscope.zoo.recorders import CheckpointRecorder
>>> recorder = CheckpointRecorder("runs/net", model, epochs=(1, 2, 8, 40))  # doctest: +SKIP
>>> for epoch in range(1, 41):                                              # doctest: +SKIP
...     train_one_epoch(model)
...     recorder.step(epoch)

The modules ``lightning`` and ``huggingface`` beside this one hold callbacks for those who train
with Lightning (extra ``lightning``) or transformers (extra ``huggingface``).
"""

from __future__ import annotations

from layerscope.zoo.recorders._plain import CheckpointRecorder

__all__ = ["CheckpointRecorder"]
