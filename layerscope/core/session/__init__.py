"""A trained network that one can ask what it would say if some layers were others.

Where a sweep goes through all cells, a session answers one question after the other, each at once
and then better with every batch:

>>> from layerscope import Session
>>> with Session(net, (images, labels), checkpoints="runs/net") as session:    # doctest: +SKIP
...     for estimate in session.evaluate({"conv1": ("reinitialize", 0), "fc": "zero"}):
...         print(estimate.examples, estimate.mean("error"))

What comes before the first changed layer was computed before, when the session saw the batch for
the first time; a late layer costs only what comes after it. Every number has the bits that the
plain way gives: a copy of the network with the changed weights, in evaluation mode, on the same
batches.
"""

from __future__ import annotations

from layerscope.core.session._estimate import Estimate
from layerscope.core.session._kept import with_texts
from layerscope.core.session._scenarios import with_scenario
from layerscope.core.session._session import Session
from layerscope.core.session._states import Change, changes
from layerscope.core.session._texts import (
    Continuation as Continuation,
    Text as Text,
    TextReader as TextReader,
)

__all__ = ["Change", "Estimate", "Session", "changes", "with_scenario", "with_texts"]
