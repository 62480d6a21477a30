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
from layerscope.paper.experiments._keeping import keep, ranked, told
from layerscope.paper.experiments._probing import (
    SERIES_VARIABLE,
    caption,
    probe,
    sweep_network,
    sweep_series,
    trained,
    trainings,
)
from layerscope.paper.experiments._recipes import augmentation, fitted, variants
from layerscope.paper.experiments._retraining import retrain
from layerscope.paper.experiments._spreading import (
    CLUSTER_VARIABLE as CLUSTER_VARIABLE,
    REHEARSAL_VARIABLE as REHEARSAL_VARIABLE,
    noted as noted,
    spread as spread,
)
from layerscope.paper.experiments._summary import SUMMARY, Summary as Summary

__all__ = [
    "EXPERIMENTS",
    "SCALES",
    "SERIES_VARIABLE",
    "SUMMARY",
    "Experiment",
    "Scale",
    "augmentation",
    "caption",
    "find",
    "fitted",
    "generalisation",
    "keep",
    "probe",
    "ranked",
    "retrain",
    "sweep_network",
    "sweep_series",
    "told",
    "trained",
    "trainings",
    "variants",
]
