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
from layerscope.base import validate
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
        The mean over runs, and Student's 95 % interval of it; NaN where there are too few. Where
        the condition is "within", that of one more run.
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
    detectable : float
        Distance from the limit that these runs would find in 80 % of cases, at the confidence that
        the first of all `statements` needs; NaN where there are too few runs.
    spread : float
        Standard deviation over runs, at least that of rounding; NaN where there are too few.
    samples : tuple of float
        What the verdict is made of, one number per run.
    least : float
        Least p-value that can come out, whatever the runs, as where few layers are put in order; 0
        where there is no such bound.
    unit : str
        Of what `runs` are several.
    note : str
        What else is to be known of the measured number, such as how coarse it is.
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
    detectable: float = math.nan
    spread: float = math.nan
    samples: tuple[float, ...] = ()
    least: float = 0.0
    unit: str = "run"
    note: str = ""

    def plain(self) -> dict[str, Any]:
        """As JSON has it: None for what is not known, or not finite."""
        kept = {key: _plain(value) for key, value in asdict(self).items()}
        return kept | {"samples": [_plain(each) for each in self.samples]}


def finding(
    claim: str,
    measured: str,
    samples: npt.ArrayLike,
    *,
    above: float | None = None,
    below: float | None = None,
    within: float | None = None,
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
    above, below, within : float, optional
        The limit that the number must be above, or below, or the distance from 0 within which it
        must lie, to either side; exactly one of the three. "Within" is asked of one more run, not
        of the mean: the interval is where 95 % of further runs lie. A mean of few runs would pass
        too often where a rare run costs much, since it is as rarely among them
        (``benchmarks/power.py``).
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
    limits = {"above": above, "below": below, "within": within}
    given = {side: limit for side, limit in limits.items() if limit is not None}
    if len(given) != 1:
        told = ", ".join(f"{side} is {limit}" for side, limit in limits.items())
        raise OptionError(f"{told}; give exactly one of them.")
    if not step >= 0:
        raise OptionError(f"step is {step}; it must not be negative.")
    known = np.asarray(samples, float).ravel()
    known = known[~np.isnan(known)]
    ((side, limit),) = given.items()
    spread = _spread(known, step)
    error = spread * math.sqrt((side == "within") + 1 / max(len(known), 1))
    value = float(known.mean()) if len(known) else math.nan
    half = _quantile(len(known), confidence) * error
    lower, upper = (float(np.clip(value + each, *span)) for each in (-half, half))
    holds, fails = _sides(lower, upper, side, limit)
    return Finding(
        claim,
        measured,
        f"{side} {limit:g}{' of 0' if side == 'within' else ''}",
        value,
        lower,
        upper,
        len(known),
        AGREES if holds else DISAGREES if fails else UNDECIDED,
        p=_p_value(known, _distance(value, side, limit), error),
        spread=spread,
        samples=tuple(map(float, known)),
    )


def by_rule(
    name: str,
    samples: npt.ArrayLike,
    *,
    of: str = "",
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

    Examples
    --------
    >>> found = by_rule("lowest-critical", [0.4, 0.5, 0.45], of="layer1")
    >>> found.verdict, found.condition, found.measured
    ('agrees', 'above 0.25', 'damage of re-initialising the lowest layer (layer1)')
    """
    rule = rules.find(name)
    measured = f"{rule.quantity} ({of})" if of else rule.quantity
    found = finding(
        rule.claim,
        measured,
        samples,
        above=rule.above,
        below=rule.below,
        within=rule.within,
        step=step,
        span=span,
    )
    return replace(found, rule=name, unit=rule.unit)


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
        count = max(len(tested), 1)
        each = replace(each, statements=count, verdict=UNDECIDED if open_ else each.verdict)
        alone = 1 - level / count
        said.append(replace(each, needed=_needed(each, alone), detectable=_detectable(each, alone)))
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


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _spread(known: npt.NDArray[np.float64], step: float) -> float:
    """Standard deviation over runs, at least that of rounding to multiples of a step."""
    if len(known) < 2 or not np.isfinite(known).all():
        return math.nan
    return max(float(known.std(ddof=1)), step / math.sqrt(12))


def _quantile(runs: int, confidence: float) -> float:
    """How many standard errors Student's interval reaches to either side."""
    from scipy.stats import t

    validate.number(confidence, "confidence", "(0, 1)", 0.95)
    return float(t.ppf((1 + confidence) / 2, runs - 1)) if runs > 1 else math.nan


def _sides(lower: float, upper: float, side: str, limit: float) -> tuple[bool, bool]:
    """Tell whether all of an interval is on the statement's side of a limit, and whether none."""
    if side == "above":
        return lower > limit, upper <= limit
    if side == "below":
        return upper < limit, lower >= limit
    return -limit < lower and upper < limit, lower >= limit or upper <= -limit


def _distance(value: float, side: str, limit: float) -> float:
    """How far a number is from the limit, or from the nearer of two."""
    return abs(abs(value) - limit) if side == "within" else abs(value - limit)


def _p_value(known: npt.NDArray[np.float64], distance: float, error: float) -> float:
    """Two-sided p-value of Student's test against the limit."""
    from scipy.stats import t

    if len(known) < 2:
        return math.nan
    if math.isnan(error):
        return 1.0
    if error == 0:  # the interval is a point, which is on one side
        return 0.0
    return float(2 * t.sf(distance / error, len(known) - 1))


def _needed(found: Finding, confidence: float) -> int:
    """Runs that would decide it; 0 where it is decided, or that is not known."""
    if found.verdict != UNDECIDED or not found.spread > 0 or found.least:
        return 0
    side, limit, *_ = found.condition.split()
    difference = _distance(found.value, side, float(limit))
    try:
        return stats.runs_needed(
            difference, found.spread, confidence=confidence, further=side == "within"
        )
    except OptionError:  # more than anybody would train
        return 0


def _detectable(found: Finding, confidence: float) -> float:
    """Distance from the limit that is found; NaN where runs are too few or do not count alone."""
    if math.isnan(found.spread) or found.least:
        return math.nan
    return float(
        stats.detectable_difference(
            found.spread,
            found.runs,
            confidence=confidence,
            further=found.condition.startswith("within"),
        )
    )


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
