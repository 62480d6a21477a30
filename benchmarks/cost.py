"""The cost of an experiment before it is run: arithmetic, memory, and time on a GPU.

    python benchmarks/cost.py NETWORK DATA --epochs N --cells N [--seeds N] [--gpu GPU] [NAME=SIZE]

The hints of scale ``paper`` in the notebooks come from it. ``NAME=SIZE`` is a field of the
network's configuration, such as ``classes=1000``; by default the form of MNIST's images and labels.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from layerscope.errors import choose
from layerscope.zoo import models
from layerscope.zoo.models._family import structure

EXAMPLES: Mapping[str, tuple[int, int]] = {
    "mnist-5k": (4_000, 1_000),
    "gratings": (2_000, 500),
    "mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar10-jpeg": (50_000, 10_000),
    "imagenet": (1_281_167, 50_000),
    # Sequences of 128 tokens; the benchmark has about 0.8 billion words, 1.2 tokens each.
    "lm1b": (7_200_000, 78_000),
}
"""Training and test examples of the data sets that the paper names."""


@dataclass(frozen=True)
class GPU:
    """A graphics processor.

    Parameters
    ----------
    name : str
    flops : float
        Floating-point operations a second, by the maker, in the precision of `precision`.
    precision : str
    used : float
        Share of it that convolutional networks are assumed to reach.
    """

    name: str
    flops: float
    precision: str
    used: float


GPUs: Mapping[str, GPU] = {
    "A100": GPU("NVIDIA A100", 156e12, "TF32", 0.3),
    "H100": GPU("NVIDIA H100 SXM", 494e12, "TF32", 0.2),
}


@dataclass(frozen=True)
class Cost:
    """An estimate, not a measurement.

    Attributes
    ----------
    parameters : int
    training_flops, sweep_flops : float
        Floating-point operations in all; a multiplication and an addition are two.
    memory : float
        Bytes that training needs: parameters, gradients, momentum and the activations of a batch.
    hours : float
        On `gpu`, at the share of its speed that is assumed.
    gpu : GPU
    """

    parameters: int
    training_flops: float
    sweep_flops: float
    memory: float
    hours: float
    gpu: GPU

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters, "
            f"{self.training_flops + self.sweep_flops:.1e} operations, "
            f"{self.memory / 2**30:.1f} GiB to train; estimated, not measured: "
            f"{self.hours:.2g} h on one {self.gpu.name} at {self.gpu.used:.0%} of its "
            f"{self.gpu.precision} speed"
        )


def cost(
    network: str | Mapping[str, Any],
    data: str,
    *,
    epochs: int,
    cells: int,
    seeds: int = 1,
    batch_size: int = 128,
    gpu: str = "A100",
    **options: Any,
) -> Cost:
    """Estimate what training a network and sweeping it costs.

    Parameters
    ----------
    network : str or mapping
        As `models.build` takes it; nothing is allocated for it.
    data : str
        One of `EXAMPLES`.
    epochs : int
    cells : int
        Evaluations of the sweep. Counted in full, although a sweep computes only what changes.
    seeds, batch_size : int
    gpu : str
        One of `GPUs`.
    **options
        Fields of the network's configuration, such as ``classes``.

    Notes
    -----
    A training step counts as three forward passes. Activations are what the outputs of all
    modules take, in single precision. What PyTorch's counter does not know, such as the inside of
    LSTM layers, counts as nothing; small networks take longer, since starting operations costs
    time of its own.

    Examples
    --------
    >>> found = cost("vgg11", "cifar10", epochs=100, cells=88)
    >>> round(found.training_flops / 1e15), round(found.hours, 1)
    (5, 0.0)
    """
    config = models.configure(network, **options)
    model = structure(models.FAMILIES[config.family], config)
    forward, activations = _one_pass(model, config)
    train, test = EXAMPLES[choose(data, EXAMPLES, "data set of known size")]
    chosen = GPUs[choose(gpu, GPUs, "GPU")]
    training = 3.0 * forward * train * epochs * seeds
    sweep = float(forward) * test * cells * seeds
    parameters = sum(parameter.numel() for parameter in model.parameters())
    memory = 4.0 * (3 * parameters + batch_size * activations)
    hours = (training + sweep) / (chosen.flops * chosen.used) / 3600
    return Cost(parameters, training, sweep, memory, hours, chosen)


def _one_pass(model: Any, config: Any) -> tuple[float, float]:
    """Operations and numbers of activations of one example, without values."""
    held = 0

    def count(_: Any, __: Any, out: Any) -> None:
        nonlocal held
        held += out.numel() if torch.is_tensor(out) else 0

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [module.register_forward_hook(count) for module in leaves]
    try:
        with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
            batch = config.example().to("meta")
            model.eval()(batch)
    finally:
        for handle in handles:
            handle.remove()
    return counter.get_total_flops() / len(batch), held / len(batch)


def main() -> None:
    """Print one estimate."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("network")
    parser.add_argument("data", choices=EXAMPLES)
    parser.add_argument("fields", nargs="*", metavar="NAME=SIZE")
    for name in ("epochs", "cells"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gpu", default="A100", choices=GPUs)
    options = vars(parser.parse_args())
    fields = dict(field.split("=", 1) for field in options.pop("fields"))
    sizes = {name: ast.literal_eval(size) for name, size in fields.items()}
    print(cost(options.pop("network"), options.pop("data"), **options, **sizes))


if __name__ == "__main__":
    main()
