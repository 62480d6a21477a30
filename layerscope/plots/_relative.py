"""Values as they are, or held against the trained network; and the colours that stand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import pandas as pd

from layerscope.base.validate import describe
from layerscope.errors import OptionError, choose
from layerscope.plots._colours import ColourMap
from layerscope.plots._scales import Scale, damage_scale, label_of, scale_of
from layerscope.results import MetricInfo

__all__ = ["Limits", "Shown", "ends_of", "limited", "relate", "shown", "shown_together"]

Limits = Sequence[float | None]
"""The values that the ends of the colours, or of an axis, stand for; None for one as it comes."""

_COARSE = 0.1  # from here on values are written with two decimals
_RELATIVE = ("difference", "damage")


class Shown(NamedTuple):
    """Cells with their value in the unit asked for, the colours that stand for it, and its name."""

    table: pd.DataFrame
    scale: Scale
    label: str


def shown(
    table: pd.DataFrame,
    metric: MetricInfo,
    layers: Sequence[str],
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    relative: str | None = None,
) -> Shown:
    """Choose what the cells of one run show; see `shown_together`."""
    tables, scale, label = shown_together({"": table}, metric, {"": layers}, cmap, limits, relative)
    return Shown(tables[""], scale, label)


def shown_together(
    tables: Mapping[str, pd.DataFrame],
    metric: MetricInfo,
    layers: Mapping[str, Sequence[str]],
    cmap: ColourMap | None = None,
    limits: Limits | None = None,
    relative: str | None = None,
) -> tuple[dict[str, pd.DataFrame], Scale, str]:
    """Choose what cells of several runs show, and one range of the colours.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        As `stats.summary` gives.
    metric : MetricInfo
    layers : mapping of str to sequence of str
        Single layers of each run. Relative values are coloured over what these give, put back to
        a checkpoint: the whole network and random values would leave few colours for them.
    cmap, limits, relative
        As for `heatmap`.

    Raises
    ------
    OptionError
        If limits are none, or there is nothing that values can be held against.
    """
    values = pd.concat([table["value"] for table in tables.values()])
    if relative is None:
        scale = scale_of(values, metric, cmap)
        return dict(tables), limited(scale, limits), label_of(metric)
    each = {name: relate(table, metric, relative) for name, table in tables.items()}
    found = {name: table for name, (table, _) in each.items()}
    scale = damage_scale(_fitted(found, layers), False, None, cmap)
    if scale.high >= _COARSE:
        scale = scale._replace(decimals=None if scale.decimals is None else min(scale.decimals, 2))
    return found, limited(scale, limits), next(iter(each.values()))[1]


def _fitted(tables: Mapping[str, pd.DataFrame], layers: Mapping[str, Sequence[str]]) -> pd.Series:
    """Find the values that the colours go over."""
    own = [
        table["value"][
            table["layer"].isin(list(layers[name]))
            & (table["column"] == table["epoch"].astype(str))
        ]
        for name, table in tables.items()
    ]
    fitted: pd.Series = pd.concat(own)
    every: pd.Series = pd.concat([table["value"] for table in tables.values()])
    return fitted if np.isfinite(fitted).any() else every


def relate(table: pd.DataFrame, metric: MetricInfo, relative: str) -> tuple[pd.DataFrame, str]:
    """Hold values and their bounds against the trained network; and name what they are then."""
    name = "degradation" if choose(relative, _RELATIVE, "relative") == "difference" else "damage"
    sign = metric.worse if name == "degradation" else 1
    value = sign * table[name]
    if not value.notna().any():
        missing = (
            "chance" if name == "damage" and table["degradation"].notna().any() else "baseline"
        )
        raise OptionError(
            f"relative={relative!r} needs {_NEEDED[missing]}, which is not known of {metric.name} "
            "here; leave relative out" + (", or give 'difference'." if missing == "chance" else ".")
        )
    # How much of the new unit one of the old is.
    unit = metric.worse * (value / (metric.worse * table["degradation"])).median()
    ends = [value + unit * (table[end] - table["value"]) for end in ("lower", "upper")]
    bounds = np.sort(np.stack(ends), axis=0)
    label = "damage (0: as trained, 1: as chance)"
    if name == "degradation":
        label = f"{'fall' if metric.higher_is_better else 'rise'} of test {metric.label}"
    return table.assign(value=value, lower=bounds[0], upper=bounds[1]), label


_NEEDED = {"chance": "what chance gives", "baseline": "what the trained network gives"}


def limited(scale: Scale, limits: Limits | None) -> Scale:
    """Set the ends of a range of colours.

    Raises
    ------
    OptionError
        If they are not two numbers in order, of which one may be None.
    """
    ends = zip(ends_of(limits), scale[:2], strict=True)
    low, high = (own if end is None else end for end, own in ends)
    if low >= high:
        raise _no_limits(limits)
    return scale._replace(low=low, high=high, log=scale.log and low > 0)


def ends_of(limits: Limits | None) -> tuple[float | None, float | None]:
    """Check limits; None for each end that is to be as it comes."""
    if limits is None:
        return None, None
    listed = isinstance(limits, Sequence) and not isinstance(limits, str)
    pair = list(limits) if listed else []
    if len(pair) != 2 or not all(each is None or _is_number(each) for each in pair):
        raise _no_limits(limits)
    low, high = (None if each is None else float(each) for each in pair)
    return low, high


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and np.isfinite(float(value))


def _no_limits(limits: object) -> OptionError:
    return OptionError(
        f"limits is {describe(limits)}; give the lowest and the highest value, such as (0, 0.5), "
        "or None for one that is to be as it comes."
    )
