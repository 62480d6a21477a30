"""The fifteen experiments of the paper and one aside, each at three scales.

Times of ``smoke`` and ``small`` are for two cores. Those of ``paper`` are estimates of
`experiments.cost` for one NVIDIA A100 at 30 % of its TF32 speed, for all seeds.
"""

from __future__ import annotations

from collections.abc import Mapping

from layerscope.paper.experiments._kinds import Experiment, Scale
from layerscope.paper.experiments._networks import NETWORKS
from layerscope.paper.experiments._questions import QUESTIONS
from layerscope.paper.experiments._scales import small, smoke

__all__ = ["EXPERIMENTS", "PAPER"]

_FIRST = (
    Experiment(
        name="fcn-mnist",
        title="Which layers of a fully connected network on MNIST matter?",
        shown_in="Figure 1",
        notebook="01_fcn_mnist.ipynb",
        networks=("fcn-3x256", "fcn-5x256"),
        scales={
            "smoke": smoke({"dataset": "mnist-5k", "epochs": 3, "seeds": 2}, seconds=15),
            "small": small("mnist-5k", 1, {"seeds": 3}),
            "paper": Scale({"dataset": "mnist", "seeds": 5}, "mnist", "3 min a seed", 15),
        },
    ),
)

_ASIDE = (
    Experiment(
        name="fcn-mnist-recipe",
        title="Which recipe comes closest to the paper's numbers?",
        shown_in="Figure 1",
        notebook="01b_fcn_mnist_recipe.ipynb",
        networks=("fcn-3x256",),
        scales={
            "smoke": smoke(
                {"dataset": "mnist-5k", "epochs": 2}
                | {"recipes": [[0.01, "lecun-truncated"], [0.05, "he-normal"]]},
                seconds=15,
            ),
            "small": small("mnist-5k", 2),
            "paper": Scale({"dataset": "mnist"}, "mnist", "3 min a recipe", 24),
        },
    ),
)

PAPER: tuple[str, ...] = tuple(each.name for each in (*_FIRST, *NETWORKS, *QUESTIONS))
"""Names of the paper's experiments, in its order."""

EXPERIMENTS: Mapping[str, Experiment] = {
    each.name: each for each in (*_FIRST, *_ASIDE, *NETWORKS, *QUESTIONS)
}
"""Every experiment by name."""
