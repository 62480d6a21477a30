"""Degradation, intervals and verdicts: arrays first, then the same with named dimensions.

Several kinds of chance can move a number, and `summary` says which an interval covers:

``"examples"``
    another test set of the same size; Wilson's interval for fractions, else normal. Differences
    from the unperturbed network are paired where the Dataset has ``difference``.
``"unseen examples"``
    the examples that a cell did not see because a tolerance stopped it, however often one looked.
``"draws"``
    another random draw for the perturbed layer, same network; Student's t.
``"seeds"``
    another training run; Student's t. It contains the other two, so it is used where it can be.

>>> from layerscope import stats, testing
>>> table = stats.classify(testing.dataset())
>>> list(table.verdict)
['critical', 'critical', 'intermediate', 'intermediate']
"""

from __future__ import annotations

from layerscope.stats.arrays import newcombe, student, wilson
from layerscope.stats.labelled import (
    degradation,
    interval,
    layer_order,
)
from layerscope.stats.paired import bootstrap, discordant, mcnemar, paired_proportions
from layerscope.stats.tables import column_order, distances, summary
from layerscope.stats.verdicts import classify, rank_correlation

__all__ = [
    "bootstrap",
    "classify",
    "column_order",
    "degradation",
    "discordant",
    "distances",
    "interval",
    "layer_order",
    "mcnemar",
    "newcombe",
    "paired_proportions",
    "rank_correlation",
    "student",
    "summary",
    "wilson",
]
