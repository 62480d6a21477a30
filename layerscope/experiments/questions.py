"""Experiments 10 to 15: questions that are put to networks of all kinds."""

from __future__ import annotations

from typing import Any

from layerscope.experiments.kinds import Experiment, Scale

__all__ = ["QUESTIONS"]

_TINY: dict[str, Any] = {"dataset": "gratings", "size": 300, "test_size": 100, "epochs": 1}
_DIGITS: dict[str, Any] = {
    "dataset": "mnist-5k",
    "size": 500,
    "test_size": 200,
    # Few images: small batches, so that there are steps enough to learn something.
    "options": {"batch_size": 16},
}
_ALL: dict[str, Any] = {"size": None, "test_size": None}
_VGG_PAPER: dict[str, Any] = {
    "network": "vgg11",
    "dataset": "cifar10",
    **_ALL,
    "epochs": 100,
    "seeds": 3,
    "augment": True,
}

QUESTIONS: tuple[Experiment, ...] = (
    Experiment(
        name="joint",
        title="Are layers that are robust one by one robust together?",
        shown_in="the section on joint robustness",
        notebook="10_joint.ipynb",
        networks=("fcn-5x256", "vgg11", "resnet50-nonorm"),
        scales={
            "smoke": Scale(
                {"network": "fcn-3x16", **_DIGITS, "epochs": 3, "seeds": 2},
                "mnist-5k",
                "15 s",
                0.25,
            ),
            "small": Scale({}, "cifar10-jpeg", "5 min after vgg-cifar10, else 30 min", 30),
            "paper": Scale(
                _VGG_PAPER,
                "cifar10",
                "estimated: 20 min on one A100",
                20,
            ),
        },
    ),
    Experiment(
        name="freeze-remove",
        title="Does a network need the training of its robust layers, or the layers themselves?",
        shown_in="the section on what robust layers are for",
        notebook="11_freeze_remove.ipynb",
        networks=("fcn-5x256", "vgg11", "resnet50-nonorm"),
        scales={
            "smoke": Scale(
                {"network": "fcn-3x16", **_DIGITS, "epochs": 3, "seeds": 2},
                "mnist-5k",
                "15 s",
                0.25,
            ),
            "small": Scale({}, "cifar10-jpeg", "50 min after vgg-cifar10, else 75 min", 50),
            "paper": Scale(
                _VGG_PAPER,
                "cifar10",
                "estimated: 15 min on one A100",
                15,
            ),
        },
    ),
    Experiment(
        name="capacity",
        title="Do wider and deeper networks have more robust layers?",
        shown_in="the section on capacity",
        notebook="12_capacity.ipynb",
        networks=("fcn-3x64", "fcn-3x256", "fcn-3x1024", "fcn-1x256", "fcn-5x256", "fcn-7x256"),
        scales={
            "smoke": Scale(
                {"widths": [8, 32], "depths": [2, 3], "width": 16, "depth": 2}
                | {**_DIGITS, "epochs": 3, "seeds": 2},
                "mnist-5k",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "mnist-5k", "20 min", 20),
            "paper": Scale(
                {"dataset": "mnist", **_ALL, "seeds": 5},
                "mnist",
                "estimated: 15 min on one A100",
                15,
            ),
        },
    ),
    Experiment(
        name="task-difficulty",
        title="Do harder tasks leave more layers critical?",
        shown_in="the section on the difficulty of the task",
        notebook="13_task_difficulty.ipynb",
        networks=("fcn-3x256",),
        scales={
            "smoke": Scale(
                {"network": "fcn-2x16", **_DIGITS, "shares": [0.0, 0.5]}
                | {"epochs": 3, "seeds": 2},
                "mnist-5k",
                "15 s",
                0.25,
            ),
            "small": Scale({}, "mnist-5k", "10 min", 10),
            "paper": Scale(
                {"dataset": "mnist", **_ALL, "seeds": 5},
                "mnist",
                "estimated: 30 min on one A100",
                30,
            ),
        },
    ),
    Experiment(
        name="training-recipe",
        title="How does the recipe of training move the heat map?",
        shown_in="the section on training",
        notebook="14_training_recipe.ipynb",
        networks=("vgg11", "resnet18"),
        scales={
            "smoke": Scale(
                {"networks": ["vgg11-w0.03125"], **_TINY, "seeds": 1}
                | {"recipes": ["plain", "BatchNorm"]},
                "gratings",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "cifar10-jpeg", "60 min", 60),
            "paper": Scale(
                {"networks": ["vgg11", "resnet18-nonorm"], "dataset": "cifar10", **_ALL}
                | {"epochs": 100, "seeds": 3},
                "cifar10",
                "estimated: 2.5 h on one A100",
                150,
            ),
        },
    ),
    Experiment(
        name="generalisation",
        title="What tells how well a network generalises: size, norms, or its critical layers?",
        shown_in="the section on generalisation",
        notebook="15_generalisation.ipynb",
        networks=("fcn-3x256", "fcn-5x256", "vgg11", "resnet18-nonorm"),
        scales={
            "smoke": Scale(
                {"networks": ["fcn-1x16", "fcn-2x16"], "shares": [0.0, 0.5], "seeds": 1}
                | {**_DIGITS, "epochs": 2, "alphas": [0.5, 1.0], "sigmas": [0.01, 0.1]}
                | {"within": 0.1},
                "mnist-5k",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "mnist-5k", "30 min", 30),
            "paper": Scale(
                {"networks": ["fcn-3x256", "fcn-5x256", "vgg11", "resnet18-nonorm"]}
                | {"dataset": "cifar10", **_ALL, "seeds": 3, "examples": 50_000},
                "cifar10",
                "estimated: 18 h on one A100",
                1100,
            ),
        },
    ),
)
