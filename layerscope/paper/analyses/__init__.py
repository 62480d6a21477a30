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
    differs,
    distance_tells_little,
    extremes_differ,
    first_epoch_worse,
    norms_matter,
    not_jointly_robust,
    random_fails,
    some_survive,
    stage_starts_matter,
    upper_robust,
)
from layerscope.paper.analyses._criticality import (
    ALPHAS,
    SIGMAS,
    criticality,
    criticality_grid,
    module_criticality,
)
from layerscope.paper.analyses._findings import (
    AGREES,
    DISAGREES,
    UNDECIDED,
    Finding,
    about,
    finding,
    findings_table,
    rank_step,
)
from layerscope.paper.analyses._groups import (
    alternating,
    everything,
    joint,
    leaves,
    prefixes,
    stages,
    suffixes,
)
from layerscope.paper.analyses._largest import LargestSet, largest_set
from layerscope.paper.analyses._measures import gap, rank_with, weight_measures
from layerscope.paper.analyses._per_run import (
    VERDICTS,
    computed,
    damage,
    depth_correlation,
    limits,
    robust_rows,
    runs_of,
    tables_of,
    untrained,
    verdict_counts,
)

__all__ = [
    "AGREES",
    "ALPHAS",
    "DISAGREES",
    "SIGMAS",
    "UNDECIDED",
    "VERDICTS",
    "Finding",
    "LargestSet",
    "about",
    "alternating",
    "bottom_critical",
    "computed",
    "criticality",
    "criticality_grid",
    "damage",
    "depth_correlation",
    "differs",
    "distance_tells_little",
    "everything",
    "extremes_differ",
    "finding",
    "findings_table",
    "first_epoch_worse",
    "gap",
    "joint",
    "largest_set",
    "leaves",
    "limits",
    "module_criticality",
    "norms_matter",
    "not_jointly_robust",
    "prefixes",
    "random_fails",
    "rank_step",
    "rank_with",
    "robust_rows",
    "runs_of",
    "some_survive",
    "stage_starts_matter",
    "stages",
    "suffixes",
    "tables_of",
    "untrained",
    "upper_robust",
    "verdict_counts",
    "weight_measures",
]
