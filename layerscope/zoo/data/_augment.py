"""Random changes to training images, the same for the same seed, epoch and place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base import devices
from layerscope.core.batches import Cuttable, by_batch
from layerscope.errors import DataError, OptionError
from layerscope.zoo.data._pictures import Pictures, RandomResizedCrop, by_picture

__all__ = ["AUGMENTATIONS", "Augment", "epoch_augmentation"]


@dataclass(frozen=True)
class Augment:
    """Shift images at random, by cropping them out of a black border, and mirror half of them.

    With the defaults this is the usual augmentation of CIFAR-10 (He et al. 2015).

    Parameters
    ----------
    pad : int
        Width of the border, in pixels: images move by at most so many in each direction.
    flip : bool
        Mirror left and right with probability 1/2.

    Examples
    --------
    >>> from layerscope import data
    >>> train = data.load("mnist-5k").train
    >>> change = data.Augment(pad=2, flip=False).at(seed=0, epoch=1)
    >>> inputs, targets = next(train.batches(100, augment=change))
    >>> inputs.shape
    torch.Size([100, 1, 28, 28])
    """

    pad: int = 4
    flip: bool = True

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise OptionError(f"pad is {self.pad}; it must not be negative.")

    def at(self, seed: int, epoch: int) -> Callable[[Tensor, int], Tensor]:
        """Return what `Examples.batches` takes: the changes that belong to this seed and epoch.

        They follow from seed, epoch and the number of the batch alone, so a training that was
        stopped sees the same images when it goes on.
        """
        return by_batch(self, seed, epoch)

    def __call__(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Change a batch of images on whatever device it is.

        Parameters
        ----------
        inputs : Tensor
            Shape ``(n, channels, height, width)``, any type; not changed itself.
        generator : torch.Generator
            On the CPU, so that every device sees the same images.

        Raises
        ------
        DataError
            If `inputs` are no batch of images.
        """
        if inputs.ndim != 4:
            raise DataError(
                f"inputs of shape {tuple(inputs.shape)} can't be augmented; it takes images, "
                "(n, channels, height, width)."
            )
        count, _, height, width = inputs.shape
        shifts = torch.randint(2 * self.pad + 1, (2, count, 1), generator=generator)
        mirrored = torch.randint(2, (count, 1), generator=generator).bool()
        rows = shifts[0] + torch.arange(height)
        columns = torch.arange(width).expand(count, width)
        if self.flip:
            columns = torch.where(mirrored, columns.flip(1), columns)
        columns = columns + shifts[1]
        bordered = nn.functional.pad(inputs, [self.pad] * 4)
        which, rows, columns = (
            devices.send(index, inputs.device)
            for index in (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None])
        )
        # Indices around the channels' slice put the channels last.
        return bordered[which, :, rows, columns].permute(0, 3, 1, 2).contiguous()


AUGMENTATIONS: Mapping[str, Augment | RandomResizedCrop] = {
    "shift": Augment(flip=False),
    "shift-flip": Augment(),
    "resized-crop": RandomResizedCrop(),
}
"""By name: the last for pictures in files, the others for images in memory."""


def epoch_augmentation(
    augment: Callable[..., Any], part: Cuttable, seed: int, epoch: int, first: int = 0
) -> Callable[..., Any]:
    """Return what `part.batches` takes to change its inputs as in an epoch.

    Parameters
    ----------
    augment : callable
        Of examples in memory, ``augment(inputs, generator)`` takes a batch as it is stored, and
        `Augment` is one; of pictures in files, ``augment(picture, size, generator)`` takes an
        image of Pillow, and `RandomResizedCrop` is one.
    part : Examples, Pictures or another `Cuttable`
    seed, epoch : int
    first : int
        Batches of the epoch that were seen before.

    Raises
    ------
    OptionError
        If `augment` is for the other kind of data.

    Examples
    --------
    >>> from layerscope import data
    >>> train = data.load("mnist-5k").train
    >>> shifted = epoch_augmentation(data.Augment(flip=False), train, seed=0, epoch=2)
    >>> len(next(train.batches(100, augment=shifted))[0])
    100
    """
    in_files = isinstance(part, Pictures)
    if isinstance(augment, Augment if in_files else RandomResizedCrop):
        there = ("images in memory", "pictures in files")
        other = RandomResizedCrop.__name__ if in_files else Augment.__name__
        raise OptionError(
            f"augment is {augment!r}, for {there[not in_files]}; these are {there[in_files]}: use "
            f"{other}()."
        )
    return by_picture(augment, seed, epoch) if in_files else by_batch(augment, seed, epoch, first)
