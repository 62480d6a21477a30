"""Sets of images in memory."""

from __future__ import annotations

from dataclasses import dataclass

from layerscope.core.batches import Examples
from layerscope.zoo.data._modify import Modifiers

__all__ = ["ImageData"]


@dataclass(frozen=True, eq=False)
class ImageData(Modifiers):
    """A named set of images with a training and a test part.

    Parameters
    ----------
    name : str
        The name it is loaded by, and labelled with in every result.
    train, test : Examples
    classes : int
        Number of classes.
    origin : str
        Where the images come from.
    """

    name: str
    train: Examples
    test: Examples
    classes: int
    origin: str

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.train):,} + {len(self.test):,} images of {self.shape}>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: channels, height, width."""
        return tuple(self.train.inputs.shape[1:])
