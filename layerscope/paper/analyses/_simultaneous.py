"""Statements about all of several rows at once: no layer may be an exception, or none is critical.

Such a statement is judged by the rows' means over runs, and not by the mean of each run's worst
row, which is skewed even where no row is: over three runs Student's interval of it decides too
often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from layerscope.paper import rules
from layerscope.paper.analyses._findings import (
    AGREES,
    DISAGREES,
    UNDECIDED,
    Finding,
    by_rule,
    finding,
)

__all__ = ["by_rule_of_all"]

_LEVEL = 0.05


def by_rule_of_all(name: str, samples: xr.DataArray, *, of: str = "") -> Finding:
    """Judge a statement that must hold for every row.

    It agrees where the whole interval of every row is on the statement's side: an
    intersection-union test, which needs no correction, since a wrong answer takes a wrong one on
    the very row that does not hold. It disagrees where the interval of some row is on the other
    side, at a confidence that holds for all rows at once (Bonferroni).

    Parameters
    ----------
    name : str
        Of a rule with a limit above or below.
    samples : DataArray
        Dimensions ``seed`` and ``layer``, or a stage in its place: what is measured of a row.
    of : str
        Rows among which it is asked, such as a pattern.

    Returns
    -------
    Finding
        `value` is the mean of the row whose mean is the worst, `lower` and `upper` hold the worst
        of all true means, and `samples` and `spread` are of the row whose interval reaches
        farthest, which `measured` names.

    References
    ----------
    Berger, R. L. (1982). Multiparameter hypothesis testing and acceptance sampling. Technometrics
    24, 295–300.

    Examples
    --------
    >>> import numpy as np
    >>> runs = xr.DataArray([[1.0, 0.99], [1.01, 0.98], [0.99, 1.0]], dims=("seed", "layer"),
    ...     coords={"layer": ["fc1", "fc2"]})
    >>> found = by_rule_of_all("random-fails", runs)
    >>> found.verdict, found.measured
    ('agrees', 'least mean damage over layers (fc2)')
    """
    rule = rules.find(name)
    limit = rule.above if rule.above is not None else rule.below
    assert limit is not None, "a statement of all rows has one limit"
    (dim,) = (str(each) for each in samples.dims if each != "seed")
    rows = {str(row): samples.sel({dim: row}).values for row in samples[dim].values}
    alone = [by_rule(name, values) for values in rows.values()]
    # Of several rows one lies outside of its interval by chance.
    level = 1 - _LEVEL / len(rows)
    sure = [
        finding("", "", values, above=rule.above, below=rule.below, confidence=level)
        for values in rows.values()
    ]
    return _joined(alone, sure, list(rows), limit, 1 if rule.above is not None else -1, of)


def _joined(
    alone: Sequence[Finding],
    sure: Sequence[Finding],
    rows: Sequence[str],
    limit: float,
    sign: int,
    of: str,
) -> Finding:
    """Put the findings of rows together; multiplied by `sign`, more is on the statement's side."""
    ends = ("lower", "upper")[::sign]
    means, near = (_worst(alone, end, sign) for end in ("value", ends[0]))
    far = _worst(sure, ends[1], sign)
    at = int(np.argmin([sign * getattr(each, ends[0]) for each in alone]))
    lower, upper = (near, far)[::sign]
    holds, fails = sign * near > sign * limit, sign * far <= sign * limit
    named = f"{alone[at].measured} ({', '.join(part for part in (of, rows[at]) if part)})"
    return replace(
        alone[at],
        measured=named,
        value=means,
        lower=lower,
        upper=upper,
        verdict=AGREES if holds else DISAGREES if fails else UNDECIDED,
        p=_p_value(alone, limit, sign),
    )


def _worst(found: Sequence[Finding], name: str, sign: int) -> float:
    """Least of a number over rows, or the largest; NaN where it is not known of one."""
    return float(sign * np.min([sign * getattr(each, name) for each in found]))


def _p_value(alone: Sequence[Finding], limit: float, sign: int) -> float:
    """The smaller of both sides' p-values, each two-sided as `Finding` has it."""
    if any(math.isnan(each.p) for each in alone):
        return math.nan
    side = [sign * each.value > sign * limit for each in alone]
    # Of a number on the wrong side there is no evidence for the statement, and the reverse.
    holds = max(each.p if there else 1.0 for each, there in zip(alone, side, strict=True))
    fails = min(1.0 if there else each.p for each, there in zip(alone, side, strict=True))
    return min(holds, fails * len(alone), 1.0)
