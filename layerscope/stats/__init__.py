"""Degradation, intervals and verdicts: arrays first, then the same with named dimensions.

Several kinds of chance can move a number, and `summary` says which an interval covers:

``"examples"``
    another test set of the same size; Wilson's interval for fractions, else normal. Differences
    from the unperturbed network are paired where the Dataset has ``difference``.
``"unseen examples"``
    the examples that a cell did not see because a tolerance stopped it, however often one looked.
``"draws"``
    another random draw for the perturbed layer, same network and test set; Student's t.
``"seeds"``
    another training run, with other draws, measured on the same test set; Student's t.

No interval covers what another names, unless `classify` is asked for several with
``resample_dim=``, or `crossed`. All runs share one test set, and what is odd about it moves
them all alike, so that more seeds make an interval over seeds narrower and no surer about examples
that were not tested: of 14 networks tested on 1,000 examples each, the 95 % interval of 3, 5 and 10
seeds held the error on all examples in 70, 50 and 33 % of cases. The widest kind there is data for
is shown; where the test set is small, look at both.

>>> from layerscope import stats, testing
>>> table = stats.classify(testing.dataset())
>>> list(table.verdict)
['critical', 'critical', 'intermediate', 'intermediate']
"""

from __future__ import annotations

from layerscope.stats._agreement import agreement, effects as effects
from layerscope.stats._allocating import allocation
from layerscope.stats._arrays import newcombe, student, wilson
from layerscope.stats._barriers import barrier, line as line
from layerscope.stats._crossed import crossed
from layerscope.stats._emergence import emergence
from layerscope.stats._equivalence import detectable_difference, equivalence, runs_needed
from layerscope.stats._groups import by_group
from layerscope.stats._labelled import degradation, interval, layer_order
from layerscope.stats._orders import OrderTest as OrderTest, order_test
from layerscope.stats._paired import bootstrap, discordant, mcnemar, paired_proportions
from layerscope.stats._rankings import ranking_difference
from layerscope.stats._sensitivity import sensitivity
from layerscope.stats._tables import column_order, distances, summary
from layerscope.stats._verdicts import classify, rank_correlation

__all__ = [
    "agreement",
    "allocation",
    "barrier",
    "bootstrap",
    "by_group",
    "classify",
    "column_order",
    "crossed",
    "degradation",
    "detectable_difference",
    "discordant",
    "distances",
    "emergence",
    "equivalence",
    "interval",
    "layer_order",
    "mcnemar",
    "newcombe",
    "order_test",
    "paired_proportions",
    "rank_correlation",
    "ranking_difference",
    "runs_needed",
    "sensitivity",
    "student",
    "summary",
    "wilson",
]
