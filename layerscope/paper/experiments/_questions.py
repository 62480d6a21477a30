"""Experiments 10 to 15: questions that are put to networks of all kinds."""

from __future__ import annotations

from typing import Any

from layerscope.paper.experiments._kinds import Experiment
from layerscope.paper.experiments._scales import (
    CIFAR,
    DIGITS,
    GRATINGS,
    STEPS,
    WHOLE,
    paper,
    small,
    smoke,
)

__all__ = ["QUESTIONS"]

_VGG: dict[str, Any] = CIFAR | STEPS | {"network": "vgg11", "augment": True}
_FCNS = ("fcn-3x256", "fcn-5x256")

QUESTIONS: tuple[Experiment, ...] = (
    Experiment(
        name="joint",
        title="Are layers that are robust one by one robust together?",
        shown_in="the section on joint robustness",
        notebook="10_joint.ipynb",
        networks=("fcn-5x256", "vgg11", "resnet50-nonorm"),
        scales={
            "smoke": smoke(DIGITS | {"network": "fcn-3x16", "augment": False}, seconds=15),
            "small": small("cifar10-jpeg", 30, expected="5 min after vgg-cifar10, else 30 min"),
            "paper": paper(_VGG, 20),
        },
    ),
    Experiment(
        name="freeze-remove",
        title="Does a network need the training of its robust layers, or the layers themselves?",
        shown_in="the section on what robust layers are for",
        notebook="11_freeze_remove.ipynb",
        networks=("fcn-5x256", "vgg11", "resnet50-nonorm"),
        scales={
            "smoke": smoke(DIGITS | {"network": "fcn-3x16", "augment": False}, seconds=15),
            "small": small("cifar10-jpeg", 50, expected="50 min after vgg-cifar10, else 75 min"),
            "paper": paper(_VGG, 15),
        },
    ),
    Experiment(
        name="capacity",
        title="Do wider and deeper networks have more robust layers?",
        shown_in="the section on capacity",
        notebook="12_capacity.ipynb",
        networks=("fcn-3x64", "fcn-3x256", "fcn-3x1024", "fcn-1x256", "fcn-5x256", "fcn-7x256"),
        scales={
            "smoke": smoke(DIGITS | {"widths": [8, 32], "depths": [2, 3], "width": 16, "depth": 2}),
            "small": small("mnist-5k", 20),
            "paper": paper({"dataset": "mnist", **WHOLE, "seeds": 5}, 15),
        },
    ),
    Experiment(
        name="task-difficulty",
        title="Do harder tasks leave more layers critical?",
        shown_in="the section on the difficulty of the task",
        notebook="13_task_difficulty.ipynb",
        networks=("fcn-3x256",),
        scales={
            "smoke": smoke(DIGITS | {"network": "fcn-2x16", "shares": [0.0, 0.5]}, seconds=15),
            "small": small("mnist-5k", 10),
            "paper": paper({"dataset": "mnist", **WHOLE, "seeds": 5}, 30),
        },
    ),
    Experiment(
        name="training-recipe",
        title="How does the recipe of training move the heat map?",
        shown_in="the section on training",
        notebook="14_training_recipe.ipynb",
        networks=("vgg11", "resnet18"),
        scales={
            "smoke": smoke(
                GRATINGS | {"networks": ["vgg11-w0.03125"], "recipes": ["plain", "BatchNorm"]}
            ),
            "small": small("cifar10-jpeg", 60),
            "paper": paper(
                CIFAR | STEPS | {"networks": ["vgg11", "resnet18-nonorm"], "lr": 0.02}, 150
            ),
        },
    ),
    Experiment(
        name="generalisation",
        title="What tells how well a network generalises: size, norms, or its critical layers?",
        shown_in="the section on generalisation",
        notebook="15_generalisation.ipynb",
        networks=(*_FCNS, "vgg11", "resnet18-nonorm"),
        scales={
            "smoke": smoke(
                DIGITS
                | {"networks": ["fcn-1x16", "fcn-2x16"], "shares": [0.0, 0.5]}
                | {"epochs": 2, "seeds": 1}
                | {"alphas": [0.5, 1.0], "sigmas": [0.01, 0.1], "within": 0.1}
            ),
            "small": small("mnist-5k", 30),
            "paper": paper(
                CIFAR | {"networks": [*_FCNS, "vgg11", "resnet18-nonorm"], "examples": 50_000},
                1100,
            ),
        },
    ),
)
