"""The paper's experiments: a notebook each, at three scales.

>>> from layerscope import experiments
>>> experiments.EXPERIMENTS["fcn-mnist"].scales["paper"].parameters["seeds"]
5
>>> len(experiments.EXPERIMENTS)                                # one more by adding a notebook
19

Scale ``smoke`` shows that the path works, on data that need no download; ``small`` is for two
cores; ``paper`` has the paper's networks, data and epochs, for a GPU.
"""

from __future__ import annotations

from layerscope.paper.experiments._catalogue import EXPERIMENTS, SCALES, Experiment, Scale, find
from layerscope.paper.experiments._generalising import generalisation
from layerscope.paper.experiments._keeping import file_name, keep, ranked, told
from layerscope.paper.experiments._probing import (
    SERIES_VARIABLE,
    audit,
    caption,
    probe,
    sweep_network,
    sweep_series,
    trained,
    trainings,
)
from layerscope.paper.experiments._recipes import augmentation, fitted, variants
from layerscope.paper.experiments._retraining import largest_set, retrain
from layerscope.paper.experiments._saved import SAVED_VARIABLE as SAVED_VARIABLE
from layerscope.paper.experiments._spreading import (
    CLUSTER_VARIABLE as CLUSTER_VARIABLE,
    REHEARSAL_VARIABLE as REHEARSAL_VARIABLE,
    noted as noted,
    spread as spread,
)
from layerscope.paper.experiments._summary import (
    SUMMARY,
    Cell as Cell,
    Claim as Claim,
    Comparison as Comparison,
    Summary as Summary,
)
from layerscope.paper.experiments._tables import table, verdicts
from layerscope.paper.experiments._words import (
    agreement as agreement,
    data_words as data_words,
    matter,
    network_words as network_words,
)

__all__ = [
    "EXPERIMENTS",
    "SCALES",
    "SERIES_VARIABLE",
    "SUMMARY",
    "Experiment",
    "Scale",
    "audit",
    "augmentation",
    "caption",
    "file_name",
    "find",
    "fitted",
    "generalisation",
    "keep",
    "largest_set",
    "matter",
    "probe",
    "ranked",
    "retrain",
    "sweep_network",
    "sweep_series",
    "table",
    "told",
    "trained",
    "trainings",
    "variants",
    "verdicts",
]
