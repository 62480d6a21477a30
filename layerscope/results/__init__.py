"""The xarray Dataset that a sweep returns: built here, checked here, saved and opened here.

Dimensions are ``layer``, ``epoch``, ``perturbation``, ``draw``, ``metric`` and ``norm``.

``value`` (layer, epoch, perturbation, draw, metric)
    The metric of the network with one row of ``layer`` perturbed. ``epoch`` is the checkpoint
    that the layer's weights come from. Perturbations that take nothing from a checkpoint stand
    once, at epoch `NO_EPOCH` (−1); those without chance stand at draw 0. NaN: not computed, or
    computed and not finite; `not_finite` tells which.
``standard_error``
    Of each value, from the spread over examples; same dimensions.
``baseline``, ``baseline_standard_error`` (metric)
    The unperturbed network.
``difference``, ``difference_standard_error`` (layer, epoch, perturbation, draw, metric)
    Mean difference from the unperturbed network over the same examples, from example to example.
    NaN for metrics that are no means, such as perplexity.
``n_examples`` (layer, epoch, perturbation, draw), or () where every cell has the same
    Examples that each value averages over; cells that were stopped early have fewer.
``not_finite`` (layer, epoch, perturbation, draw), ``baseline_not_finite`` ()
    Predictions, one for each target that counts, whose largest output is NaN or infinite. NaN: not
    computed. Earlier sweeps have none.
``measure_value`` (layer, measure)
    Where measures of one pass were asked for, such as block influence; see `layerscope.measures`.
``verdict`` (layer, epoch, perturbation, draw)
    Where cells were stopped once they were settled: "robust", "intermediate" or "critical"; "not
    moved" where a layer was set back that never changed.
``stopped_early`` (layer, epoch, perturbation, draw)
    Where cells were stopped once they were settled: whether this one was before all examples were
    seen. Its value is biased then, since a cell stops when its mean happens to be clear.
``lower``, ``upper`` (layer, epoch, perturbation, draw), ``baseline_lower``, ``baseline_upper`` ()
    Where cells were stopped once they were known well enough: what encloses the mean over all
    examples, however often one looked; of the metric that the attribute ``stopping`` names, else
    the first.
``chance`` ()
    Error of always naming the commonest class.
``distance`` (layer, epoch, norm)
    Of a layer's parameters at each checkpoint from those at the first one recorded, which is that
    before training unless ``attrs["distance_from"]`` says otherwise.
``draw_distance`` (layer, perturbation, draw, norm)
    Of each draw of a perturbation that redraws a layer from the same. Earlier versions left out
    the dimension ``perturbation``: there it is that of re-randomised layers.

``doubt`` (layer, epoch)
    Why a layer that is put back to that checkpoint says nothing: "equals the trained weights", as a
    frozen layer does and the last checkpoint, or in a few words what the audit of the series found,
    whose sentences the attribute ``audit`` holds. Empty where there is nothing to doubt.

A sweep over several data sets has the dimension ``task`` before all others, and one over several
trained networks of a series ``model_epoch`` (the checkpoint that counts as trained): in everything
that depends on them, the baseline and ``chance`` among it. Epochs after ``model_epoch`` are NaN,
and so are metrics that a task does not have. `parts` cuts such a Dataset into ordinary ones.

Checkpoints are counted in epochs, or in steps of the optimiser: ``ds.epoch.units`` says.

Along ``layer`` stand ``depth`` (index in execution order), ``kind``, ``module_type``,
``parameters``, ``initializer``, ``moved`` (whether anything in it changed from the first checkpoint
to the last: not so in frozen layers), ``component``, ``block`` and ``stage``, which say what the
row lies in, and ``first_block`` and ``n_blocks``: which blocks a row of whole blocks in a row
consists of, counted from 0 in order of execution (any other row has −1 and 0). Along ``metric``
and ``perturbation`` stands what these mean, such as ``higher_is_better`` and ``redraws``: `metric`
and `perturbation` read it, for Datasets that do not say it, too. The attributes hold what is needed
to compute the Dataset again (`settings` reads them), and under ``refused`` why cells are not there
that were asked for.

The Dataset opens with plain xarray:

>>> import xarray
>>> ds = xarray.open_dataset("sweep.nc")                                    # doctest: +SKIP

`save` leaves the SHA-256 of every variable in the file, of its values, type, shape, dimensions and
attributes, and one of the Dataset's own attributes; `open_dataset` compares them and names what is
other than was saved. They stand in the group ``layerscope_digests`` (scheme 1; how they are taken
is written in ``results/_digests.py``): ``sha256`` (variable), and the attributes ``scheme`` and
``attributes``. xarray does not take the group along, so that what is changed through it and saved
with ``to_netcdf`` has no digests and is opened without comparing, as files of earlier versions are.
What was changed in place (``mode="a"``) is saved anew, as the error says. Nothing is compared by
plain xarray, which also reads large files lazily; `open_dataset` reads all of a file in any case.
"""

from __future__ import annotations

# What is written `as` itself is for other wings; users need none of it.
from layerscope.results._dataset import (
    AS_TRAINED as AS_TRAINED,
    FULL_MODEL,
    NO_EPOCH,
    NOT_FINITE as NOT_FINITE,
    NOT_MOVED as NOT_MOVED,
    NOTHING_LEFT as NOTHING_LEFT,
    REFUSED as REFUSED,
    UNDECIDED as UNDECIDED,
    YOURS as YOURS,
    Refusal as Refusal,
    build as build,
    refusals,
    refusals_by_reason as refusals_by_reason,
    require as require,
    settings,
)
from layerscope.results._files import (
    OUTCOMES as OUTCOMES,
    open_dataset,
    read_settings as read_settings,
    save,
)
from layerscope.results._finite import not_finite
from layerscope.results._infos import (
    CHECKPOINT as CHECKPOINT,
    RAND as RAND,
    REDRAWN as REDRAWN,
    RESET as RESET,
    MeasureInfo,
    MetricInfo,
    PerturbationInfo,
)
from layerscope.results._joining import concat
from layerscope.results._kept import (
    KEPT as KEPT,
    KeptState as KeptState,
    kept_states as kept_states,
    scenarios_of as scenarios_of,
    with_kept as with_kept,
)
from layerscope.results._meaning import (
    act as act,
    coordinates as coordinates,
    default_metric as default_metric,
    draw_distance as draw_distance,
    measure,
    metric,
    metric_name as metric_name,
    perturbation,
    perturbation_name as perturbation_name,
    redraws as redraws,
    resets as resets,
)
from layerscope.results._notices import notices
from layerscope.results._outer import (
    OUTER as OUTER,
    Place as Place,
    join as join,
    parts,
    places as places,
    words as words,
)

__all__ = [
    "FULL_MODEL",
    "NO_EPOCH",
    "MeasureInfo",
    "MetricInfo",
    "PerturbationInfo",
    "concat",
    "measure",
    "metric",
    "not_finite",
    "notices",
    "open_dataset",
    "parts",
    "perturbation",
    "refusals",
    "save",
    "settings",
]
