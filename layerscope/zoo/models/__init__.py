"""Networks by name and by configuration, each knowing what its parameters were drawn from.

>>> from layerscope import models
>>> net = models.build("fcn-3x256", seed=0)
>>> [name for name, _ in net.named_children()]
['layer1', 'layer2', 'layer3', 'layer4']
>>> [family.example for family in models.FAMILIES.values()]  # doctest: +NORMALIZE_WHITESPACE
['fcn-3x256', 'vgg16-bn-w0.5', 'resnet18-w0.25', 'vit-192x6-p4', 'mixer-192x6-p4',
 'transformer-128x4', 'lstm-256x2']
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Generator

from layerscope.base import validate
from layerscope.core.checkpoints import Series
from layerscope.errors import CheckpointError, OptionError, choose
from layerscope.zoo.models import (
    _fcn as fcn,
    _language as language,
    _patches as patches,
    _resnet as resnet,
    _vgg as vgg,
)
from layerscope.zoo.models._family import Config, Family, Network, assemble, structure
from layerscope.zoo.models._initializers import INITIALIZERS
from layerscope.zoo.models._pitch import open_crepe
from layerscope.zoo.models._removal import remove

__all__ = [
    "FAMILIES",
    "INITIALIZERS",
    "Config",
    "build",
    "configure",
    "count_parameters",
    "open_crepe",
    "rebuild",
    "remove",
]

FAMILIES: Mapping[str, Family] = {
    family.config.family: family
    for family in (
        fcn.FAMILY,
        vgg.FAMILY,
        resnet.FAMILY,
        patches.VIT,
        patches.MIXER,
        language.TRANSFORMER,
        language.LSTM,
    )
}
"""What there is, by the name of the family."""


def build(network: str | Config | Mapping[str, Any], seed: int = 0, **options: Any) -> Network:
    """Build a network with freshly drawn parameters.

    Parameters
    ----------
    network : str, Config or mapping
        A name such as ``"fcn-3x256"`` (`FAMILIES` says how names are written), a configuration,
        or one as a mapping, as a run's manifest holds it.
    seed : int
        The parameters are drawn from a generator with this seed; the global one is not touched.
    **options
        Fields of the configuration, such as ``classes=100``.

    Returns
    -------
    Network
        A module with `config`, `initializers` and `layer_views`. Layers of `config.removed` are
        drawn and then removed, so that the others have the values they have beside them.

    Raises
    ------
    OptionError
        If the name or an option is unknown.
    LayerError
        If a layer can't be removed.

    Examples
    --------
    >>> build("fcn-2x16", inputs=(4,), classes=3).config.name
    'fcn-2x16'
    >>> net = build("resnet18-w0.25")
    >>> list(net.layer_views["block"])[:3]
    ['stage0', 's1.1', 's1.2']
    """
    config, seed = configure(network, **options), validate.integer(seed, "seed")
    whole = _replace(config, removed=())
    model = assemble(FAMILIES[config.family], whole, Generator().manual_seed(seed))
    return remove(model, config.removed) if config.removed else model


def rebuild(series: Series) -> Network:
    """Build the trained network that a series of checkpoints was recorded from.

    Raises
    ------
    CheckpointError
        If the series does not say which network it is of.
    """
    if "network" not in series.manifest:
        raise CheckpointError(
            "this series does not say which network it is of; build the network in Python and "
            "pass it to layerscope.sweep beside the series."
        )
    model = build(series.manifest["network"])
    series.fit(model)
    model.load_state_dict(series.read(series.last))
    return model


def count_parameters(network: str | Config | Mapping[str, Any], **options: Any) -> int:
    """Count the parameters of a network before layers are removed, without building it.

    Errors are those of `build`.

    Parameters
    ----------
    network : str, Config or mapping
        As `build` takes it.
    **options
        Fields of the configuration, such as ``classes=100``.

    Examples
    --------
    >>> count_parameters("fcn-3x256")
    335114
    """
    config = configure(network, **options)
    model = structure(FAMILIES[config.family], config)
    return sum(parameter.numel() for parameter in model.parameters())


def configure(network: str | Config | Mapping[str, Any], **options: Any) -> Config:
    """Make a network's configuration out of its name and what differs from the defaults.

    Errors are those of `build`.

    Parameters
    ----------
    network : str, Config or mapping
        As `build` takes it.
    **options
        Fields of the configuration that differ from those of `network`.

    Examples
    --------
    >>> configure("fcn-3x256", initializer="he-normal").initializer
    'he-normal'
    """
    if isinstance(network, Config):
        return _replace(network, **options)
    if isinstance(network, str):
        name, values = _parse(network)
    elif not isinstance(network, Mapping):
        raise OptionError(
            f"network is {validate.describe(network)}; give a name, such as 'fcn-3x256', a "
            "configuration, or one as a mapping."
        )
    else:
        values = dict(network)
        name = choose(values.pop("family", "fcn"), FAMILIES, "network family")
    return FAMILIES[name].config.from_plain({**values, **options})


def _replace(config: Config, **options: Any) -> Config:
    values = {**config.plain(), **options}
    del values["family"]
    return type(config).from_plain(values)


def _parse(network: str) -> tuple[str, dict[str, Any]]:
    for name, family in FAMILIES.items():
        values = family.config.parse(network)
        if values is not None:
            return name, values
    meant = [family for name, family in FAMILIES.items() if network.startswith(name)]
    forms = [f"{f.form}, such as {f.example} ({f.about})" for f in meant or FAMILIES.values()]
    raise OptionError(f"there is no network {network!r}. There is: {'; '.join(forms)}.")
