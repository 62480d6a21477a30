"""Numbers that the paper prints, and what was measured beside them.

The numbers were read off the figures of Zhang, Bengio and Singer, "Are All Layers Created Equal?"
(JMLR 2022), to within ±0.01; a figure says ``≥0.91`` where its colour bar ends, and ``base``
where a cell can't be told from the trained network.

>>> from layerscope.paper import reference
>>> reference.ERROR["fcn-3x256"]["layer1"]
{'rand': 0.89, '0': 0.38, '1': 0.06, '2': 0.03, '3': 0.03}
"""

from __future__ import annotations

from layerscope.paper.reference._comparing import (
    closeness,
    distances,
    errors,
    papers_own,
    printed_network,
    tables,
    verdict,
)
from layerscope.paper.reference._patterns import pattern, same_layers_matter
from layerscope.paper.reference._printed import (
    DISTANCE,
    ERROR,
    FINAL,
    norms,
)

__all__ = [
    "DISTANCE",
    "ERROR",
    "FINAL",
    "closeness",
    "distances",
    "errors",
    "norms",
    "papers_own",
    "pattern",
    "printed_network",
    "same_layers_matter",
    "tables",
    "verdict",
]
