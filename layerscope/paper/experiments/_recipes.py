"""Recipes of training, fitted to a network, and their variants by what is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from layerscope.errors import OptionError, choose

if TYPE_CHECKING:
    from layerscope.zoo.training import Recipe

__all__ = ["RECIPES", "Variant", "augmentation", "fitted", "variants"]


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
    "BatchNorm, the paper's initialiser": Variant(
        {"norm": "batch", "initializer": "lecun-truncated"}
    ),
    "torchvision's initialiser": Variant({"initializer": "torchvision"}),
    "He's initialiser": Variant({"initializer": "he-normal"}),
    "BatchNorm, He's initialiser": Variant({"norm": "batch", "initializer": "he-normal"}),
    "dropout": Variant(network={"dropout": 0.5}),
    "augmentation": Variant(augment=True),
    "Adam": Variant(recipe={"optimizer": "adam", "lr": 1e-3}),
}
"""Changes by name; the learning rate of Adam is its authors' default.

"BatchNorm" alone has torchvision's initialiser, as its networks have, where "plain" has the
paper's. Those that name an initialiser tell the two apart.
"""


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
    from layerscope.zoo import data, models

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


def augmentation(data: Any, wanted: bool = True) -> Any:
    """The usual random changes of training images, of the kind that the data take.

    Parameters
    ----------
    data : data set
    wanted : bool
        False gives None.

    Returns
    -------
    Augment, RandomResizedCrop or None
        Shifts and mirror images of what is in memory, as usual for CIFAR-10; random pieces of
        pictures in files, as usual for ImageNet.

    Examples
    --------
    >>> from layerscope import data
    >>> augmentation(data.load("gratings"))
    Augment(pad=4, flip=True)
    """
    from layerscope.zoo.data import AUGMENTATIONS, Pictures

    if not wanted:
        return None
    return AUGMENTATIONS["resized-crop" if isinstance(data.train, Pictures) else "shift-flip"]


def fitted(network: str | Mapping[str, Any], recipe: Recipe) -> Recipe:
    """Give ResNets of more than 50 layers batches of at most 64, as the paper did on ImageNet.

    Parameters
    ----------
    network : str or mapping
        As `models.build` takes it.
    recipe : Recipe
        Returned as it is for any other network, and where its batches are no larger than 64.

    Examples
    --------
    >>> from layerscope import Recipe
    >>> [fitted(f"resnet{depth}", Recipe()).batch_size for depth in (50, 101)]
    [128, 64]
    """
    from layerscope.zoo import models

    config = models.configure(network)
    deep = config.family == "resnet" and getattr(config, "depth", 0) > 50
    return replace(recipe, batch_size=min(recipe.batch_size, 64)) if deep else recipe
