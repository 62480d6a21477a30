"""Measures by name: one more takes a function here, and its name in `MEASURES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layerscope.base.validate import describe
from layerscope.core.measures._spectrum import hill_exponent
from layerscope.errors import OptionError, choose
from layerscope.results import MeasureInfo

__all__ = ["MEASURES", "Measure", "MeasureLike", "parse"]

OF_STREAM, OF_ATTENTION, OF_MLP = "stream", "attention", "mlp"
_PLACES = (OF_STREAM, OF_ATTENTION, OF_MLP)


@dataclass(frozen=True)
class Measure:
    """A number for each row, from one pass over the data or from the weights alone.

    Exactly one of `per_token`, `per_output` and `per_matrix` says how.

    Parameters
    ----------
    name : str
        Its label along the dimension ``measure``.
    per_token : callable, optional
        Takes the hidden states before and after, each of shape ``(m, d)`` for m tokens that count
        (padding does not), in double precision; returns one number, or several, for each token:
        shape ``(m,)`` or ``(m, k)``. Their mean over all tokens is the measure.
    per_output : callable, optional
        Takes what a block's MLP gives to the hidden states through its last projection, shape
        ``(m, d)``; returns one number, of which the largest counts.
    per_matrix : callable, optional
        Takes a weight as a matrix in double precision; returns a number. The mean over the row's
        matrices is the measure.
    finish : callable, optional
        Makes the measure of the k means.
    between : {"stream", "attention", "mlp"}
        Hidden states that `per_token` is given: those that enter a row of blocks and those that
        leave it; or those before and after what the attention, or the MLP, of a block adds.
    last : bool
        Of each sequence only the last token that counts.
    long_name, unit, lower_bound, upper_bound, logarithmic, higher_matters
        As for `layerscope.results.MeasureInfo`.

    Examples
    --------
    >>> shift = Measure("shift", per_token=lambda x, y: (y - x).norm(dim=-1))
    >>> parse([shift, "block_influence"])[1].info.upper_bound
    2.0
    """

    name: str
    per_token: Callable[[Tensor, Tensor], Tensor] | None = None
    per_output: Callable[[Tensor], Tensor] | None = None
    per_matrix: Callable[[Tensor], float] | None = None
    finish: Callable[[Tensor], float] = float
    between: str = OF_STREAM
    last: bool = False
    long_name: str = ""
    unit: str = "1"
    lower_bound: float = math.nan
    upper_bound: float = math.nan
    logarithmic: bool = False
    higher_matters: bool = True

    def __post_init__(self) -> None:
        ways = (self.per_token, self.per_output, self.per_matrix)
        if sum(way is not None for way in ways) != 1:
            raise OptionError(
                f"the measure {self.name!r} needs one of per_token, per_output and per_matrix."
            )
        choose(self.between, _PLACES, "place of a measure (between=)")

    @property
    def info(self) -> MeasureInfo:
        """Facts of the measure that a Dataset keeps."""
        return MeasureInfo(
            self.name,
            self.long_name,
            self.unit,
            self.lower_bound,
            self.upper_bound,
            self.logarithmic,
            self.higher_matters,
        )


MeasureLike = str | Measure
"""A measure as users write it."""


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Cosine of the angle between the rows of two matrices; that with a row of zeros is 0."""
    lengths = (x.norm(dim=-1) * y.norm(dim=-1)).clamp_min(torch.finfo(x.dtype).tiny)
    found: Tensor = ((x * y).sum(-1) / lengths).clamp(-1, 1)
    return found


def _turn(x: Tensor, y: Tensor) -> Tensor:
    return 1 - cosine(x, y)


def _angle(x: Tensor, y: Tensor) -> Tensor:
    return torch.arccos(cosine(x, y)) / math.pi


def _norms(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x.norm(dim=-1), y.norm(dim=-1)], dim=-1)


def _growth(means: Tensor) -> float:
    before, after = map(float, means)
    return after / before if before else math.nan


def _moments(_: Tensor, y: Tensor) -> Tensor:
    return torch.stack([y.mean(-1), y.square().mean(-1)], dim=-1)


def _variance(means: Tensor) -> float:
    mean, square = map(float, means)
    return max(square - mean**2, 0.0)


def _largest(y: Tensor) -> Tensor:
    return y.abs().max()


_TURN: Mapping[str, Any] = {"lower_bound": 0.0, "upper_bound": 2.0}
_SHARE: Mapping[str, Any] = {"lower_bound": 0.0, "upper_bound": 1.0}

MEASURES: Mapping[str, Measure] = {
    each.name: each
    for each in (
        Measure(
            "block_influence",
            per_token=_turn,
            long_name="1 − mean cosine of the hidden states that enter and leave",
            **_TURN,
        ),
        Measure(
            "angular_distance",
            per_token=_angle,
            long_name="angle between the hidden states that enter and leave, as a share of π",
            **_SHARE,
        ),
        Measure(
            "angular_distance_last",
            per_token=_angle,
            last=True,
            long_name="angle between the hidden states at the last token, as a share of π",
            **_SHARE,
        ),
        Measure(
            "attention_importance",
            per_token=_turn,
            between=OF_ATTENTION,
            long_name="1 − mean cosine of the hidden states before and after attention is added",
            **_TURN,
        ),
        Measure(
            "mlp_importance",
            per_token=_turn,
            between=OF_MLP,
            long_name="1 − mean cosine of the hidden states before and after the MLP is added",
            **_TURN,
        ),
        Measure(
            "norm_growth",
            per_token=_norms,
            finish=_growth,
            long_name="mean norm of the hidden states that leave, over that of those that enter",
            lower_bound=0.0,
            logarithmic=True,
        ),
        Measure(
            "variance",
            per_token=_moments,
            finish=_variance,
            long_name="variance of the hidden states that leave, over tokens and channels",
            lower_bound=0.0,
            logarithmic=True,
            higher_matters=False,
        ),
        Measure(
            "output_spike",
            per_output=_largest,
            long_name="largest absolute value that a down-projection gives",
            lower_bound=0.0,
            logarithmic=True,
        ),
        Measure(
            "spectral_exponent",
            per_matrix=hill_exponent,
            long_name="exponent of the tail of the weights' spectrum, mean over matrices",
            lower_bound=1.0,
            higher_matters=False,
        ),
    )
}
"""The measures that go by name; what each is, and where it comes from, says `measure`."""


def parse(names: MeasureLike | Iterable[MeasureLike] | None) -> list[Measure]:
    """Look measures up by name; one of the user's own is taken as it is; None takes all.

    Raises
    ------
    OptionError
        If there is no measure of a name, or two have the same, or something else came.

    Examples
    --------
    >>> [each.name for each in parse("variance")]
    ['variance']
    """
    if names is None:
        return list(MEASURES.values())
    if isinstance(names, (str, Measure)):
        names = [names]
    if not isinstance(names, Iterable):
        raise OptionError(f"measures came as {describe(names)}; give names, or Measures.")
    made = [_one(each) for each in names]
    said = [each.name for each in made]
    if twice := [name for name in said if said.count(name) > 1]:
        raise OptionError(f"two measures have the name {twice[0]!r}; each needs one of its own.")
    return made


def _one(given: object) -> Measure:
    if isinstance(given, Measure):
        return given
    if not isinstance(given, str):
        raise OptionError(f"a measure came as {describe(given)}; give its name, or a Measure.")
    return MEASURES[choose(given, MEASURES, "measure")]
