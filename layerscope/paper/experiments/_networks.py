"""Experiments 2 to 9: one probe on one kind of network after the other."""

from __future__ import annotations

from typing import Any

from layerscope.paper.experiments._kinds import Experiment
from layerscope.paper.experiments._scales import CIFAR, GRATINGS, STEPS, WHOLE, paper, small, smoke

__all__ = ["NETWORKS"]

# Columns of the paper's figures of convolutional networks, beside the fresh random values.
_COLUMNS: dict[str, Any] = {"record": [0, 1, 10, 100]}
_IMAGENET: dict[str, Any] = {"dataset": "imagenet", **WHOLE, "epochs": 100, "seeds": 1} | _COLUMNS
_LM1B: dict[str, Any] = {
    "dataset": "lm1b",
    "vocab": 32_768,
    "length": 128,
    "lines": None,
    "test_size": None,
    "epochs": 1,
    "seeds": 3,
}
_FEW_LINES: dict[str, Any] = {
    "dataset": "python-docs",
    "vocab": 300,
    "length": 16,
    "lines": 200,
    "test_size": 100,
    "epochs": 1,
    "seeds": 1,
    "draws": 1,
}

_RESNETS = (18, 50, 101, 152)
_VGGS = (11, 13, 16, 19)

NETWORKS: tuple[Experiment, ...] = (
    Experiment(
        name="fcn-cifar10",
        title="Which layers of a fully connected network on CIFAR-10 matter?",
        shown_in="the section on fully connected networks",
        notebook="02_fcn_cifar10.ipynb",
        networks=("fcn-3x256", "fcn-5x256"),
        scales={
            "smoke": smoke(
                GRATINGS
                | {"networks": ["fcn-2x16"], "options": {"batch_size": 16}}
                | {"epochs": 2, "seeds": 2},
                seconds=15,
            ),
            "small": small("cifar10-jpeg", 20),
            "paper": paper(CIFAR | {"seeds": 5}, 10),
        },
    ),
    Experiment(
        name="vgg-cifar10",
        title="Which layers of a VGG on CIFAR-10 matter?",
        shown_in="the figure of VGG networks",
        notebook="03_vgg_cifar10.ipynb",
        networks=("vgg11", "vgg13", "vgg16", "vgg19", "vgg11-bn"),
        scales={
            "smoke": smoke(
                GRATINGS | {"networks": ["vgg11-w0.03125", "vgg11-bn-w0.03125"], "draws": 1}
            ),
            "small": small("cifar10-jpeg", 50),
            "paper": paper(
                CIFAR
                | _COLUMNS
                | STEPS
                | {"networks": [f"vgg{depth}{norm}" for norm in ("", "-bn") for depth in _VGGS]}
                | {"augment": True},
                76,
            ),
        },
    ),
    Experiment(
        name="resnet-cifar10",
        title="Which blocks of a ResNet on CIFAR-10 matter?",
        shown_in="the figure of ResNets on CIFAR-10",
        notebook="04_resnet_cifar10.ipynb",
        networks=tuple(f"resnet{depth}-nonorm" for depth in _RESNETS),
        scales={
            "smoke": smoke(
                GRATINGS | {"networks": ["resnet18-nonorm-w0.0625"], "draws": 2, "lr": 0.01}
            ),
            "small": small("cifar10-jpeg", 55),
            "paper": paper(
                CIFAR
                | _COLUMNS
                | STEPS
                | {"networks": [f"resnet{depth}-nonorm" for depth in _RESNETS]}
                | {"lr": 0.02, "augment": True},
                300,
            ),
        },
    ),
    Experiment(
        name="resnet-imagenet",
        title="Which blocks of a ResNet on ImageNet matter?",
        shown_in="the figure of ResNets on ImageNet",
        notebook="05_resnet_imagenet.ipynb",
        networks=tuple(f"resnet{depth}" for depth in _RESNETS),
        scales={
            "smoke": smoke(GRATINGS | {"networks": ["resnet18-w0.0625"], "draws": 2}),
            "small": small("cifar10-jpeg", 55),
            "paper": paper(
                _IMAGENET
                | {"networks": [f"resnet{depth}" for depth in _RESNETS]}
                | {"lr": 0.05, "options": {}, "augment": True},
                7100,
            ),
        },
    ),
    Experiment(
        name="transformer-lm",
        title="Which blocks and components of a Transformer language model matter?",
        shown_in="the section on Transformers",
        notebook="06_transformer_lm.ipynb",
        networks=("transformer-512x6",),
        scales={
            "smoke": smoke(_FEW_LINES | {"network": "transformer-16x2"}),
            "small": small("news", 55),
            "paper": paper(_LM1B | {"network": "transformer-512x6"}, 760),
        },
    ),
    Experiment(
        name="lstm-lm",
        title="Which layers of an LSTM language model matter?",
        shown_in="the section on recurrent networks",
        notebook="07_lstm_lm.ipynb",
        networks=("lstm-512x2",),
        scales={
            "smoke": smoke(_FEW_LINES | {"network": "lstm-16x2"}),
            "small": small("news", 45),
            "paper": paper(_LM1B | {"network": "lstm-512x2"}, 170),
        },
    ),
    Experiment(
        name="vit",
        title="Which blocks and components of a Vision Transformer matter?",
        shown_in="the section on Vision Transformers",
        notebook="08_vit.ipynb",
        networks=("vit-768x12-p16",),
        scales={
            "smoke": smoke(GRATINGS | {"network": "vit-16x2-p8", "draws": 1}),
            "small": small("cifar10-jpeg", 55),
            "paper": paper(_IMAGENET | {"network": "vit-768x12-p16", "epochs": 300}, 15_000),
        },
    ),
    Experiment(
        name="mixer",
        title="Which blocks and components of an MLP-Mixer matter?",
        shown_in="the section on MLP-Mixers",
        notebook="09_mixer.ipynb",
        networks=("mixer-768x12-p16",),
        scales={
            "smoke": smoke(GRATINGS | {"network": "mixer-16x2-p8", "draws": 1}),
            "small": small("cifar10-jpeg", 55),
            "paper": paper(_IMAGENET | {"network": "mixer-768x12-p16", "epochs": 300}, 11_000),
        },
    ),
)
