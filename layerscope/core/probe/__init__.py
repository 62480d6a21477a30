"""A network lent for questions: what it would say of a batch if some of its layers were others.

>>> with Probe(subject) as probe, torch.no_grad():                  # doctest: +SKIP
...     seen = probe.see(batch, [question.group for question in questions])
...     for question in questions:
...         outputs = probe.ask(seen, question)

A sweep and a session are both made of this. Every answer has the bits of `layerscope.core.plain`.
"""

from __future__ import annotations

from layerscope.core.probe._cell import KEPT_BYTES, Cell, CellTensors, Question
from layerscope.core.probe._costs import BatchCosts, time_batch
from layerscope.core.probe._probe import Probe, Seen
from layerscope.core.probe._subject import Subject
from layerscope.core.probe._sums import add_tallies, tallies_of

__all__ = [
    "KEPT_BYTES",
    "BatchCosts",
    "Cell",
    "CellTensors",
    "Probe",
    "Question",
    "Seen",
    "Subject",
    "add_tallies",
    "tallies_of",
    "time_batch",
]
