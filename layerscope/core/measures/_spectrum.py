"""Spectra of weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["hill_exponent"]


def hill_exponent(matrix: Tensor) -> float:
    """Exponent of the power law that the upper half of a weight's spectrum follows.

    With the eigenvalues λ₁ ≤ … ≤ λₙ of WᵀW, of which n = min(rows, columns) can differ from zero,
    and k = ⌊n / 2⌋, it is Hill's estimator 1 + k / Σᵢ ln(λₙ₋ᵢ₊₁ / λₙ₋ₖ) over i = 1, …, k. The lower
    it is, the heavier the tail, which is taken for a sign of a layer that has learnt more.

    Parameters
    ----------
    matrix : Tensor
        Shape ``(rows, columns)``, in double precision.

    Returns
    -------
    float
        Above 1; NaN where fewer than half of the eigenvalues are above zero, or all are equal.

    References
    ----------
    Hill, B. M. (1975). A simple general approach to inference about the tail of a distribution.
    Martin, C. H., Peng, T., & Mahoney, M. W. (2021). Predicting trends in the quality of
    state-of-the-art neural networks without access to training or testing data.
    Lu, H., et al. (2024). AlphaPruning: using heavy-tailed self regularization theory for improved
    layer-wise pruning of large language models, equation 2, with k = n / 2.

    Examples
    --------
    >>> round(hill_exponent(torch.diag(torch.tensor([1.0, 2.0, 4.0, 8.0]).double())), 4)
    1.4809
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found = torch.linalg.eigvalsh(wide @ wide.T)
    n, k = len(found), len(found) // 2
    # Rounding leaves eigenvalues that are zero a little beside it.
    least = float(found[-1]) * n * torch.finfo(found.dtype).eps if n else 0.0
    if k == 0 or float(found[n - k - 1]) <= least:
        return math.nan
    total = float((found[n - k :] / found[n - k - 1]).log().sum())
    return 1 + k / total if total > 0 else math.nan
