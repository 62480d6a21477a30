"""Measures as a Dataset, by themselves or beside a sweep's values."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from layerscope import results
from layerscope._version import __version__
from layerscope.base import devices, validate
from layerscope.base.undoing import Undo
from layerscope.core import layers as layers_
from layerscope.core.checkpoints import Series
from layerscope.core.layers import Layer, LayerSelection, Norms
from layerscope.core.measures._measuring import Measured, measure_rows
from layerscope.core.measures._named import Measure, MeasureLike, parse
from layerscope.core.metrics import Metric
from layerscope.core.probe import Probe, Subject
from layerscope.core.running import OutputSpec

__all__ = ["measure", "with_measures"]

_NOTHING = Metric(
    "nothing",
    "not measured: whatever the targets are, they are not looked at",
    lambda outputs, _: outputs,
    needs_targets=False,
    classes=False,
)


def measure(
    model: nn.Module,
    data: Any,
    measures: MeasureLike | Iterable[MeasureLike] | None = None,
    *,
    checkpoints: Series | Mapping[int, Any] | str | os.PathLike[str] | None = None,
    layers: LayerSelection = None,
    view: str = "block",
    norms: Norms | str | Mapping[str, str] = "own",
    batch_size: int = 1000,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    output: OutputSpec = None,
    show_progress: bool = True,
) -> xr.Dataset:
    """Measure rows of a network in one pass over the data, or by their weights alone.

    With x a token's hidden state where it enters a row of one block or of several that follow one
    another, y where it leaves, and means over all tokens that are no padding:

    ``block_influence``
        1 − mean cos(x, y). Men et al. (2024), ShortGPT: layers in large language models are more
        redundant than you expect.
    ``angular_distance``, ``angular_distance_last``
        arccos(cos(x, y)) / π, mean over all tokens, and over the last of each sequence. Gromov et
        al. (2024), The unreasonable ineffectiveness of the deeper layers, equation 6, which takes
        the last.
    ``attention_importance``, ``mlp_importance``
        1 − mean cos(x, x + f(x)), where f(x) is what the attention or the MLP of a block adds to
        the hidden states x. He et al. (2024), What matters in transformers? Not all attention is
        needed (LLM-Drop).
    ``norm_growth``
        Mean ‖y‖ over mean ‖x‖.
    ``variance``
        Variance of the elements of y over all tokens and channels. Sun et al. (2025), The curse of
        depth in large language models.
    ``output_spike``
        Largest ``|y|`` that a down-projection of the row gives. Yu et al. (2024), The super weight
        in large language models. See `layerscope.super_weights`.
    ``spectral_exponent``
        Hill's estimate of the exponent of the spectra of the row's matrices, mean over them; Lu et
        al. (2024), AlphaPruning, after Martin et al. (2021).

    Sums are in double precision. Several batches give what one gives, to rounding (1e-12).

    Parameters
    ----------
    model : nn.Module
        With the weights that are measured, unless `checkpoints` are given. It comes back as it was.
    data
        As for `layerscope.sweep`; targets are not looked at. Tokens where ``attention_mask`` is 0
        do not count.
    measures : sequence of str or Measure, optional
        By default all of `MEASURES`.
    checkpoints, layers, view, norms, batch_size, device, dtype, output
        As for `layerscope.sweep`; of `checkpoints` the last is measured.
    show_progress : bool

    Returns
    -------
    xarray.Dataset
        ``measure_value`` (layer, measure), NaN where a row can't be measured so, with the reason in
        ``attrs["not_measured"]``; along ``measure`` what each is, its unit and bounds, and whether
        high values are said to mark layers that matter.

    Raises
    ------
    OptionError
        If there is no measure of a name.
    LayerError, DataError, CheckpointError
        As `layerscope.sweep`.

    Examples
    --------
    >>> import torch
    >>> block = lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> net = nn.Sequential(nn.Embedding(50, 8), block(), block(), nn.Linear(8, 50))
    >>> ids = torch.arange(24).view(4, 6)
    >>> ds = measure(net, (ids, None), ["block_influence", "spectral_exponent"], device="cpu")
    >>> ds.measure_value.dims, ds.layer.values.tolist()
    (('layer', 'measure'), ['0', '1', '2', '3'])
    """
    wanted, kept = parse(measures), Norms.of(norms)
    subject = Subject.of(
        model,
        data,
        checkpoints=checkpoints,
        metrics=[_NOTHING],
        batch_size=validate.integer(batch_size, "batch_size", 1, 64),
        device=device,
        dtype=dtype,
        output=output,
    )
    rows = layers_.find(subject.model, view, kept, layers)
    with Undo() as undo, undo:
        undo.enter(devices.NoGradients())
        probe = undo.enter(Probe(subject, "measures"))
        found = measure_rows(probe, rows, wanted, show_progress)
    return with_measures(_empty(subject, rows, view, kept), found, wanted)


def with_measures(ds: xr.Dataset, found: Measured, measures: Sequence[Measure]) -> xr.Dataset:
    """Put measures beside what a Dataset has, along its layers.

    Parameters
    ----------
    ds : Dataset
    found : Measured
    measures : sequence of Measure
    """
    names = [str(name) for name in ds["layer"].values]
    values = [[found.values.get((n, m.name), np.nan) for m in measures] for n in names]
    reasons = {" ".join(at): why for at, why in found.reasons.items()}
    own = results.build(
        {"measure_value": (["layer", "measure"], values)},
        {"layer": names, "measure": [m.name for m in measures]}
        | results.coordinates(measures=[each.info for each in measures]),
        {"not_measured": reasons, "measured_on": found.examples},
    )
    return ds.assign(measure_value=own["measure_value"]).assign_attrs(own.attrs)


def _empty(subject: Subject, rows: Sequence[Layer], view: str, norms: Norms) -> xr.Dataset:
    """Rows of a network, and what is known of them, without a value."""
    return results.build({}, _coords(rows), _about(subject, view, norms))


def _coords(rows: Sequence[Layer]) -> dict[str, Any]:
    return {
        "layer": [row.name for row in rows],
        "depth": ("layer", np.arange(len(rows))),
        "kind": ("layer", ["layer"] * len(rows)),
        "module_type": ("layer", [row.module_type for row in rows]),
        "parameters": ("layer", [row.size for row in rows]),
        "component": ("layer", [row.component for row in rows]),
        "block": ("layer", [row.block for row in rows]),
        "stage": ("layer", [row.stage for row in rows]),
    }


def _about(subject: Subject, view: str, norms: Norms) -> dict[str, Any]:
    data, model = subject.data, subject.model
    return {
        "layerscope": __version__,
        "torch": torch.__version__,
        "network": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "data": {"name": data.name, "examples": data.count, "sha256": data.fingerprint},
        "view": view,
        "norms": norms.describe(),
        "batch_size": data.size,
        "device": str(subject.device),
        "dtype": str(subject.dtype).removeprefix("torch.") if subject.dtype else "",
    }
