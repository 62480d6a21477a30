"""Super weights: single scalars of down-projections that a language model can't do without."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from torch import Tensor, nn

from layerscope.base import validate
from layerscope.base.tensors import named_tensors
from layerscope.core import layers, perturb
from layerscope.core.drilling._weights import peaks_of
from layerscope.core.measures import Peaks, down_projections, stacked_experts
from layerscope.core.sweep import sweep
from layerscope.errors import LayerError

__all__ = ["super_weights"]


class _Candidate(NamedTuple):
    """A weight between the channel with the largest input and that with the largest output."""

    tensor: str
    place: tuple[int, int]
    weight: float
    given: float
    gave: float

    @property
    def share(self) -> float:
        """The largest that the weight alone adds to an output."""
        return abs(self.weight) * self.given


def super_weights(model: nn.Module, data: Any, count: int = 8, **options: Any) -> xr.Dataset:
    """Find the single weights of down-projections whose loss costs most, and measure that loss.

    In one pass the channel of largest input and that of largest output are found of every MLP's
    down-projection, over all tokens that are no padding: the scalar between them is its candidate.
    The `count` candidates that alone add most to an output, ``|w| · max |x|``, are confirmed
    exactly, by a sweep in which each is set to zero by itself.

    Parameters
    ----------
    model : nn.Module
    data
        As for `layerscope.sweep`.
    count : int
        Candidates to confirm, of as many down-projections.
    **options
        Further arguments of `layerscope.sweep`: `checkpoints`, `metrics`, `batch_size`, `device`,
        `out` (with which it goes on where it was stopped) and so on.

    Returns
    -------
    xarray.Dataset
        As of `layerscope.sweep`: a row for each tensor, whose one candidate was set to zero, with
        ``weight_row``, ``weight_column``, ``weight``, ``largest_input`` and ``largest_output``
        along ``layer``.

    Raises
    ------
    LayerError
        If the network has no down-projection that is a module, as where experts are one tensor.

    Notes
    -----
    One candidate of each projection is found. Where the network has several super weights in one,
    set the first to zero, ``perturb.zero_weights``, and look again. Experts that are one tensor, as
    Mixtral's, are left out: no module shows what enters one of them.

    References
    ----------
    Yu, M., et al. (2024). The super weight in large language models. arXiv 2411.07191.
    """
    count = validate.integer(count, "count", 1, 8)
    paths = down_projections(layers.require_network(model))
    if not paths and (stacks := stacked_experts(layers.require_network(model))):
        raise LayerError(
            f"the experts of this {type(model).__name__} are one tensor each block, such as "
            f"{stacks[0]}, so that no module shows what enters an expert; look at single weights "
            f"with perturb.zero_weights({{{stacks[0]!r}: [(expert, row, column)]}})."
        )
    if not paths:
        raise LayerError(
            f"the {type(model).__name__} has no blocks whose MLP leads back from a wider dimension "
            "through a linear module; look at single weights with perturb.zero_weights."
        )
    held = named_tensors(layers.require_network(model))
    seen = peaks_of(model, data, paths, options)
    found = [_candidate(path, held[f"{path}.weight"], peaks) for path, peaks in seen.items()]
    found = sorted(found, key=lambda each: -each.share)[:count]
    ds = sweep(
        model,
        data,
        **{"whole": False, **options},
        view="tensor",
        layers=[each.tensor for each in found],
        perturbations=[
            perturb.zero_weights({each.tensor: [each.place] for each in found}, "super weight")
        ],
    )
    return _described(ds, {each.tensor: each for each in found})


def _candidate(path: str, weight: Tensor, peaks: Peaks) -> _Candidate:
    column, row = int(peaks.given.argmax()), int(peaks.gave.argmax())
    # A linear layer holds (out, in); GPT-2's the other way round.
    turned = weight.shape != (len(peaks.gave), len(peaks.given))
    place = (column, row) if turned else (row, column)
    value = float(weight.detach()[place])
    given, gave = float(peaks.given[column]), float(peaks.gave[row])
    return _Candidate(f"{path}.weight", place, value, given, gave)


def _described(ds: xr.Dataset, found: dict[str, _Candidate]) -> xr.Dataset:
    names = [str(name) for name in ds["layer"].values]
    told = {
        "weight_row": ([_at(found, n, 0) for n in names], "index of the weight, first dimension"),
        "weight_column": (
            [_at(found, n, 1) for n in names],
            "index of the weight, second dimension",
        ),
        "weight": ([_of(found, n, "weight") for n in names], "value of the weight"),
        "largest_input": ([_of(found, n, "given") for n in names], "largest absolute input"),
        "largest_output": ([_of(found, n, "gave") for n in names], "largest absolute output"),
    }
    coords = {
        name: ("layer", values, {"long_name": long_name})
        for name, (values, long_name) in told.items()
    }
    return ds.assign_coords(coords)


def _at(found: dict[str, _Candidate], name: str, axis: int) -> int:
    return found[name].place[axis] if name in found else -1


def _of(found: dict[str, _Candidate], name: str, what: str) -> float:
    return float(getattr(found[name], what)) if name in found else float(np.nan)
