"""Capital won by betting against claims about means; why it counts stands in the package."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from layerscope.core.stopping._rules import BOLDEST, Rule

__all__ = ["Bets", "Flags", "Floats", "Indices", "Outcomes"]

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]

_PIECE = 2**15
"""Claims × outcomes played at once, so that their arrays stay in the processor's cache."""


class Outcomes(NamedTuple):
    """Outcomes of some examples.

    Attributes
    ----------
    sums : array, shape ``(cells, n)``
        Of each example's values.
    weights : array, shape ``(cells, n)``
        How many values each example has.
    """

    sums: Floats
    weights: Floats


@dataclass
class Bets:
    """Bets against claims: "the mean is at most `mean`" where `sign` is 1, "at least" where −1.

    Parameters
    ----------
    rule : Decision or Tolerance
    population : int
    heaviest : float
        The most that one example can weigh.
    cell, sign : arrays of int, shape ``(claims,)``
    mean : array, shape ``(claims,)``
    needed : array, shape ``(claims,)``
        Capital at which a claim is rejected.

    Attributes
    ----------
    capital : array, shape ``(stakes, claims)``
    """

    rule: Rule
    population: int
    heaviest: float
    cell: Indices
    sign: Indices
    mean: Floats
    needed: Floats
    capital: Floats = field(init=False)

    def __post_init__(self) -> None:
        stakes = len(self.rule.stakes)
        self.capital = np.full((stakes, len(self.cell)), 1 / stakes)

    def keep(self, claims: Flags) -> None:
        """Drop all other claims."""
        for name in ("cell", "sign", "mean", "needed"):
            setattr(self, name, getattr(self, name)[claims])
        self.capital = self.capital[:, claims]

    def play(
        self, outcomes: Outcomes, sums: Floats, weighed: Floats, left: Indices, playing: Flags
    ) -> tuple[Indices, Indices]:
        """Bet on some more outcomes.

        Parameters
        ----------
        outcomes : Outcomes
            Of n examples.
        sums, weighed : array, shape ``(cells, n + 1)``
            Of all outcomes, and of all weights, before each of these, and after the last.
        left : array, shape ``(cells,)``
            How many outcomes had not been seen before these.
        playing : array of bool, shape ``(cells,)``
            For which cells these are outcomes.

        Returns
        -------
        fallen, at : arrays, shape ``(f,)``
            Indices of the claims that are rejected, and the index of the outcome that did it.
        """
        claims = np.flatnonzero(playing[self.cell])
        size = outcomes.sums.shape[1]
        pieces = np.array_split(claims, max(1, math.ceil(len(claims) * size / _PIECE)))
        found = [self._fallen(piece, outcomes, sums, weighed, left) for piece in pieces]
        return np.concatenate([f for f, _ in found]), np.concatenate([at for _, at in found])

    def _fallen(
        self, claims: Indices, outcomes: Outcomes, sums: Floats, weighed: Floats, left: Indices
    ) -> tuple[Indices, Indices]:
        """Play some of the claims."""
        cell, sign, mean = self.cell[claims], self.sign[claims, None], self.mean[claims, None]
        low, high = self.rule.bounds
        bound = np.where(sign > 0, low, high)
        # The most weight that is still to come.
        togo = self.heaviest * (left[cell, None] - np.arange(outcomes.sums.shape[1] + 1))
        # What is still to come, in sum, if the claim is just true; counted from the bound, so that
        # it is 0 where all the rest must lie there, and below 0 where the claim is impossible.
        room = sign * (mean * (weighed[cell] + togo) - sums[cell] - bound * togo)
        slack = 1e-9 * self.population * self.heaviest  # sums of fractions are not exact
        impossible = room[:, 1:] < -slack
        room = np.maximum(room[:, :-1], slack) / togo[:, :-1]
        gain = sign * self._over(outcomes, cell, mean, bound) - room
        capital = self._capital(claims, gain, BOLDEST / room)
        rejected = impossible | (capital >= self.needed[claims, None])
        fell = rejected.any(axis=1)
        return claims[fell], rejected[fell].argmax(axis=1)

    def _over(self, outcomes: Outcomes, cell: Indices, mean: Floats, bound: Floats) -> Floats:
        """How far each ``y − m·w`` lies from its bound, for an example of the largest weight."""
        heavy = self.heaviest
        over = outcomes.sums[cell] - bound * heavy
        if (outcomes.weights == heavy).all():
            return over / heavy
        return (over + mean * (heavy - outcomes.weights[cell])) / heavy

    def _capital(self, claims: Indices, gain: Floats, most: Floats) -> Floats:
        """Capital after each outcome, shape ``(claims, n)``, for what 1 wins and may be staked."""
        total = np.zeros_like(gain)
        # What is infinite is more than enough, and never multiplied by 0.
        with np.errstate(over="ignore"):
            for stake, purse in zip(self.rule.stakes, self.capital, strict=True):
                factor = np.minimum(stake, most) * gain + 1
                factor[:, 0] *= purse[claims]
                # One after another, so that it makes no difference where batches end.
                path = np.multiply.accumulate(factor, axis=1)
                purse[claims] = path[:, -1]
                total += path
        return total
