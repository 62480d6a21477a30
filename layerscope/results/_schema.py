"""Requirements of an opened Dataset, where it holds something under a name that we know."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import xarray as xr

from layerscope.base import files
from layerscope.errors import ResultError
from layerscope.results._dataset import settings

__all__ = ["check"]

_TEXTS = {
    *("layer", "perturbation", "metric", "norm", "task", "measure", "kind", "module_type"),
    *("component", "block", "stage", "initializer", "doubt", "verdict", "scenario"),
    *("scenario_state", "text_token", "text_trained_prediction", "text_prediction", "text_layer"),
    *("metric_long_name", "metric_unit", "fraction_of", "perturbation_label", "towards"),
    *("perturbation_column", "perturbation_sign", "measure_long_name", "measure_unit", "removed"),
}
_NUMBERS = {
    *("value", "standard_error", "baseline", "baseline_standard_error", "difference"),
    *("difference_standard_error", "n_examples", "not_finite", "baseline_not_finite", "chance"),
    *("stopped_early", "lower", "upper", "baseline_lower", "baseline_upper", "outcome"),
    *("baseline_outcome", "weight", "scenario_value", "scenario_standard_error", "seed"),
    *("scenario_difference", "text_trained_loss", "text_loss", "distance", "draw_distance"),
    *("depth", "parameters", "moved", "first_block", "n_blocks", "higher_is_better", "alpha"),
    *("metric_lower_bound", "metric_upper_bound", "logarithmic", "stochastic", "redraws"),
    *("uses_checkpoint", "measure_value", "measure_lower_bound", "measure_upper_bound"),
    *("measure_logarithmic", "higher_matters", "first_target", "last_target", "text", "example"),
}
_WHOLE = {"epoch", "draw", "model_epoch", "step"}
_KINDS = {
    **dict.fromkeys(_TEXTS, ("OUS", "texts")),
    **dict.fromkeys(_NUMBERS, ("biuf", "numbers")),
    **dict.fromkeys(_WHOLE, ("iu", "whole numbers")),
}


class _Reuse(files.Schema):
    refusal: str | None = None
    plain_modules: dict[str, str] | None = None
    plain_groups: dict[str, str] | None = None


class _Stopping(files.Schema):
    metric: str | None = None
    confidence: float = 0.95


class _Training(files.Schema):
    seconds: float = 0.0
    recipe: dict[str, Any] | None = None


_Epoch = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,18}$")]


class _Settings(files.Schema):
    """Attributes as we write them; whatever has another name is the user's own."""

    network: dict[str, Any] | str | None = None
    layers: list[str] | None = None
    metrics: list[str] | None = None
    groups: dict[str, list[str]] | None = None
    checkpoints: dict[_Epoch, Any] | None = None
    epochs: list[int] | None = None
    call: dict[str, Any] | None = None
    refused: dict[str, Any] | None = None
    audit: list[dict[str, Any]] | None = None
    reuse: _Reuse | None = None
    damaged_parts: list[str] | None = None
    stopping: _Stopping | None = None
    training: _Training | None = None
    runs: list[_Settings] | None = None
    view: str | None = None
    batch_size: int | str | None = None
    wall_time_s: float | None = None


def check(ds: xr.Dataset, path: object) -> None:
    """Check the kinds of a Dataset's variables and settings.

    Raises
    ------
    ResultError
        Names the variable or the attribute, what it holds, and what was expected.
    """
    for name, variable in ds.variables.items():
        _check_kind(str(name), variable, path)
    for name, index in ds.indexes.items():
        if name in _KINDS and not index.is_unique:
            twice = index[index.duplicated()][0]
            raise ResultError(f"{path} has {twice!r} twice along {name}; each must be there once.")
    files.fit_schema(
        settings(ds), _Settings, where=path, error=ResultError, what="a Dataset of layerscope"
    )


def _check_kind(name: str, variable: xr.Variable, path: object) -> None:
    kinds, words = _KINDS.get(name, ("", ""))
    kind = variable.dtype.kind
    fits = kind in kinds
    if fits and kind == "O":
        fits = all(isinstance(each, str) for each in variable.values.ravel().tolist())
    if kinds and not fits:
        raise ResultError(
            f"{path} is no Dataset of layerscope: its variable {name!r} holds {variable.dtype}, "
            f"not {words}. Compute it again, or open it with xarray.open_dataset."
        )
