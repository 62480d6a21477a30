"""Recording a series from a training loop that is not layerscope's.

>>> from layerscope.recorders import CheckpointRecorder
>>> recorder = CheckpointRecorder("runs/net", model, epochs=(1, 2, 8, 40))  # doctest: +SKIP
>>> for epoch in range(1, 41):                                              # doctest: +SKIP
...     train_one_epoch(model)
...     recorder.step(epoch)

`layerscope.recorders.lightning` and `layerscope.recorders.huggingface` hold callbacks for those
who train with Lightning (extra ``lightning``) or transformers (extra ``huggingface``).
"""

from __future__ import annotations

from layerscope.recorders.plain import CheckpointRecorder

__all__ = ["CheckpointRecorder"]
