"""Verdicts over a grid of both thresholds: which of them hang on where the thresholds lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from layerscope import results
from layerscope.base import validate
from layerscope.errors import OptionError, choose
from layerscope.stats._labelled import is_network, way_to_chance
from layerscope.stats._simultaneous import CORRECTIONS
from layerscope.stats._verdicts import cell_at, critical_limit

__all__ = ["sensitivity"]

_TOLERANCES = tuple(round(0.01 * at, 2) for at in range(1, 16))
_SHARES = tuple(round(0.05 * at, 2) for at in range(1, 13))


def sensitivity(
    ds: xr.Dataset,
    metric: str | None = None,
    *,
    tolerances: Sequence[float] | None = None,
    critical_shares: Sequence[float] | None = None,
    criticals: Sequence[float] | None = None,
    confidence: float = 0.95,
    correction: str = "holm",
    epoch: int = 0,
    perturbation: str | None = None,
) -> xr.Dataset:
    """Judge layers by every pair of thresholds, as `classify` does by one.

    Parameters
    ----------
    ds : Dataset
    metric : str, optional
        One of ``ds.metric``; by default the error, or the first where that was not measured.
    tolerances : sequence of float, optional
        Degradations up to which a layer is robust, in the metric's unit. By default hundredths from
        0.01 to 0.15.
    critical_shares : sequence of float, optional
        Shares of the way to chance from which on it is critical; by default twentieths from 0.05 to
        0.6.
    criticals : sequence of float, optional
        In place of these, degradations in the metric's unit; with `tolerances` for metrics whose
        value by chance is not known.
    confidence, correction, epoch, perturbation
        As for `classify`.

    Returns
    -------
    Dataset
        ``verdict`` (layer, robust, critical), the whole network left out; ``changed``, where it
        is another than at the pair nearest to the defaults of `classify`, of the middle one where
        thresholds were given; ``n_changed`` (robust, critical), how many layers are. The coordinate
        ``robust`` holds the tolerances; ``critical`` shares, unless `criticals` are given.
        Attributes "robust" and "critical" hold that pair.

    Raises
    ------
    ResultError
        As `classify`.
    OptionError
        If a threshold is no number, both kinds of `critical` came, or an option has no such value.

    Examples
    --------
    >>> from layerscope import testing
    >>> found = sensitivity(testing.dataset())
    >>> found.verdict.sel(layer="layer3", robust=0.05, critical=0.25).item()
    'intermediate'
    >>> found.n_changed.sel(robust=0.05, critical=0.25).item(), int(found.n_changed.max())
    (0, 3)
    """
    metric = results.metric_name(ds, metric)
    choose(correction, CORRECTIONS, "correction")
    if critical_shares is not None and criticals is not None:
        raise OptionError("critical_shares and criticals came; give one of them.")
    robust = _thresholds(tolerances, _TOLERANCES, "tolerances")
    given = criticals if criticals is not None else critical_shares
    name = "criticals" if criticals is not None else "critical_shares"
    worst = _thresholds(given, _SHARES, name)
    way = way_to_chance(ds, metric)
    limits = (
        worst
        if criticals is not None
        else np.array([critical_limit(ds, metric, way, float(each)) for each in worst])
    )
    judged = cell_at(ds, metric, epoch, perturbation)
    rows, known = ~is_network(judged.cell), judged.words()
    pairs = [
        judged.judge(known, float(low), float(high), confidence, correction)[2][rows]
        for low in robust
        for high in limits
    ]
    verdicts = np.reshape(pairs, (len(robust), len(limits), -1))
    names = [str(layer) for layer in judged.cell["layer"].values[rows]]
    found = xr.Dataset(
        {"verdict": (("robust", "critical", "layer"), verdicts)},
        {"layer": names, "robust": robust, "critical": worst},
    ).transpose("layer", "robust", "critical")
    at: dict[str, Any] = {
        "robust": _usual(robust, 0.05 if tolerances is None else None),
        "critical": _usual(worst, 0.25 if given is None else None),
    }
    found["changed"] = found["verdict"] != found["verdict"].sel(at)
    found["n_changed"] = found["changed"].sum("layer")
    unit = "metric" if criticals is not None else "share of the way to chance"
    return found.assign_attrs(at | {"metric": metric, "critical_unit": unit})


def _thresholds(
    given: Sequence[float] | None, default: Sequence[float], name: str
) -> npt.NDArray[np.float64]:
    values = [
        validate.number(each, name, "(-inf, inf)", 0.05)
        for each in (default if given is None else given)
    ]
    if not values or len(set(values)) < len(values):
        raise OptionError(f"{name} is {list(values)}; give one or more, each once.")
    return np.sort(np.asarray(values, float))


def _usual(values: npt.NDArray[np.float64], default: float | None) -> float:
    """The default, which is among the values where none were given, or the middle one."""
    return float(values[len(values) // 2]) if default is None else default
