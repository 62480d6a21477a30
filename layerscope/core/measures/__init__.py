"""Measures of one pass: cheap numbers that are said to tell which layers matter.

>>> from layerscope import measures
>>> sorted(measures.MEASURES)[:3]
['angular_distance', 'angular_distance_last', 'attention_importance']

`measure` computes them for every row; ``layerscope.sweep(…, measures=[…])`` puts them beside the
exact effects, and `layerscope.stats.agreement` says whether they rank the layers as these do.
"""

from __future__ import annotations

# What is imported `as` itself is for other rooms; users need none of it.
from layerscope.core.measures._dataset import measure, with_measures as with_measures
from layerscope.core.measures._measuring import (
    Measured as Measured,
    down_projections as down_projections,
    mask_of as mask_of,
    measure_rows as measure_rows,
    stacked_experts as stacked_experts,
    time_measures as time_measures,
)
from layerscope.core.measures._named import (
    MEASURES,
    Measure,
    MeasureLike as MeasureLike,
    parse as parse,
)
from layerscope.core.measures._peaks import Peaks as Peaks, find_peaks as find_peaks

__all__ = ["MEASURES", "Measure", "measure"]
