"""Analyses of the paper beyond single layers: groups, searches, counts, criticality.

>>> from layerscope import analyses, testing
>>> analyses.robust_rows(testing.dataset(), tolerance=0.2)
['layer3', 'layer4']
>>> list(analyses.joint(["layer3", "layer4"]))                  # for layerscope.sweep(layers=…)
['layer3', 'layer4', 'all 2']
"""

from __future__ import annotations

from layerscope.paper.analyses._claims import (
    bottom_critical,
    costs_little,
    extremes_differ,
    first_epoch_worse,
    no_upper_critical,
    norms_matter,
    not_jointly_robust,
    others_survive,
    random_fails,
    some_survive,
    stage_starts_matter,
    upper_robust,
)
from layerscope.paper.analyses._criticality import (
    criticality,
    criticality_grid,
)
from layerscope.paper.analyses._distances import distance_tells_little
from layerscope.paper.analyses._findings import (
    AGREES as AGREES,
    UNDECIDED as UNDECIDED,
    Finding,
    about,
    by_rule,
    correct,
    finding,
    findings_table,
    rank_step,
)
from layerscope.paper.analyses._groups import (
    joint,
    leaves,
    stages,
)
from layerscope.paper.analyses._largest import largest_set
from layerscope.paper.analyses._measures import gap, goes_with_more, rank_with, weight_measures
from layerscope.paper.analyses._per_run import (
    damage,
    limits,
    robust_rows,
    tables_of,
    verdict_counts,
)

__all__ = [
    "Finding",
    "about",
    "bottom_critical",
    "by_rule",
    "correct",
    "costs_little",
    "criticality",
    "criticality_grid",
    "damage",
    "distance_tells_little",
    "extremes_differ",
    "finding",
    "findings_table",
    "first_epoch_worse",
    "gap",
    "goes_with_more",
    "joint",
    "largest_set",
    "leaves",
    "limits",
    "no_upper_critical",
    "norms_matter",
    "not_jointly_robust",
    "others_survive",
    "random_fails",
    "rank_step",
    "rank_with",
    "robust_rows",
    "some_survive",
    "stage_starts_matter",
    "stages",
    "tables_of",
    "upper_robust",
    "verdict_counts",
    "weight_measures",
]
