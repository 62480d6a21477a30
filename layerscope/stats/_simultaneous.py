"""Verdicts on many layers at once: how sure each must be so that all are right together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from layerscope.stats._arrays import Array

Bounds = tuple[Array, Array]

CORRECTIONS = ("holm", "bonferroni", "none")


def step_down(
    bounds: Callable[[float], Bounds],
    is_decided: Callable[[Array, Array], npt.NDArray[np.bool_]],
    family: npt.NDArray[np.bool_],
    confidence: float,
    correction: str,
) -> Bounds:
    """Bounds with which each member of a family is decided, or at the last is not.

    Parameters
    ----------
    bounds : callable
        Gives the bounds of all members at a confidence; the higher it is, the wider they are.
    is_decided : callable
        Marks the members that such bounds decide.
    family : ndarray of bool
        Members that are judged together; each other one is judged by itself.
    confidence : float
        That all of the family are judged rightly.
    correction : {"holm", "bonferroni", "none"}
        With "holm", m members are judged at ``1 − (1 − confidence) / m``; if k of them are decided,
        the rest are judged as m − k, and so on until none is decided any more. With "bonferroni" it
        ends after the first step.

    References
    ----------
    Holm, S. (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal
    of Statistics 6, 65–70.

    Guo, W. and Romano, J. P. (2015). On stepwise control of directional errors under independence
    and some dependence. Journal of Statistical Planning and Inference 163, 21–33. (That verdicts
    have a direction, too, is proved for members that are independent; ``benchmarks/coverage.py``
    counts it for layers that share runs and examples.)
    """
    lower, upper = (np.array(bound) for bound in bounds(confidence))
    rest = family.copy()
    while correction != "none" and rest.any():
        low, high = bounds(1 - (1 - confidence) / rest.sum())
        lower[rest], upper[rest] = low[rest], high[rest]
        decided = rest & is_decided(lower, upper)
        rest &= ~decided
        if correction == "bonferroni" or not decided.any():
            break
    return lower, upper
