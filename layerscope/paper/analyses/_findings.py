"""Findings: what the paper says, what was measured, and whether the two agree.

>>> from layerscope import analyses
>>> found = analyses.finding(
...     "upper layers are more robust", "rank correlation of depth and damage",
...     [-0.9, -0.8, -1.0], below=0)
>>> found.verdict
'agrees'
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from layerscope import stats
from layerscope.errors import OptionError

__all__ = [
    "AGREES",
    "DISAGREES",
    "UNDECIDED",
    "Finding",
    "about",
    "finding",
    "findings_table",
    "rank_step",
]

AGREES, DISAGREES, UNDECIDED = "agrees", "disagrees", "undecided"


@dataclass(frozen=True)
class Finding:
    """A statement, judged.

    Attributes
    ----------
    claim : str
        What the paper says.
    measured : str
        Which number was measured for it.
    condition : str
        What the number must be for the statement to hold, such as ``"below 0"``.
    value, lower, upper : float
        The mean over runs, and Student's 95 % interval of it; NaN where there are too few.
    runs : int
    verdict : str
        ``"agrees"`` where the whole interval fulfils the condition, ``"disagrees"`` where none of
        it does, else ``"undecided"``.
    """

    claim: str
    measured: str
    condition: str
    value: float
    lower: float
    upper: float
    runs: int
    verdict: str

    def plain(self) -> dict[str, Any]:
        """As JSON has it: None for what is not known, or not finite."""
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in asdict(self).items()
        }


def finding(
    claim: str,
    measured: str,
    samples: npt.ArrayLike,
    *,
    above: float | None = None,
    below: float | None = None,
    step: float = 0.0,
    span: tuple[float, float] = (-np.inf, np.inf),
    confidence: float = 0.95,
) -> Finding:
    """Judge a statement by one number per training run.

    Parameters
    ----------
    claim, measured : str
        As in `Finding`.
    samples : array_like
        Shape ``(runs,)``; NaN where a run gave none.
    above, below : float, optional
        The limit that the number must be above, or below; exactly one of the two.
    step : float
        Distance between neighbouring values that the number can take, such as a fifth for a share
        of five layers. Few runs often give the very same one, which does not mean that all would:
        their standard deviation is taken to be at least that of rounding, step/√12.
    span : pair of float
        The least and the most that the number can be; the interval ends there.
    confidence : float
        Of the interval, in (0, 1).

    Raises
    ------
    OptionError
        If there is not exactly one limit, `step` is negative, or `confidence` not in (0, 1).

    Examples
    --------
    One run has no interval, so it settles nothing:

    >>> finding("wider is more robust", "difference", [0.3], above=0).verdict
    'undecided'
    """
    if (above is None) == (below is None):
        raise OptionError(f"above is {above} and below is {below}; give exactly one of them.")
    if not step >= 0:
        raise OptionError(f"step is {step}; it must not be negative.")
    known = np.asarray(samples, float).ravel()
    known = known[~np.isnan(known)]
    value, lower, upper = map(float, stats.student(known, confidence=confidence))
    if len(known) > 1:
        half = max(upper - value, _least_half(len(known), step, confidence))
        lower, upper = (float(np.clip(value + side, *span)) for side in (-half, half))
    if above is not None:
        condition, holds, fails = f"above {above:g}", lower > above, upper <= above
    else:
        assert below is not None
        condition, holds, fails = f"below {below:g}", upper < below, lower >= below
    verdict = AGREES if holds else DISAGREES if fails else UNDECIDED
    return Finding(claim, measured, condition, value, lower, upper, len(known), verdict)


def rank_step(count: int) -> float:
    """Distance between neighbouring values of Spearman's rank correlation, for `finding`.

    With ρ = 1 − 6 Σd²/(n³ − n) over n ranks without ties, Σd² changes by 2 at the least.

    Parameters
    ----------
    count : int
        Ranks; below 2 they have no order, and this is 0.

    Examples
    --------
    >>> rank_step(4)
    0.2
    """
    return 12 / (count**3 - count) if count > 1 else 0.0


def about(what: str, findings: Iterable[Finding]) -> list[Finding]:
    """Say of which network or setting findings are.

    Parameters
    ----------
    what : str
        Stands before each claim.
    findings : iterable of Finding

    Examples
    --------
    >>> about("vgg11", [finding("a", "b", [1.0, 2.0], above=0)])[0].claim
    'vgg11: a'
    """
    return [replace(found, claim=f"{what}: {found.claim}") for found in findings]


def findings_table(findings: Iterable[Finding]) -> pd.DataFrame:
    """Set findings under each other: what the paper says, what we measured, whether they agree.

    Examples
    --------
    >>> list(findings_table([finding("a", "b", [1.0, 2.0], above=0)]).columns)
    ['the paper says', 'we measured', 'agrees if', 'mean', 'lower', 'upper', 'runs', 'agrees?']
    """
    return pd.DataFrame([_row(found) for found in findings], columns=list(_COLUMNS.values()))


def _least_half(runs: int, step: float, confidence: float) -> float:
    """Half of Student's interval where the spread is that of rounding to multiples of a step."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, runs - 1)) * step / math.sqrt(12 * runs)


_COLUMNS = {
    "claim": "the paper says",
    "measured": "we measured",
    "condition": "agrees if",
    "value": "mean",
    "lower": "lower",
    "upper": "upper",
    "runs": "runs",
    "verdict": "agrees?",
}


def _row(found: Finding) -> Sequence[Any]:
    return [getattr(found, name) for name in _COLUMNS]
