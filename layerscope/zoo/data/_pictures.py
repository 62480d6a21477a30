"""Pictures that stay in their files and are decoded batch by batch.

Threads decode, since Pillow releases Python's lock while it works on a large picture: no worker
processes to start, and every batch is the same for any number of threads, which torch's DataLoader
over torchvision's ImageFolder does not promise for random crops.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layerscope.base import files, memory, seeds, validate
from layerscope.base.extras import extra
from layerscope.core.batches import Batch, Examples, normalise
from layerscope.errors import DataError, OptionError
from layerscope.zoo.data._decoding import decode
from layerscope.zoo.data._modify import Modifiers

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "ImageStream", "Pictures", "RandomResizedCrop"]

# Of ImageNet's training pixels, scaled to [0, 1], as torchvision's networks expect them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")

_PURPOSE = "pictures in folders"

_LONGEST_FILE = 2**28
"""Bytes of one picture as it is stored."""

_AHEAD = 2  # batches that are decoded before they are asked for


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cut a random piece out of each picture, resize it, and mirror half of them.

    With the defaults this is the usual augmentation of ImageNet (Szegedy et al. 2015, as
    torchvision draws it).

    Parameters
    ----------
    scale : pair of float
        Least and greatest share of the picture's area.
    ratio : pair of float
        Least and greatest width/height; its logarithm is uniform.
    flip : bool
        Mirror left and right with probability 1/2.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def at(self, seed: int, epoch: int) -> Callable[[Any, int, int], Any]:
        """Return what `Pictures.batches` takes: the changes that belong to this seed and epoch.

        They follow from seed, epoch and the number of the picture alone.
        """
        return by_picture(self, seed, epoch)

    def __call__(self, picture: Any, size: int, generator: torch.Generator) -> Any:
        """Return a piece of a Pillow image, `size` pixels square."""
        functional = _functional()
        top, left, height, width = self._box(picture.height, picture.width, generator)
        piece = functional.resized_crop(picture, top, left, height, width, [size, size])
        mirrored = bool(torch.randint(2, (), generator=generator)) and self.flip
        return functional.hflip(piece) if mirrored else piece

    def _box(self, height: int, width: int, draw: torch.Generator) -> tuple[int, int, int, int]:
        low, high = (math.log(value) for value in self.ratio)
        for _ in range(10):
            share, skew, down, right = torch.rand(4, generator=draw).tolist()
            area = height * width * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + skew * (high - low))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
        # A picture too long or too high for any of them: the largest piece around its centre.
        w = min(width, round(height * self.ratio[1]))
        h = min(height, round(width / self.ratio[0]))
        return (height - h) // 2, (width - w) // 2, h, w


@dataclass(frozen=True, eq=False)
class Pictures:
    """Labelled pictures in files.

    Parameters
    ----------
    folder : Path
    files : tuple of str
        Relative to `folder`.
    targets : Tensor
        Shape ``(n,)``, ``int64`` class indices.
    name : str
        What results say they were measured on.
    size : int
        Height and width of what a network gets, in pixels.
    resize : int
        For evaluation the shorter side is resized to this, and the centre is cut out.
    mean, std : tuple of float
        For each of the three channels, as in `Examples`.
    workers : int
        Threads that decode; 0 for as many as there are processors, at most 16.
    device : torch.device, optional
        Where batches are normalised; they are moved there as ``uint8``.
    """

    folder: Path
    files: tuple[str, ...]
    targets: Tensor
    name: str = ""
    size: int = 224
    resize: int = 256
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    workers: int = 0
    device: torch.device | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise OptionError(
                f"size is {self.size} and resize {self.resize}; the centre of size pixels is cut "
                "out of what was resized, so give 1 ≤ size ≤ resize."
            )

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], **options: Any) -> Pictures:
        """Pictures in one folder for each class, classes numbered in the order of their names.

        Parameters
        ----------
        folder : path
        **options
            Any other parameter of `Pictures`.

        Raises
        ------
        DataError
            If the folder holds no such folders.
        """
        _functional()  # so that it is missed before anything is searched
        root = validate.expand(folder)
        found = [
            (file, number)
            for number, name in enumerate(class_names(root))
            for file in _pictures_below(root / name)
        ]
        if not found:
            raise DataError(
                f"{root} holds no pictures in folders, one for each class; expected files such "
                f"as {root / 'CLASS' / 'picture.jpg'}."
            )
        names = tuple(path.removeprefix(os.path.join(root, "")) for path, _ in found)  # noqa: PTH118
        targets = torch.tensor([number for _, number in found])
        return cls(root, names, targets, **{"name": root.name, **options})

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"<{len(self):,} pictures in {self.folder}, {self.size}×{self.size}: {self.name}>"

    @property
    def bytes(self) -> int:
        """Bytes of all batches together, as a network gets them."""
        return len(self) * 3 * self.size**2 * 4

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names, lengths and targets of all files, and how they are cut.

        What the files hold is not read for it: a file replaced by another one of the same length
        goes unseen.
        """
        seen = hashlib.sha256(repr((self.size, self.resize, self.mean, self.std)).encode())
        for file, target in zip(self.files, self.targets.tolist(), strict=True):
            try:
                length = (self.folder / file).stat().st_size
            except OSError as error:
                raise DataError(
                    f"can't read {self.folder / file}: {error.strerror}. It was there when the "
                    "folder was read; put it back, or load the data again."
                ) from None
            seen.update(repr((Path(file).as_posix(), length, target)).encode())
        return seen.hexdigest()

    def first(self, count: int) -> Pictures:
        """The first `count` pictures (all of them where there are fewer)."""
        return replace(self, files=self.files[:count], targets=self.targets[:count])

    def take(self, index: Tensor) -> Pictures:
        """The pictures at `index`, shape ``(k,)``, in that order."""
        files = tuple(self.files[number] for number in index.tolist())
        return replace(self, files=files, targets=self.targets[index])

    def labelled(self, targets: Tensor) -> Pictures:
        """Return the pictures with other targets."""
        return replace(self, targets=targets)

    def to(self, device: torch.device) -> Pictures:
        """Return the pictures, with batches on `device`."""
        return replace(self, device=device)

    def batches(
        self,
        size: int,
        order: Tensor | None = None,
        augment: Callable[[Any, int, int], Any] | None = None,
    ) -> Iterator[Batch]:
        """Yield normalised batches of `size` (the last may be smaller).

        Parameters
        ----------
        size : int
            Pictures in a batch.
        order : Tensor, optional
            Shape ``(k,)``: which pictures come, in which order; all, as listed, by default.
        augment : callable, optional
            Such as ``RandomResizedCrop().at(seed, epoch)``; without it the centre is cut out.

        Raises
        ------
        DataError
            If pictures can't be read; it names them.
        """
        wanted = range(len(self)) if order is None else order.tolist()
        cuts = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        for numbers, pixels in zip(cuts, self._decode(cuts, augment), strict=True):
            bad = [self.files[n] for n, p in zip(numbers, pixels, strict=True) if p is None]
            if bad:
                raise DataError(self._unreadable(bad, "this batch of ", len(numbers)))
            stored = torch.stack([found for found in pixels if found is not None])
            targets = self.targets[torch.as_tensor(numbers)]
            if self.device is not None:
                stored, targets = stored.to(self.device), targets.to(self.device)
            yield normalise(stored, self.mean, self.std), targets

    def in_memory(self) -> Examples:
        """Read the pictures, cut for evaluation, as `Examples`.

        Raises
        ------
        DataError
            If they would not fit, or some can't be read.
        """
        need = len(self) * 3 * self.size**2
        what = f"{self.name}: {len(self):,} pictures of {self.size}×{self.size}"
        memory.require(
            need, what, "Leave them in their files (stream=True), or take fewer (size=)."
        )
        pixels = torch.empty((len(self), 3, self.size, self.size), dtype=torch.uint8)
        bad = []
        cuts = _ranges(len(self), 256)
        for numbers, found in zip(cuts, self._decode(cuts, None), strict=True):
            for number, picture in zip(numbers, found, strict=True):
                if picture is None:
                    bad.append(self.files[number])
                else:
                    pixels[number] = picture
        if bad:
            raise DataError(self._unreadable(bad, "", len(self)))
        return Examples(pixels, self.targets, self.mean, self.std, self.name)

    def readable(self) -> Pictures:
        """Only those that can be read; the name says how many were left out.

        Every picture is decoded once to find out.
        """
        cuts = _ranges(len(self), 256)
        found = [pixels is not None for part in self._decode(cuts, None) for pixels in part]
        missing = len(found) - sum(found)
        if missing == 0:
            return self
        kept = self.take(torch.nonzero(torch.tensor(found)).flatten())
        return replace(kept, name=f"{self.name}, {missing} unreadable left out")

    def _decode(
        self, cuts: Iterable[Iterable[int]], augment: Callable[[Any, int, int], Any] | None
    ) -> Iterator[list[Tensor | None]]:
        """Pixels of each batch of numbers, ahead of time; None for what can't be read."""
        read = partial(self._pixels, augment=augment)
        pool = ThreadPoolExecutor(self.workers or _count_processors())
        try:
            waiting: deque[list[Future[Tensor | None]]] = deque()
            for numbers in cuts:
                waiting.append([pool.submit(read, number) for number in numbers])
                if len(waiting) > _AHEAD:
                    yield [future.result() for future in waiting.popleft()]
            while waiting:
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)

    def _pixels(self, number: int, augment: Callable[[Any, int, int], Any] | None) -> Tensor | None:
        functional = _functional()
        picture = self._decoded(self.folder / self.files[number])
        if picture is None:
            return None
        if augment is not None:
            cut = augment(picture, number, self.size)
        else:
            resized = functional.resize(picture, self.resize)
            cut = functional.center_crop(resized, [self.size, self.size])
        pixels: Tensor = functional.pil_to_tensor(cut)
        return pixels

    def _decoded(self, path: Path) -> Any | None:
        """Decode one picture; None where it is missing, no file, or broken."""
        try:
            file = files.open_file(path, error=DataError, what="a picture", most=_LONGEST_FILE)
        except DataError:
            return None
        try:
            with file:
                return decode(file)
        except DataError as error:
            raise DataError(f"{path} {error}") from None

    def _unreadable(self, bad: list[str], where: str, total: int) -> str:
        named = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        return (
            f"{len(bad)} of {where}{total:,} pictures in {self.folder} can't be read: {named}. "
            "Replace them, or leave all such pictures out with skip_unreadable=True."
        )


