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
from layerscope.paper import rules

__all__ = [
    "AGREES",
    "DISAGREES",
    "UNDECIDED",
    "Finding",
    "about",
    "by_rule",
    "correct",
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
    rule : str
        Name among `rules.RULES`; empty where there is none.
    p : float
        Two-sided p-value of Student's test against the limit; NaN where there are too few runs.
    statements : int
        How many were corrected for each other, see `correct`; 1 where it stands alone.
    needed : int
        Runs that would find a difference from the limit as large as the measured one in 80 % of
        cases, where it is undecided; 0 where that is not known.
    """

    claim: str
    measured: str
    condition: str
    value: float
    lower: float
    upper: float
    runs: int
    verdict: str
    rule: str = ""
    p: float = math.nan
    statements: int = 1
    needed: int = 0

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
    limit = above if above is not None else below
    assert limit is not None
    p = _p_value(known, limit, step)
    return Finding(claim, measured, condition, value, lower, upper, len(known), verdict, p=p)


def by_rule(
    name: str,
    samples: npt.ArrayLike,
    *,
    of: str = "",
    above: float | None = None,
    below: float | None = None,
    step: float = 0.0,
    span: tuple[float, float] = (-np.inf, np.inf),
) -> Finding:
    """Judge a statement of the paper by its rule.

    Parameters
    ----------
    name : str
        Of `rules.RULES`.
    samples, step, span
        As for `finding`.
    of : str
        What the quantity is of here, such as a layer; it stands behind the quantity.
    above, below : float, optional
        The limit, only where the rule has none since it depends on the number of rows.

    Examples
    --------
    >>> found = by_rule("lowest-critical", [0.4, 0.5, 0.45], of="layer1")
    >>> found.verdict, found.condition, found.measured
    ('agrees', 'above 0.25', 'damage of re-initialising the lowest layer (layer1)')
    """
    rule = rules.find(name)
    if rule.above is not None or rule.below is not None:
        above, below = rule.above, rule.below
    measured = f"{rule.quantity} ({of})" if of else rule.quantity
    found = finding(rule.claim, measured, samples, above=above, below=below, step=step, span=span)
    return replace(found, rule=name)


def correct(findings: Iterable[Finding], confidence: float = 0.95) -> list[Finding]:
    """Correct the statements of one experiment for each other, and say what would decide them.

    A verdict stays only where the p-value that Holm's step-down procedure (1979) makes of its own
    is below ``1 − confidence``, so that with this confidence none of those that stay is wrong.
    What one run alone says is no test, and does not count.

    Parameters
    ----------
    findings : iterable of Finding
        Each judged by itself at the same confidence.
    confidence : float

    Examples
    --------
    >>> alone = finding("a", "b", [0.1, 0.2, 0.3], above=-0.06)
    >>> alone.verdict, [each.verdict for each in correct([alone, alone, alone])]
    ('agrees', ['undecided', 'undecided', 'undecided'])
    """
    found = list(findings)
    tested = [at for at, each in enumerate(found) if not math.isnan(each.p)]
    corrected = dict(zip(tested, _holm([found[at].p for at in tested]), strict=True))
    level = 1 - confidence
    said = []
    for at, each in enumerate(found):
        open_ = at in corrected and corrected[at] >= level
        each = replace(each, statements=max(len(tested), 1))
        each = replace(each, verdict=UNDECIDED) if open_ else each
        alone = 1 - level / max(len(tested), 1)
        said.append(replace(each, needed=_needed(each, alone)))
    return said


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


def _holm(values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values."""
    order = np.argsort(values)
    count = len(values)
    raised = [min(1.0, (count - rank) * values[at]) for rank, at in enumerate(order)]
    found = np.empty(count)
    found[order] = np.maximum.accumulate(raised) if count else []
    return [float(each) for each in found]


def _p_value(known: npt.NDArray[np.float64], limit: float, step: float) -> float:
    """Two-sided p-value of Student's test, with the spread that `finding` takes."""
    from scipy.stats import t

    if len(known) < 2:
        return math.nan
    if not np.isfinite(known).all():
        return 1.0
    error = max(float(known.std(ddof=1)), step / math.sqrt(12)) / math.sqrt(len(known))
    if error == 0:  # the interval is a point, which is on one side
        return 0.0
    away = abs(float(known.mean()) - limit) / error
    return float(2 * t.sf(away, len(known) - 1))


def _needed(found: Finding, confidence: float) -> int:
    """Runs that would decide it; 0 where it is decided, or that is not known."""
    from scipy.stats import t

    if found.verdict != UNDECIDED or math.isnan(found.p) or not 0 < found.p < 1:
        return 0
    limit = float(found.condition.split()[1])
    difference = abs(found.value - limit)
    # From the p-value, since the interval may end where the number does.
    error = difference / float(t.isf(found.p / 2, found.runs - 1))
    try:
        return stats.runs_needed(difference, error * math.sqrt(found.runs), confidence=confidence)
    except OptionError:  # more than anybody would train
        return 0


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
