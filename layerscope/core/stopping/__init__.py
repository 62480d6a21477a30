"""When a cell is settled: looking after every batch, at a confidence that holds for all looks.

A sweep sees the examples of a finite data set in random order. Whoever looks at an ordinary 99 %
interval after every batch, and stops when it says what he hopes for, is wrong far more often than
in 1 % of cases. Here a cell stops early and is still wrong in at most 1 − confidence of cases,
however many looks are taken.

>>> import numpy as np
>>> settler = Settler(Decision(robust=0.02), cells=2, population=10_000)
>>> settler.add(np.stack([np.zeros(500), np.ones(500)]))
>>> settler.verdicts
array(['robust', 'critical'], dtype='<U12')

Notes
-----
What is watched is the mean μ over the whole data set of N examples, the "population", which come in
random order, without replacement. Example i has w_i values (the targets that count, one for a
classifier) with the sum y_i, so that ``μ = Σ y_i / Σ w_i``. Each value lies in [lo, hi], and no
example has more of them than ``w_max``, which is known beforehand; Σ w_i need not be.

To test the claim that μ is at most m, one bets against it. With ``z_i = y_i − m·w_i`` the claim
says ``Σ z_i = (μ − m) Σ w_i ≤ 0``: it is one about a plain mean over examples, however the weights
vary. So the mean of the N − t + 1 unseen examples before the t-th would be at most
``c_t = −Z / (N − t + 1)``, with Z the sum of the z seen, and none is below ``(lo − m)·w_max``. The
capital

    K_t = Π_{s ≤ t} (1 + λ_s (z_s − c_s)),   0 ≤ λ_s < 1 / (c_s − (lo − m)·w_max),

starts at 1, can't fall below 0 and does not grow on average as long as the claim is true, whatever
λ_s is, if only it is chosen before example s is seen. By Ville's inequality it then ever reaches
1/α with a probability of at most α, at any time: when it does, the claim is rejected. The claim "at
least m" is tested on −z. The capital is split evenly over a few fixed λ·w_max, so nothing is tuned.

The capital falls with m for every sequence of outcomes: whoever rejects "at most 0.05" has rejected
"at most 0.02" before. For a fixed λ that is plain, as ``z_s − c_s`` falls with m. Where λ is a
share κ of the largest possible, the factor is ``1 − κ + κ (A + (m − lo) B) / (C + (m − lo) D)``
with ``A = y_s − lo·w_s``, ``B = w_max − w_s``, ``D = w_max + W / (N − s + 1)``, W the weight seen,
all at least 0, and ``C = −(Y − lo·W) / (N − s + 1) ≤ 0``, Y the sum seen; its slope has the sign of
``BC − AD ≤ 0``. So all the claims of one direction that are true stand or fall with the tightest of
them, which is why no correction for the number of claims is needed.

The mean over the examples that a stopped cell has seen is not free of bias: a cell stops when its
mean happens to be clear. Only the verdict and the bounds hold at any time.

References
----------
I. Waudby-Smith and A. Ramdas, "Estimating means of bounded random variables by betting", Journal of
the Royal Statistical Society B 86, 2024; and "Confidence sequences for sampling without
replacement", NeurIPS 2020: there for means. That a claim about a ratio becomes one about the mean
of y − m·w is E. C. Fieller's step, "Some problems in interval estimation", Journal of the Royal
Statistical Society B 16, 1954.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from layerscope.core.stopping._readers import Intervals, Reader, Verdicts
from layerscope.core.stopping._rules import Decision, Rule, Tolerance
from layerscope.errors import OptionError

__all__ = ["Decision", "Settler", "Tolerance"]

_BLOCK = 64
"""Cells that are watched together: a tolerance starts with many claims about each."""


class Settler:
    """Which cells are settled, after every batch.

    What it says depends on the outcomes alone and not on how they are cut into batches: a cell's
    verdict is the one that was reached first, and the bounds of a cell that is open are the same
    to the last bit. Only where the last example of the population is among those added does the
    exact mean speak instead. Adding the same batches again, in order, gives the same state.

    Parameters
    ----------
    rule : Decision or Tolerance
    cells : int
        How many are watched.
    population : int
        Examples in the whole data set.
    heaviest : float
        The most that one example of the whole data set can weigh, such as the length of the
        longest sequence. Known beforehand, not from the examples that were seen. The closer, the
        sooner a cell is settled.

    Raises
    ------
    OptionError
        If `cells` or `population` is below 1, `heaviest` is not above 0, or `rule` is none.

    Examples
    --------
    >>> import numpy as np
    >>> settler = Settler(Tolerance(0.05), cells=1, population=10_000)
    >>> wrong = np.random.default_rng(0).random((1, 10_000)) < 0.1
    >>> while not settler.settled.all():
    ...     settler.add(wrong[:, settler.counts[0] :][:, :100])
    >>> bool(settler.lower[0] < wrong.mean() < settler.upper[0]), int(settler.counts[0])
    (True, 500)
    """

    def __init__(self, rule: Rule, cells: int, population: int, heaviest: float = 1.0) -> None:
        if not isinstance(rule, (Decision, Tolerance)):
            raise OptionError(f"rule is {rule!r}; give a Decision or a Tolerance.")
        for name, value in (("cells", cells), ("population", population)):
            if value < 1:
                raise OptionError(f"{name} is {value!r}; it must be at least 1.")
        if not 0 < heaviest < np.inf:
            raise OptionError(f"heaviest is {heaviest!r}; some example must have a weight above 0.")
        self.rule = rule
        self._cells, self._population, self._heaviest = cells, population, float(heaviest)
        self._readers: list[Reader] = []
        for start in range(0, cells, _BLOCK):
            size = min(_BLOCK, cells - start)
            self._readers.append(
                Verdicts(rule, size, population, self._heaviest)
                if isinstance(rule, Decision)
                else Intervals(rule, size, population, self._heaviest)
            )

    @property
    def settled(self) -> NDArray[np.bool_]:
        """Which cells need no more examples, shape ``(cells,)``."""
        return np.asarray(self.verdicts != "", dtype=np.bool_)

    @property
    def verdicts(self) -> NDArray[np.str_]:
        """Verdicts, shape ``(cells,)``; empty for a cell that is open.

        "robust", "intermediate" or "critical" by a Decision, "narrow" by a Tolerance.
        """
        return np.concatenate([reader.verdicts for reader in self._readers])

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many outcomes of each cell were added before it was settled, shape ``(cells,)``."""
        return np.concatenate([reader.counts for reader in self._readers])

    @property
    def lower(self) -> NDArray[np.float64]:
        """Lower bounds of the means, shape ``(cells,)``.

        They never fall, except to the exact mean, in the rare case that it was excluded.

        Raises
        ------
        OptionError
            If the rule is a Decision, for which there are none.
        """
        return np.concatenate([reader.lower for reader in self._intervals()])

    @property
    def upper(self) -> NDArray[np.float64]:
        """Upper bounds of the means, shape ``(cells,)``; as `lower`.

        Raises
        ------
        OptionError
            If the rule is a Decision, for which there are none.
        """
        return np.concatenate([reader.upper for reader in self._intervals()])

    def add(
        self,
        outcomes: ArrayLike,
        active: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> None:
        """Take in the next batch.

        Parameters
        ----------
        outcomes : array, shape ``(cells, n)``
            One number per cell and example: the sum of its values, each of which lies within
            ``rule.bounds``. Rows of cells that are settled or not active are not looked at.
        active : array of bool, shape ``(cells,)``, optional
            Which cells the batch was evaluated for; all that are not settled by default. To a cell
            that is left out these examples are still to come.
        weights : array, shape ``(n,)`` or ``(cells, n)``, optional
            How many values each example has, 0 for one that does not count; 1 by default.

        Raises
        ------
        OptionError
            If the shape is wrong, a weight or an outcome is out of bounds or NaN, or more outcomes
            came than there are examples. Nothing is taken in then.
        """
        values, playing = self._checked(outcomes, active)
        heavy = self._weights(weights, values.shape, playing)
        self._bounded(values, heavy, playing)
        for start, reader in zip(range(0, self._cells, _BLOCK), self._readers, strict=True):
            block = slice(start, start + _BLOCK)
            if values.shape[1] and playing[block].any():
                reader.add(values[block], heavy[block], playing[block])

    def _checked(self, outcomes: ArrayLike, active: ArrayLike | None) -> tuple[Any, Any]:
        """The outcomes as they are, and which cells to go on with."""
        values, cells = np.asarray(outcomes, float), self._cells
        if values.ndim != 2 or len(values) != cells:
            raise OptionError(
                f"outcomes have the shape {values.shape}; expected (cells, n) with {cells} cells."
            )
        wanted = np.ones(cells, bool) if active is None else np.asarray(active)
        if wanted.shape != (cells,) or wanted.dtype != bool:
            raise OptionError(
                f"active has the shape {wanted.shape} and holds {wanted.dtype}; expected one bool "
                f"for each of {cells} cells."
            )
        playing = wanted & ~self.settled
        most = self.counts[playing].max(initial=0) + values.shape[1]
        if playing.any() and most > self._population:
            raise OptionError(
                f"{most} outcomes came for a cell, but there are {self._population} examples; give "
                "each example once."
            )
        return values, playing

    def _weights(self, weights: ArrayLike | None, shape: tuple[int, int], playing: Any) -> Any:
        """One weight for each outcome, none beyond the heaviest."""
        each = np.asarray(1.0 if weights is None else weights, float)
        if weights is not None and each.shape not in (shape, shape[1:]):
            raise OptionError(
                f"weights have the shape {each.shape}; expected {shape[1:]} or {shape}, one for "
                "each outcome."
            )
        full = np.broadcast_to(each, shape)
        fits = (full >= 0) & (full <= self._heaviest)
        for row, column in np.argwhere(playing[:, None] & ~fits)[:1]:
            raise OptionError(
                f"outcome {column} of cell {row} weighs {full[row, column]:g}; expected a weight "
                f"in [0, {self._heaviest:g}], the heaviest that was announced."
            )
        return full

    def _bounded(self, values: Any, weights: Any, playing: Any) -> None:
        """Refuse an outcome that can't be the sum of so many values within the bounds."""
        low, high = self.rule.bounds
        inside = (low * weights <= values) & (values <= high * weights)
        for row, column in np.argwhere(playing[:, None] & ~inside)[:1]:
            count = weights[row, column]
            many = "" if count == 1 else f" for the sum of {count:g} values"
            raise OptionError(
                f"outcome {column} of cell {row} is {values[row, column]}{many}; expected numbers "
                f"in [{low:g}, {high:g}]. Metrics without bounds, such as loss, can't be settled."
            )

    def _intervals(self) -> Iterator[Intervals]:
        for reader in self._readers:
            if not isinstance(reader, Intervals):
                raise OptionError("a Decision has no intervals; a Tolerance has.")
            yield reader
