"""Questions to be settled about a cell: a decision, or a narrow interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import Any

from layerscope.errors import OptionError, choose

__all__ = ["Decision", "Rule", "Tolerance"]

BOLDEST = 0.8
"""Share of the capital that one example may cost: with all of it, one outlier would be ruin."""


@dataclass(frozen=True)
class Decision:
    """Stop a cell once it is settled whether it is robust or critical.

    A cell is *robust* if the metric worsens by at most `robust` on average over the data set,
    *critical* if it worsens by at least `critical` (by more, where the two limits are equal), and
    *intermediate* strictly between them. The average is over targets that count, however many an
    example has. It is known whether it lies beyond a limit, but where it lies is not: the value of
    a cell that was stopped is too far from the limit, by about a tenth in simulations.

    Parameters
    ----------
    robust, critical : float
        Limits of the mean difference from the unperturbed network, above 0 for worse, in the
        metric's unit; `critical` is the same as `robust` unless given.
    confidence : float
        In (0, 1). Each cell's verdict is wrong with a probability of at most 1 − `confidence`.
    metric : str, optional
        Of which it is decided. Its values must lie in [0, 1].

    Raises
    ------
    OptionError
        If a limit is outside [−1, 1], or `critical` is below `robust`.

    Examples
    --------
    >>> Decision(0.02)
    Decision(robust=0.02, critical=0.02, confidence=0.99, metric=None)
    >>> Decision.of({"robust": 0.01, "critical": 0.1}).limits
    (0.01, 0.1)
    """

    robust: float = 0.02
    critical: float | None = None
    confidence: float = 0.99
    metric: str | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        robust = _number(self.robust, "robust", low, high, closed=True)
        critical = robust
        if self.critical is not None:
            critical = _number(self.critical, "critical", low, high, closed=True)
        if critical < robust:
            raise OptionError(
                f"critical is {critical!r}, below robust, which is {robust!r}; a cell could be "
                "both. Give the same limit for both, or a larger one for critical."
            )
        _set(self, robust=robust, critical=critical)
        _check(self)

    @property
    def limits(self) -> tuple[float, float]:
        """`robust` and `critical`."""
        return self.robust, self.robust if self.critical is None else self.critical

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which values the outcomes lie: differences of two values in [0, 1]."""
        return -1.0, 1.0

    @property
    def stakes(self) -> tuple[float, ...]:
        """The λ over which the capital is split."""
        # The best λ is about the distance of the mean from the limit over the variance of the
        # differences. Where that is below a tenth, hardly anything can be settled early.
        return tuple(BOLDEST / 2**k for k in range(4))

    @classmethod
    def of(cls, value: Any) -> Decision:
        """Make a rule of a Decision, True for the defaults, a limit, or a mapping.

        Raises
        ------
        OptionError
            If it is something else, or has unknown parts.
        """
        if value is True:
            return cls()
        if isinstance(value, cls):
            return value
        hint = "True, a limit such as 0.02, a mapping, or a Decision"
        return cls(**_parts(cls, value, "robust", hint))

    def describe(self) -> dict[str, Any]:
        """Plain values, of which `of` makes the rule again."""
        return asdict(self)


@dataclass(frozen=True)
class Tolerance:
    """Stop a cell once the interval of its mean is narrow enough.

    Parameters
    ----------
    width : float
        Half the width that the interval may have in the end, in the metric's unit.
    confidence : float
        In (0, 1). The intervals of a cell after all batches enclose its mean over the data set,
        all at once, with at least this probability.
    metric : str, optional
        Whose mean it is. Its values must lie in [0, 1].

    Raises
    ------
    OptionError
        If `width` is not in (0, 0.5).

    Examples
    --------
    >>> Tolerance(0.01).describe()
    {'width': 0.01, 'confidence': 0.99, 'metric': None}
    """

    width: float
    confidence: float = 0.99
    metric: str | None = None

    def __post_init__(self) -> None:
        low, high = self.bounds
        _set(self, width=_number(self.width, "width", 0, (high - low) / 2))
        _check(self)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which values the outcomes lie."""
        return 0.0, 1.0

    @property
    def stakes(self) -> tuple[float, ...]:
        """The λ over which the capital is split."""
        # The best λ is about the half-width over the variance, which is 1/4 at most.
        return tuple(6 * self.width * 3**k for k in range(3))

    @classmethod
    def of(cls, value: Any) -> Tolerance:
        """Make a rule of a Tolerance, half a width, or a mapping.

        Raises
        ------
        OptionError
            If it is something else, or has unknown parts.
        """
        if isinstance(value, cls):
            return value
        hint = "half the width, such as 0.01, a mapping, or a Tolerance"
        return cls(**_parts(cls, value, "width", hint))

    def describe(self) -> dict[str, Any]:
        """Plain values, of which `of` makes the rule again."""
        return asdict(self)


Rule = Decision | Tolerance


def _parts(cls: type[Rule], value: Any, first: str, hint: str) -> dict[str, Any]:
    """Arguments for a rule, from a number that is the `first` of them, or from a mapping."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return {first: value}
    if not isinstance(value, Mapping):
        raise OptionError(f"{value!r} is no {cls.__name__}; give {hint}.")
    for name in value:
        choose(name, [field.name for field in fields(cls)], f"part of a {cls.__name__}")
    if first not in value and cls is Tolerance:
        raise OptionError(f"a Tolerance of {dict(value)!r} has no width; give half the width too.")
    return dict(value)


def _number(value: Any, name: str, low: float, high: float, *, closed: bool = False) -> float:
    """Return a number between two others as a plain one; refuse everything else."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    number = float(value) if real else float("nan")
    if not (low <= number <= high if closed else low < number < high):
        span = f"[{low:g}, {high:g}]" if closed else f"({low:g}, {high:g})"
        raise OptionError(f"{name} is {value!r}; give a number in {span}.")
    return number


def _check(rule: Rule) -> None:
    _set(rule, confidence=_number(rule.confidence, "confidence", 0, 1))
    if not (rule.metric is None or isinstance(rule.metric, str)):
        raise OptionError(f"metric is {rule.metric!r}; give the name of one, such as 'error'.")


def _set(rule: Rule, **values: float) -> None:
    """Fill in what was checked; the dataclasses are frozen for everyone else."""
    for name, value in values.items():
        object.__setattr__(rule, name, value)
