"""Module criticality beside a network of which it is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn

from layerscope import analyses


class _Exact:
    """A network of one layer and two classes, whose expected error under noise is known exactly.

    The difference of its logits is normal: of mean d = (w₁ − w₀)·x + b₁ − b₀ and of variance
    2σ²(‖x‖² + 1), so that an example of class ±1 is named wrongly with the probability
    Φ(∓d / (σ √(2‖x‖² + 2))).
    """

    def __init__(self, alphas):
        self.alphas = alphas
        chance = torch.Generator().manual_seed(3)
        self.inputs = torch.randn(400, 5, generator=chance)
        truth = self.inputs @ torch.randn(5, generator=chance)
        self.targets = (truth > 0).long()
        self.net = nn.Sequential(nn.Linear(5, 2))
        start = {"0.weight": torch.randn(2, 5, generator=chance), "0.bias": torch.zeros(2)}
        end = {"0.weight": torch.zeros(2, 5), "0.bias": torch.zeros(2)}
        end["0.weight"][1] = 3 * torch.linalg.lstsq(self.inputs, truth[:, None]).solution[:, 0]
        self.series = {0: start, 1: end}
        self.net.load_state_dict(end)

    def error(self, alpha, sigma):
        """Expected error, in double precision, with nothing of the package."""
        way = {
            k: (1 - alpha) * self.series[0][k] + alpha * self.series[1][k] for k in self.series[0]
        }
        weight, bias = (way[name].double().numpy() for name in ("0.weight", "0.bias"))
        x = self.inputs.double().numpy()
        apart = x @ (weight[1] - weight[0]) + bias[1] - bias[0]
        side = np.where(self.targets.numpy() == 1, 1, -1)
        return norm.cdf(-side * apart / (sigma * np.sqrt(2 * (x**2).sum(1) + 2))).mean()

    def criticality(self, epsilon):
        """Minimum over all σ: the largest that is allowed, by bisection, for every α."""
        first, last = (self.series[epoch]["0.weight"].double().numpy() for epoch in (0, 1))
        squared = ((last - first) ** 2).sum()
        found = []
        for alpha in self.alphas:
            if self.error(alpha, 1e-9) < epsilon < self.error(alpha, 1e9):
                sigma = brentq(lambda s, a=alpha: self.error(a, s) - epsilon, 1e-9, 1e9)
                found.append(alpha**2 * squared / sigma**2)
        return min(found)


def estimated(exact, sigmas, **options):
    usual = {"alphas": exact.alphas, "draws": 10, "most": 40, "within": 0.01, "epsilon": 0.1}
    return analyses.criticality_grid(
        exact.net,
        (exact.inputs, exact.targets),
        checkpoints=exact.series,
        sigmas=sigmas,
        device="cpu",
        show_progress=False,
        **(usual | options),
    )


def apart(exact, grid):
    """Differences from the closed form, in standard errors."""
    wanted = [[exact.error(a, s) for s in grid.sigma.values] for a in grid.alpha.values]
    return (grid.error[0] - np.array(wanted)) / np.maximum(grid.error_standard_error[0], 0.001)


def test_criticality_is_that_of_the_closed_form():
    exact, sigmas = _Exact((0.6, 0.8, 1.0)), (0.1, 0.3, 1.0, 3.0)
    grid = estimated(exact, sigmas, bisections=3)
    assert grid.sizes["sigma"] > len(sigmas)
    assert grid.attrs["reached"] == float(grid.error_standard_error.max())
    assert float(abs(apart(exact, grid)).max()) < 5
    # On the first grid σ goes up by 3, so that the minimum is up to 9 times too large.
    coarse = analyses.criticality(grid.sel(sigma=list(sigmas)), epsilon=0.1)
    true, fine = exact.criticality(0.1), analyses.criticality(grid, epsilon=0.1)
    assert not bool(fine.at_edge[0])
    assert float(fine.criticality[0]) < float(coarse.criticality[0])
    assert float(fine.criticality[0]) / true == pytest.approx(1, abs=0.4)
    assert float(fine.lower[0]) <= float(fine.criticality[0]) <= float(fine.upper[0])
    assert float(fine.network_upper) == float(fine.upper[0])


@pytest.mark.slow
def test_criticality_is_that_of_the_closed_form_to_a_hundredth():
    exact, sigmas = _Exact(np.linspace(0, 1, 11).tolist()), np.geomspace(0.03, 10, 11).tolist()
    grid = estimated(exact, sigmas, within=0.001, most=2000, draws=100, bisections=7)
    known = apart(exact, grid)
    assert float(abs(known).max()) < 5
    assert 0.7 < float(known.where(grid.error_standard_error[0] > 0.0005).std()) < 1.3
    found, true = analyses.criticality(grid, epsilon=0.1), exact.criticality(0.1)
    assert float(found.criticality[0]) == pytest.approx(true, rel=0.01 + 0.01)
    assert float(found.lower[0]) < true < float(found.upper[0])


def test_a_minimum_at_the_end_of_the_grid_is_a_bound():
    exact = _Exact((0.8, 1.0))
    found = analyses.criticality(estimated(exact, (0.03, 0.05)), epsilon=0.1)
    assert bool(found.at_edge[0])
    assert float(found.criticality[0]) > exact.criticality(0.1)
