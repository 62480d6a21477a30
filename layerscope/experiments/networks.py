"""Experiments 2 to 9: one probe on one kind of network after the other."""

from __future__ import annotations

from typing import Any

from layerscope.experiments.kinds import Experiment, Scale

__all__ = ["NETWORKS"]

_TINY: dict[str, Any] = {"dataset": "gratings", "size": 300, "test_size": 100, "epochs": 1}
_SMALL_BATCHES: dict[str, Any] = {"options": {"batch_size": 16}}
_TEXT: dict[str, Any] = {
    "dataset": "python-docs",
    "vocab": 300,
    "length": 16,
    "lines": 200,
    "test_size": 100,
    "epochs": 1,
    "seeds": 1,
    "draws": 1,
}
_ALL: dict[str, Any] = {"size": None, "test_size": None}

# What the paper's CIFAR-10 and ImageNet networks have in common.
_CIFAR_PAPER: dict[str, Any] = {
    "dataset": "cifar10",
    **_ALL,
    "epochs": 100,
    "seeds": 3,
    "augment": True,
    "record": [0, 1, 10, 100],
}
_IMAGENET_PAPER: dict[str, Any] = {
    "dataset": "imagenet",
    **_ALL,
    "epochs": 100,
    "seeds": 1,
    "augment": False,  # its pictures are cropped as they are read
    "record": [0, 1, 10, 100],
}

_LM_PAPER: dict[str, Any] = {
    "dataset": "lm1b",
    "vocab": 32_768,
    "length": 128,
    "lines": None,
    "test_size": None,
    "epochs": 1,
    "seeds": 3,
}

NETWORKS: tuple[Experiment, ...] = (
    Experiment(
        name="fcn-cifar10",
        title="Which layers of a fully connected network on CIFAR-10 matter?",
        shown_in="the section on fully connected networks",
        notebook="02_fcn_cifar10.ipynb",
        networks=("fcn-3x256", "fcn-5x256"),
        scales={
            "smoke": Scale(
                {"networks": ["fcn-2x16"], **_TINY, **_SMALL_BATCHES, "epochs": 2, "seeds": 2},
                "gratings",
                "15 s",
                0.25,
            ),
            "small": Scale({}, "cifar10-jpeg", "20 min", 20),
            "paper": Scale(
                {"dataset": "cifar10", **_ALL, "epochs": 100, "seeds": 5},
                "cifar10",
                "estimated: 10 min on one A100",
                10,
            ),
        },
    ),
    Experiment(
        name="vgg-cifar10",
        title="Which layers of a VGG on CIFAR-10 matter?",
        shown_in="the figure of VGG networks",
        notebook="03_vgg_cifar10.ipynb",
        networks=("vgg11", "vgg13", "vgg16", "vgg19", "vgg11-bn"),
        scales={
            "smoke": Scale(
                {"networks": ["vgg11-w0.03125"], **_TINY, "seeds": 1},
                "gratings",
                "15 s",
                0.25,
            ),
            "small": Scale({}, "cifar10-jpeg", "50 min", 50),
            "paper": Scale(
                {
                    **_CIFAR_PAPER,
                    "networks": [
                        *("vgg11", "vgg13", "vgg16", "vgg19"),
                        *("vgg11-bn", "vgg13-bn", "vgg16-bn", "vgg19-bn"),
                    ],
                },
                "cifar10",
                "estimated: 1.3 h on one A100",
                76,
            ),
        },
    ),
    Experiment(
        name="resnet-cifar10",
        title="Which blocks of a ResNet on CIFAR-10 matter?",
        shown_in="the figure of ResNets on CIFAR-10",
        notebook="04_resnet_cifar10.ipynb",
        networks=("resnet18-nonorm", "resnet50-nonorm", "resnet101-nonorm", "resnet152-nonorm"),
        scales={
            "smoke": Scale(
                {"networks": ["resnet18-nonorm-w0.0625"], **_TINY}
                | {"seeds": 1, "draws": 2, "lr": 0.01},
                "gratings",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "cifar10-jpeg", "55 min", 55),
            "paper": Scale(
                {
                    **_CIFAR_PAPER,
                    "networks": [f"resnet{depth}-nonorm" for depth in (18, 50, 101, 152)],
                },
                "cifar10",
                "estimated: 5 h on one A100",
                300,
            ),
        },
    ),
    Experiment(
        name="resnet-imagenet",
        title="Which blocks of a ResNet on ImageNet matter?",
        shown_in="the figure of ResNets on ImageNet",
        notebook="05_resnet_imagenet.ipynb",
        networks=("resnet18", "resnet50", "resnet101", "resnet152"),
        scales={
            "smoke": Scale(
                {"networks": ["resnet18-w0.0625"], **_TINY} | {"seeds": 1, "draws": 2},
                "gratings",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "cifar10-jpeg", "55 min", 55),
            "paper": Scale(
                {
                    **_IMAGENET_PAPER,
                    "networks": ["resnet18", "resnet50", "resnet101", "resnet152"],
                },
                "imagenet",
                "estimated: 5 days on one A100",
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
            "smoke": Scale(
                {"network": "transformer-16x2", **_TEXT},
                "python-docs",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "news", "55 min", 55),
            "paper": Scale(
                {"network": "transformer-512x6", **_LM_PAPER},
                "lm1b",
                "estimated: 13 h on one A100",
                760,
            ),
        },
    ),
    Experiment(
        name="lstm-lm",
        title="Which layers of an LSTM language model matter?",
        shown_in="the section on recurrent networks",
        notebook="07_lstm_lm.ipynb",
        networks=("lstm-512x2",),
        scales={
            "smoke": Scale(
                {"network": "lstm-16x2", **_TEXT},
                "python-docs",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "news", "45 min", 45),
            "paper": Scale(
                {"network": "lstm-512x2", **_LM_PAPER},
                "lm1b",
                "estimated: 3 h on one A100",
                170,
            ),
        },
    ),
    Experiment(
        name="vit",
        title="Which blocks and components of a Vision Transformer matter?",
        shown_in="the section on Vision Transformers",
        notebook="08_vit.ipynb",
        networks=("vit-768x12-p16",),
        scales={
            "smoke": Scale(
                {"network": "vit-16x2-p8", **_TINY, "seeds": 1, "draws": 1},
                "gratings",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "cifar10-jpeg", "55 min", 55),
            "paper": Scale(
                {**_IMAGENET_PAPER, "network": "vit-768x12-p16", "epochs": 300},
                "imagenet",
                "estimated: 10 days on one A100",
                15_000,
            ),
        },
    ),
    Experiment(
        name="mixer",
        title="Which blocks and components of an MLP-Mixer matter?",
        shown_in="the section on MLP-Mixers",
        notebook="09_mixer.ipynb",
        networks=("mixer-768x12-p16",),
        scales={
            "smoke": Scale(
                {"network": "mixer-16x2-p8", **_TINY, "seeds": 1} | {"draws": 1},
                "gratings",
                "20 s",
                0.3,
            ),
            "small": Scale({}, "cifar10-jpeg", "55 min", 55),
            "paper": Scale(
                {**_IMAGENET_PAPER, "network": "mixer-768x12-p16", "epochs": 300},
                "imagenet",
                "estimated: 8 days on one A100",
                11_000,
            ),
        },
    ),
)