@dataclass(frozen=True, eq=False)
class ImageStream(Modifiers):
    """A named set of pictures with a training and a test part, decoded batch by batch.

    Parameters
    ----------
    name : str
        The name it is loaded by, and labelled with in every result.
    train, test : Pictures
    classes : int
        Number of classes.
    origin : str
        Where the pictures come from.
    """

    name: str
    train: Pictures
    test: Pictures
    classes: int
    origin: str

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self.train):,} + {len(self.test):,} pictures in files>"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: channels, height, width."""
        return 3, self.train.size, self.train.size


def by_picture(
    augment: Callable[[Any, int, torch.Generator], Any], seed: int, epoch: int
) -> Callable[[Any, int, int], Any]:
    """Give every picture of an epoch chance of its own."""

    def change(picture: Any, number: int, size: int) -> Any:
        return augment(picture, size, seeds.generator("crop", seed, epoch, number))

    return change


def _functional() -> Any:
    with extra("zoo", _PURPOSE):
        from torchvision.transforms import functional
    return functional


def _pictures_below(folder: Path) -> list[str]:
    """List the pictures in a folder and those in it, in the order of torchvision's ImageFolder.

    Links are followed, as there, but to each folder once: one that leads back would never end.

    Raises
    ------
    DataError
        If what is named as a picture is a folder: it would be passed over without a word.
    """
    found, seen = [], set()
    for place, inner, names in os.walk(folder, followlinks=True):
        about = os.stat(place)  # noqa: PTH116
        if (known := (about.st_dev, about.st_ino)) in seen:
            inner.clear()
            continue
        seen.add(known)
        if wrong := sorted(name for name in inner if name.lower().endswith(_ENDINGS)):
            raise DataError(
                f"{Path(place, wrong[0])} is a folder, not a picture. Remove or rename it."
            )
        pictures = sorted(name for name in names if name.lower().endswith(_ENDINGS))
        found.append((place, pictures))
    return [os.path.join(place, name) for place, names in sorted(found) for name in names]  # noqa: PTH118


def class_names(folder: Path) -> list[str]:
    """Names of the folders in `folder`, one for each class, sorted.

    Raises
    ------
    DataError
        If there is no such folder.
    """
    if not files.is_folder(folder):
        raise DataError(f"there is no folder {folder}.")
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _ranges(total: int, size: int) -> list[range]:
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _count_processors() -> int:
    # Those this process may use, where the system can say so.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(count or 1, 16)
