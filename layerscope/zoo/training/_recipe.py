"""How a network is trained, as plain values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from layerscope.base import devices, validate
from layerscope.errors import OptionError, choose

__all__ = ["OPTIMIZERS", "SCHEDULES", "Recipe", "convolves"]

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("steps", "cosine", "constant")
_AUTOCAST = ("auto", "float32", "bfloat16")

# What every manifest says of a recipe; the rest is said where it differs from the default, so that
# series recorded before there was a choice keep the names of their folders.
_ALWAYS = ("epochs", "lr", "batch_size", "momentum", "weight_decay", "drops", "decay")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; by default stochastic gradient descent with momentum.

    Parameters
    ----------
    epochs : int
        Passes over the training set.
    lr : float
        Initial learning rate, or the highest one after a warm-up.
    batch_size : int
        Examples in a batch; a stream of batches keeps its own.
    momentum : float
        Of ``"sgd"``.
    weight_decay : float
        Times the parameter, added to its gradient; for ``"adamw"`` taken off the parameter itself
        (Loshchilov and Hutter, 2019), and not for parameters with fewer than two dimensions.
    drops : tuple of float
        For the schedule ``"steps"``: at these fractions of the epochs, rounded up to whole ones,
        the learning rate is multiplied by `decay`.
    decay : float
    optimizer : str
        ``"sgd"``, ``"adam"`` or ``"adamw"``.
    nesterov : bool
        Nesterov's momentum, for ``"sgd"``.
    betas : tuple of float
        Of ``"adam"`` and ``"adamw"``.
    schedule : str
        ``"steps"``, ``"cosine"`` (half a cosine from `lr` to 0, step by step) or ``"constant"``.
    warmup : float
        Epochs in which the learning rate first rises linearly, step by step.
    label_smoothing : float
        Share of the target that is spread evenly over the classes, in [0, 1).
    clip : float, optional
        Gradients with a larger norm, over all parameters together, are scaled down to it.
    autocast : str
        ``"float32"``, or ``"bfloat16"`` for the matrix products and convolutions of the training
        passes; networks with 2-d convolutions are then laid out channels last. Parameters,
        checkpoints and scores stay in single precision. ``"auto"`` is ``"bfloat16"`` where that
        helps: for networks with 2-d convolutions and those of the Transformer's kind (with
        LayerNorm or RMSNorm), on devices that multiply such numbers natively; a series' manifest
        says which it was.
    frozen : tuple of str
        Names or patterns of layers, as in a sweep, that stay at their initial values: no gradient,
        no place in the optimiser, and running statistics (BatchNorm) neither used up nor updated:
        the layer normalises by its initial ones.
    order_seed : int, optional
        Of all chance but the initial weights: the order of the data, augmentation, dropout. By
        default it is the seed of the training, from which the initial weights are drawn, so that
        both change together.

    Notes
    -----
    The defaults are those of Zhang, Bengio and Singer (JMLR 2022) but for `lr`, which they do
    not state.

    Examples
    --------
    >>> Recipe(epochs=10, lr=1.0, schedule="cosine").lr_at(6)
    0.5
    """

    epochs: int = 100
    lr: float = 0.01
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 0.0
    drops: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay: float = 0.2
    optimizer: str = "sgd"
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: str = "steps"
    warmup: float = 0.0
    label_smoothing: float = 0.0
    clip: float | None = None
    autocast: str = "auto"
    frozen: tuple[str, ...] = ()
    order_seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            validate.integer(getattr(self, name), name, 1, 100)
        for name in ("momentum", "weight_decay", "warmup", "decay"):
            validate.number(getattr(self, name), name, "[0, inf)", 0.1)
        validate.number(self.label_smoothing, "label_smoothing", "[0, 1)", 0.1)
        validate.number(self.lr, "lr", "(0, inf)", 0.01)
        if self.order_seed is not None:
            validate.integer(self.order_seed, "order_seed")
        if self.clip is not None:
            validate.number(self.clip, "clip", "(0, inf)", 1.0)
        for name in ("drops", "betas", "frozen"):
            if not isinstance(getattr(self, name), (tuple, list)):
                came = validate.describe(getattr(self, name))
                raise OptionError(f"{name} is {came}; give a tuple: ({came},).")
        for drop in self.drops:
            validate.number(drop, "one of drops", "[0, inf)", 0.3)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise OptionError(f"betas is {self.betas}; give two numbers, each in [0, 1).")
        validate.flag(self.nesterov, "nesterov")
        choose(self.optimizer, OPTIMIZERS, "optimizer")
        choose(self.schedule, SCHEDULES, "schedule")
        choose(self.autocast, _AUTOCAST, "autocast type")
        if self.warmup >= self.epochs:
            raise OptionError(
                f"warmup is {self.warmup:g} of {self.epochs} epochs; it must be shorter than the "
                "training."
            )
        if self.nesterov and not (self.optimizer == "sgd" and self.momentum > 0):
            raise OptionError("nesterov is for optimizer='sgd' with a momentum above 0.")

    def lr_at(self, epoch: int, step: int = 0, steps: int = 1) -> float:
        """Learning rate in `step`, counted from 0, of the `steps` of `epoch`, counted from 1."""
        done = epoch - 1 + step / steps
        rate = self.lr
        if self.schedule == "steps":
            rate *= self.decay ** sum(epoch - 1 >= self.epochs * drop for drop in self.drops)
        elif self.schedule == "cosine":
            part = max(done - self.warmup, 0) / (self.epochs - self.warmup)
            rate *= (1 + math.cos(math.pi * part)) / 2
        # The first step is not lost to a rate of 0: the ramp is what is reached at a step's end.
        rising = (done + 1 / steps) / self.warmup if self.warmup else 1.0
        return rate * rising if rising < 1 else rate

    def make(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the optimiser of `parameters`."""
        chosen = list(parameters)
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                chosen,
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
                fused=True,
            )
        options: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "fused": True}
        if self.optimizer == "adam":
            return torch.optim.Adam(chosen, weight_decay=self.weight_decay, **options)
        groups = [
            {"params": [p for p in chosen if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in chosen if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], **options)

    def resolved(self, model: nn.Module, device: torch.device) -> Recipe:
        """Return this recipe with the type of number that ``autocast="auto"`` means here."""
        if self.autocast != "auto":
            return self
        gains = convolves(model) or _normalises_tokens(model)
        helps = gains and devices.multiplies_bfloat16(device)
        return replace(self, autocast="bfloat16" if helps else "float32")

    def describe(self) -> dict[str, Any]:
        """The recipe as plain values for a manifest."""
        values = asdict(self)
        # Series in single precision have names from before there was another.
        default = {field.name: field.default for field in fields(self)} | {"autocast": "float32"}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if name in _ALWAYS or value != default[name]
        }


def convolves(model: nn.Module) -> bool:
    """Tell whether a network has 2-d convolutions."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def _normalises_tokens(model: nn.Module) -> bool:
    """Tell whether a network is of the Transformer's kind, which is mostly products of matrices."""
    return any(isinstance(module, (nn.LayerNorm, nn.RMSNorm)) for module in model.modules())
