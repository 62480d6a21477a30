"""Variants of a training recipe, by what is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from layerscope.errors import OptionError, choose

if TYPE_CHECKING:
    from layerscope.training import Recipe

__all__ = ["RECIPES", "Variant", "variants"]


@dataclass(frozen=True)
class Variant:
    """One change of a recipe.

    Parameters
    ----------
    network : mapping
        Fields of the network's configuration.
    recipe : mapping
        Fields of the recipe.
    augment : bool
        Shift and mirror the training images.
    """

    network: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    augment: bool = False


RECIPES: Mapping[str, Variant] = {
    "plain": Variant(),
    "BatchNorm": Variant(network={"norm": "batch"}),
    "weight decay": Variant(recipe={"weight_decay": 5e-4}),
    "BatchNorm, weight decay": Variant({"norm": "batch"}, {"weight_decay": 5e-4}),
    "dropout": Variant(network={"dropout": 0.5}),
    "augmentation": Variant(augment=True),
    "Adam": Variant(recipe={"optimizer": "adam", "lr": 1e-3}),
}
"""What is changed, by name; the learning rate of Adam is its authors' default."""


def variants(
    network: str | Mapping[str, Any], recipe: Recipe, names: Sequence[str] = tuple(RECIPES)
) -> dict[str, tuple[Any, Recipe, Any]]:
    """Configurations, recipes and augmentations by name of the change.

    Those that a network can't have, such as dropout in a ResNet, are left out.

    Parameters
    ----------
    network : str or mapping
        As `models.build` takes it.
    recipe : Recipe
        What is changed.
    names : sequence of str
        Of `RECIPES`.

    Raises
    ------
    OptionError
        If there is no such change.

    Examples
    --------
    >>> from layerscope import Recipe
    >>> config, recipe, augment = variants("vgg11", Recipe(), ["BatchNorm"])["BatchNorm"]
    >>> config.name, augment
    ('vgg11-bn', None)
    """
    from layerscope import data, models

    found = {}
    for name in names:
        change = RECIPES[choose(name, RECIPES, "change of a recipe")]
        try:
            config = models.configure(network, **change.network)
        except OptionError:
            continue
        augment = data.Augment() if change.augment else None
        found[name] = config, replace(recipe, **change.recipe), augment
    return found
