"""Base of the families of networks: a configuration, a form of name, declarations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self, cast

import torch
from torch import Generator, Tensor, nn

from layerscope.base import validate
from layerscope.core.layers import ROOT
from layerscope.errors import OptionError, choose
from layerscope.zoo.models._initializers import Initializer, draw

__all__ = ["VIEWS", "Config", "Family", "Network", "assemble", "leaves", "structure"]

VIEWS = ("component", "block", "stage")
"""The ways in which a network's leaves are gathered into rows, finest first."""

Place = tuple[str, str, str]
"""The group of a leaf in each of the views."""


class Config:
    """Configuration of a network; each family has its own, a frozen dataclass.

    Attributes
    ----------
    inputs : tuple of int
        Shape of one example.
    classes : int
        Number of outputs: classes, or for a language model the size of its vocabulary.
    removed : tuple of str
        What `remove` has replaced by the identity.
    """

    family: ClassVar[str]
    pattern: ClassVar[re.Pattern[str]]

    inputs: tuple[int, ...]
    classes: int
    removed: tuple[str, ...]

    @property
    def name(self) -> str:
        """The short name, which `configure` takes back."""
        raise NotImplementedError

    @classmethod
    def parse(cls, name: str) -> dict[str, Any] | None:
        """Fields that a short name gives; None where it is not one of this family."""
        match = cls.pattern.fullmatch(name)
        if match is None:
            return None
        return {k: cls._value(k, text) for k, text in match.groupdict().items() if text}

    @classmethod
    def _value(cls, field: str, text: str) -> Any:
        """Parse the part of a name that gives `field`."""
        del field
        return int(text)

    def example(self) -> Tensor:
        """Two examples of zeros."""
        return torch.zeros(2, *self.inputs)

    def _check_positive(self, *names: str) -> None:
        """Refuse numbers of layers, units or outputs below one."""
        for name in (*names, "classes"):
            validate.integer(getattr(self, name), name, 1, 10)
        validate.integers(self.inputs, "inputs", "(1, 28, 28)")

    def _check_fraction(self, name: str) -> None:
        """Refuse a probability of dropping that is outside [0, 1)."""
        if not 0 <= getattr(self, name) < 1:
            raise OptionError(f"{name} is {getattr(self, name)}; it must be in [0, 1).")

    def _check_image(self, channels: int | None = None, why: str = "") -> None:
        """Refuse inputs that are no images, or don't have the `channels` that are needed."""
        if len(self.inputs) != 3 or min(self.inputs) < 1:
            raise OptionError(
                f"inputs is {self.inputs}; {self.name} takes images, (channels, height, width)."
            )
        if channels is not None and self.inputs[0] != channels:
            raise OptionError(
                f"the images have {self.inputs[0]} channels; {why} takes {channels}. "
                "Choose form='cifar', which takes any number."
            )

    def _check_tokens(self) -> None:
        """Refuse inputs that are no sequences of tokens."""
        if len(self.inputs) != 1 or self.inputs[0] < 1:
            raise OptionError(
                f"inputs is {self.inputs}; {self.name} takes sequences of token ids, (length,)."
            )

    def plain(self) -> dict[str, Any]:
        """Field values as JSON has them, which `build` takes back; `removed` only where any was."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in self._fields().items()}
        if not values["removed"]:
            del values["removed"]  # as in manifests that were written before there was removing
        return {"family": self.family, **values}

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Take back what `plain` gives, or a part of it."""
        allowed = [field.name for field in fields(cast(Any, cls))]
        for name in values:
            choose(name, allowed, "network option")
        taken = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
        if isinstance(taken.get("removed"), str):
            taken["removed"] = (taken["removed"],)
        return cls(**taken)

    def _fields(self) -> dict[str, Any]:
        return asdict(cast(Any, self))


class Network(nn.Module):
    """A network and what it declares of itself.

    The class may be torchvision's or timm's own, so that their checkpoints load; what it has
    besides are these attributes. Type checkers alone see this class.

    Attributes
    ----------
    config : Config
    initializers : dict of str to initializer
        By parameter name, the distribution that the parameter was drawn from.
    layer_views : dict of str to dict
        For each of the views ``"component"``, ``"block"`` and ``"stage"``, which leaves (modules
        that hold parameters, by dotted name) make up each of its rows.
    """

    config: Config
    initializers: dict[str, Initializer]
    layer_views: dict[str, dict[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Family:
    """One family of networks.

    Parameters
    ----------
    config : type
        Its configuration.
    form, example, about : str
        How its short names are written, one of them, and what it is.
    network : callable
        Makes the modules; what values they have is of no account.
    initializers : callable
        From the modules and the configuration, the distribution of every parameter by name.
    place : callable
        From the modules and the name of a leaf, the leaf's group in each of the `VIEWS`.
    """

    config: type[Config]
    form: str
    example: str
    about: str
    network: Callable[[Any], nn.Module]
    initializers: Callable[[nn.Module, Any], dict[str, Initializer]]
    place: Callable[[nn.Module, str], Place]


def structure(family: Family, config: Config) -> nn.Module:
    """Make the modules of a network without memory for their values."""
    with torch.device("meta"):
        return family.network(config)


def assemble(family: Family, config: Config, generator: Generator) -> Network:
    """Make a network, draw its parameters from `generator` and declare what it is."""
    # On meta first: what the modules would draw for themselves is neither wanted nor paid for.
    model = _allocate(structure(family, config))
    network = cast(Network, model)
    network.config = config
    network.initializers = family.initializers(model, config)
    network.layer_views = _group_leaves(model, family.place)
    draw(model, network.initializers, generator)
    return network


def leaves(model: nn.Module) -> list[str]:
    """Dotted names of the modules that hold parameters, in order of registration.

    Tied parameters count once, with the first module that holds them.
    """
    owners = [name.rpartition(".")[0] or ROOT for name, _ in model.named_parameters()]
    return list(dict.fromkeys(owners))


def _allocate(model: nn.Module) -> nn.Module:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    model.to_empty(device="cpu")
    for first, *others in names.values():  # to_empty has untied what was tied
        for name in others:
            path, _, own = name.rpartition(".")
            setattr(model.get_submodule(path), own, model.get_parameter(first))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return model


def _group_leaves(
    model: nn.Module, place: Callable[[nn.Module, str], Place]
) -> dict[str, dict[str, tuple[str, ...]]]:
    views: dict[str, dict[str, tuple[str, ...]]] = {view: {} for view in VIEWS}
    for leaf in leaves(model):
        for view, group in zip(VIEWS, place(model, leaf), strict=True):
            views[view][group] = (*views[view].get(group, ()), leaf)
    return views
