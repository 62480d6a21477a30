"""Perturbations that go by name: one more takes a function here, and its name in `__all__`.

All that is known of it stands in the `Perturbation` that it returns: how it is called in words, in
figures and in the explorer, whether it draws, redraws, or takes a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from layerscope.base.copies import uncopied
from layerscope.core.perturb._exchanging import between, blend, exchange, require_number
from layerscope.core.perturb._parts import (
    skip,
    skip_attention,
    skip_expert,
    skip_head,
    skip_mlp,
)
from layerscope.core.perturb._permuting import permute
from layerscope.core.perturb._protocol import Perturbation, Site
from layerscope.core.perturb._routes import parallel, repeat, reverse, shuffle, swap
from layerscope.core.perturb._weights import zero_weights
from layerscope.errors import LayerError, OptionError
from layerscope.results import CHECKPOINT, RAND

__all__ = [
    "blend",
    "exchange",
    "interpolate",
    "noise",
    "parallel",
    "permute",
    "reinitialize",
    "repeat",
    "rerandomize",
    "rerandomize_matched",
    "reverse",
    "shuffle",
    "skip",
    "skip_attention",
    "skip_expert",
    "skip_head",
    "skip_mlp",
    "swap",
    "zero",
    "zero_weights",
]


def reinitialize() -> Perturbation:
    """Put back what the layer held at an epoch, buffers included."""
    return Perturbation(
        "reinitialize",
        _checkpoint,
        uses_checkpoint=True,
        settings={},
        label="reset to checkpoint {epoch}",
        column="{epoch}",
        towards=CHECKPOINT,
        alpha=1.0,
    )


def rerandomize() -> Perturbation:
    """Draw the layer anew from the distribution that it was initialised from; see `Redraw`."""
    return Perturbation(
        "rerandomize",
        lambda site: site.fresh(site.layer, site.generator),
        stochastic=True,
        settings={},
        redraws=True,
        label="re-randomised",
        column=RAND,
        sign="R",
    )


def rerandomize_matched() -> Perturbation:
    """Draw every parameter from a normal distribution with its trained mean and deviation.

    The elements are independent, so all that is left of the training is the first two moments.
    The deviation is that of the tensor as a population. Buffers keep their trained values.
    """
    return Perturbation(
        "rerandomize_matched",
        lambda site: _floating(site, lambda t: _mean(t) + _deviation(t) * _normal(t, site)),
        stochastic=True,
        settings={},
        label="re-randomised to its mean and deviation",
    )


def zero() -> Perturbation:
    """Set every parameter to zero; buffers keep their trained values."""
    return Perturbation(
        "zero",
        lambda site: {name: _zeros(t) for name, t in _parameters(site).items()},
        settings={},
        label="set to zero",
        sign="0",
    )


def noise(scale: float, relative: bool = False) -> Perturbation:
    """Add independent normal numbers to every parameter.

    Parameters
    ----------
    scale : float
        Their standard deviation, positive.
    relative : bool
        Whether `scale` is in units of the standard deviation of each tensor's elements.

    Raises
    ------
    OptionError
        If the scale is not a positive number.

    Notes
    -----
    Buffers, such as the running statistics of BatchNorm, keep their trained values: some noise
    would make a variance negative.

    Examples
    --------
    >>> noise(0.1, relative=True).name
    'noise(0.1, relative=True)'
    """
    require_number("noise", "scale", scale)
    if scale <= 0:
        raise OptionError(f"noise got the scale {scale}; it must be above 0.")

    def shaken(site: Site, tensor: Tensor) -> Tensor:
        width = scale * _deviation(tensor) if relative else scale
        return tensor + width * _normal(tensor, site)

    return Perturbation(
        f"noise({scale}{', relative=True' if relative else ''})",
        lambda site: _floating(site, lambda tensor: shaken(site, tensor)),
        stochastic=True,
        settings={"scale": scale, "relative": relative},
    )


def interpolate(alpha: float) -> Perturbation:
    """Go a part of the way from the trained values to those of an epoch.

    Parameters
    ----------
    alpha : float
        (1 − alpha) · trained + alpha · checkpoint: at 0 exactly the trained values, at 1 exactly
        those of the epoch, beyond on the straight line through both. Buffers of whole numbers keep
        their trained values throughout.

    Raises
    ------
    OptionError
        If alpha is not a finite number.
    """
    require_number("interpolate", "alpha", alpha)

    def interpolated(site: Site) -> Mapping[str, Tensor]:
        there = _checkpoint(site)
        return {
            name: between(here, there[name].to(here.dtype), alpha)
            for name, here in uncopied(site.trained).items()
            if here.is_floating_point() or here.is_complex()
        }

    return Perturbation(
        f"interpolate({alpha})",
        interpolated,
        uses_checkpoint=True,
        settings={"alpha": alpha},
        towards=CHECKPOINT,
        alpha=float(alpha),
    )


def _checkpoint(site: Site) -> Mapping[str, Tensor]:
    if site.checkpoint is None:
        raise LayerError("re-initialisation needs the checkpoint of an epoch; none was given.")
    return uncopied(site.checkpoint)


def _parameters(site: Site) -> dict[str, Tensor]:
    own = uncopied(site.trained)
    return {name: own[name] for name in site.layer.parameters}


def _floating(site: Site, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Change the real parameters, in their own type."""
    own = _parameters(site).items()
    return {n: change(t).to(t.dtype) for n, t in own if t.is_floating_point()}


def _zeros(tensor: Tensor) -> Tensor:
    # One for all, so that it takes no memory here and is written where the network is.
    return torch.zeros((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


def _normal(tensor: Tensor, site: Site) -> Tensor:
    # In double precision whatever the type, so that a network in half precision gets the same.
    return torch.randn(tensor.shape, generator=site.generator, dtype=torch.float64)


def _mean(tensor: Tensor) -> Tensor:
    return tensor.double().mean() if tensor.numel() else tensor.double().sum()


def _deviation(tensor: Tensor) -> Tensor:
    whole = tensor.double()
    return whole.std(correction=0) if whole.numel() else whole.sum()
