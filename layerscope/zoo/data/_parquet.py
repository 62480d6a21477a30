"""Images in Parquet files, in the column layout in which sets of images are published.

pyarrow reads them, and not the package datasets, which first writes all of them anew as Arrow files
into a cache on disk.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.base import files, memory
from layerscope.base.extras import extra
from layerscope.core.batches import Examples
from layerscope.errors import DataError
from layerscope.zoo.data import _pages as pages
from layerscope.zoo.data._decoding import decode

__all__ = ["EncodedImages", "decode_all", "files_of", "read"]

_PURPOSE = "reading images from Parquet files"

_MOST_CLASSES = 2**20
_LONGEST_LIST = 500  # characters of what a message says of columns

_PARTS = {"train": ("train",), "test": ("test", "valid", "val")}


@dataclass(frozen=True)
class EncodedImages:
    """Encoded images and their labels, in the order of the files.

    Parameters
    ----------
    images : sequence of bytes
    targets : Tensor
        Shape ``(n,)``, ``int64``.
    files : tuple of Path
    """

    images: Sequence[bytes]
    targets: Tensor
    files: tuple[Path, ...]

    @property
    def lossy(self) -> bool:
        """True if any of the images is a JPEG."""
        return any(image.startswith(b"\xff\xd8\xff") for image in self.images)


def files_of(folder: Path, part: str) -> tuple[Path, ...]:
    """Parquet files whose name starts with that of a part: ``train-00000-of-00001.parquet``.

    Raises
    ------
    DataError
        If there are none.
    """
    there = sorted(folder.rglob("*.parquet"))
    for word in _PARTS[part]:
        found = tuple(path for path in there if path.name.startswith(word))
        if found:
            return found
    raise DataError(
        f"{folder} has no Parquet file of its {part} part; its name must start with "
        f"{' or '.join(_PARTS[part])}. There is: "
        f"{', '.join(path.name for path in there) or 'no Parquet file'}."
    )


def read(folder: Path, part: str) -> EncodedImages:
    """Read one part without decoding it.

    Raises
    ------
    DataError
        If a file can't be read, or has no columns of images and labels.
    ExtraError
        If pyarrow is missing.
    """
    with extra("data", _PURPOSE):
        import pyarrow  # noqa: F401 - missed before anything is opened
    paths = files_of(folder, part)
    images: list[bytes] = []
    labels: list[Tensor] = []
    for path in paths:
        found, numbers = _read_file(path)
        images += found
        labels.append(numbers)
    if not images:
        raise DataError(f"{', '.join(map(str, paths))} holds no images.")
    return EncodedImages(images, torch.cat(labels), paths)


def _read_file(path: Path) -> tuple[list[bytes], Tensor]:
    import pyarrow.parquet as pq

    with files.open_file(path, error=DataError, what="a Parquet file") as file:
        held = os.fstat(file.fileno()).st_size
        try:
            footer = pages.footer_length(file, held)
            opened = pq.ParquetFile(file, thrift_string_size_limit=footer + 1,
                                    thrift_container_size_limit=footer + 1)  # fmt: skip
            image, label = _columns(opened.schema_arrow, path)
            rows, step = pages.check(file, opened.metadata, (image, label), held)
            images: list[bytes] = []
            labels = np.zeros(rows, np.int64)
            taken = at = 0
            for batch in opened.iter_batches(step, columns=[image, label]):
                encoded = _column(batch, image).to_pylist()
                numbers = _column(batch, label)
                if empty := sum(each is None for each in encoded):
                    raise DataError(f"{empty} of {rows:,} rows in {path} have no image bytes.")
                if numbers.null_count:
                    raise DataError(f"{path} has rows without a label; leave them out.")
                labels[at : at + len(encoded)] = numbers.to_numpy(zero_copy_only=False)
                at, taken = at + len(encoded), taken + sum(map(len, encoded))
                if taken > pages.FREE + pages.SWELL * held:
                    raise DataError(
                        f"{path} has {held:,} bytes, and its images over {taken:,}: the same ones "
                        "again and again. Write each once, as they are."
                    )
                images += encoded
        except DataError:
            raise
        # Of a damaged file whatever comes of it, by pyarrow's version.
        except Exception as error:  # noqa: BLE001
            raise DataError(f"{path} can't be read as a Parquet file: {error}.") from None
    _check_labels(labels, path)
    return images, torch.from_numpy(labels)


def _check_labels(labels: np.ndarray[Any, np.dtype[np.int64]], path: Path) -> None:
    least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
    if least < 0:
        raise DataError(
            f"{path} has labels below 0, down to {least}: a part without known labels. Take one "
            "that has them."
        )
    if most >= _MOST_CLASSES:
        raise DataError(
            f"{path} has the label {most:,}; classes are counted from 0, and at most "
            f"{_MOST_CLASSES:,} of them."
        )


def _column(batch: Any, name: str) -> Any:
    """Give a column of a batch, or a field of one."""
    outer, _, inner = name.partition(".")
    column = batch.column(outer)
    return column.field(inner) if inner else column


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """Name the columns of encoded images and of labels."""
    from pyarrow import types

    def is_bytes(kind: Any) -> bool:
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind):
            fields = (kind.field(i) for i in range(kind.num_fields))
            return any(field.name == "bytes" and is_bytes(field.type) for field in fields)
        return is_bytes(kind)

    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    preferred = [name for name in ("label", "labels", "fine_label") if name in labels]
    if len(images) != 1 or not (preferred or len(labels) == 1):
        listed = ", ".join(f"{field.name}: {field.type}" for field in schema)
        raise DataError(
            f"{path} has the columns {listed[:_LONGEST_LIST]}; expected one of images "
            "(struct<bytes, path>, or binary) and label: int64."
        )
    struct = types.is_struct(schema.field(images[0]).type)
    return f"{images[0]}.bytes" if struct else images[0], (preferred or labels)[0]


def decode_all(
    encoded: EncodedImages,
    name: str,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    *,
    skip_unreadable: bool = False,
) -> Examples:
    """Decode images that are all of one size into memory.

    Parameters
    ----------
    encoded : EncodedImages
    name : str
    mean, std : tuple of float, optional
        For each channel; those of these images, to four places, by default.
    skip_unreadable : bool
        Leave images out that can't be read; the name says how many.

    Raises
    ------
    DataError
        If they would not fit, differ in size, or some can't be read.
    """
    first = next(
        (p for each in encoded.images if (p := _pixels(each, encoded.files)) is not None), None
    )
    if first is None:
        raise DataError(f"none of the {len(encoded.images):,} images in {encoded.files[0]} "
                        "can be read.")  # fmt: skip
    memory.require(
        first.size * len(encoded.images),
        f"{name}: {len(encoded.images):,} images of {first.shape[1]}×{first.shape[2]}",
        "Write them as pictures into folders, which are read batch by batch, or use a machine "
        "with more memory.",
    )
    pixels = np.empty((len(encoded.images), *first.shape), np.uint8)
    bad = []
    for row, image in enumerate(encoded.images):
        found = _pixels(image, encoded.files)
        if found is None:
            bad.append(row)
        elif found.shape != first.shape:
            raise DataError(
                f"{name}, {_named(encoded.files)}: row {row} holds an image of "
                f"{found.shape[1]}×{found.shape[2]} pixels in {found.shape[0]} channels, the first "
                f"one {first.shape[1]}×{first.shape[2]} in {first.shape[0]}. Images in memory must "
                "be of one size; write others as pictures into folders, which are cut when they "
                "are read."
            )
        else:
            pixels[row] = found
    if bad and not skip_unreadable:
        rows = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
        raise DataError(
            f"{len(bad)} of {len(pixels):,} images of {name} can't be read, in rows {rows} of "
            f"{encoded.files[0]}. Replace them, or leave all such images out with "
            "skip_unreadable=True."
        )
    kept = np.setdiff1d(np.arange(len(pixels)), bad)
    images = torch.from_numpy(pixels[kept] if bad else pixels)
    if mean is None or std is None:
        mean, std = _moments(images)
    label = f"{name}, {len(bad)} unreadable left out" if bad else name
    return Examples(images, encoded.targets[torch.from_numpy(kept)], mean, std, label)


def _named(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _pixels(image: bytes, paths: Sequence[Path]) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Pixels of shape (channels, height, width); grey images keep their one channel."""
    try:
        picture = decode(io.BytesIO(image), keep_grey=True)
    except DataError as error:
        raise DataError(f"a picture in {_named(paths)} {error}") from None
    if picture is None:
        return None
    array = np.asarray(picture)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, scaled to [0, 1], exact to the last bit."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        share = torch.bincount(images[:, channel].flatten().int(), minlength=256).double()
        share /= share.sum()
        centre = float(share @ levels)
        mean.append(round(centre, 4))
        # A channel that never changes is left as it is.
        std.append(round(float(share @ (levels - centre) ** 2) ** 0.5, 4) or 1.0)
    return tuple(mean), tuple(std)
