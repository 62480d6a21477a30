"""Images in Parquet files, in the column layout in which sets of images are published.

pyarrow reads them, and not the package datasets, which first writes all of them anew as Arrow files
into a cache on disk.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerscope.base import memory
from layerscope.base.extras import extra
from layerscope.core.batches import Examples
from layerscope.errors import DataError
from layerscope.zoo.data._decoding import decode

__all__ = ["EncodedImages", "decode_all", "files_of", "read"]

_PURPOSE = "reading images from Parquet files"

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
        import pyarrow as pa
        from pyarrow import dataset
    files = files_of(folder, part)
    try:
        found = dataset.dataset(list(map(str, files)), format="parquet")
        table = found.to_table(_columns(found.schema, files[0]))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder} holds what can't be read as a Parquet file: {error}.") from None
    images: list[bytes] = table["image"].to_pylist()
    if not images:
        raise DataError(f"{', '.join(map(str, files))} holds no images.")
    empty = sum(image is None for image in images)
    if empty:
        raise DataError(f"{empty} of {len(images):,} rows in {files[0]} have no image bytes.")
    labels = torch.from_numpy(table["label"].to_numpy().astype(np.int64))
    if int(labels.min()) < 0:
        raise DataError(
            f"{files[0]} has labels below 0, down to {int(labels.min())}: a part without known "
            "labels. Take one that has them."
        )
    return EncodedImages(images, labels, files)


def _columns(schema: Any, path: Path) -> dict[str, Any]:
    """Columns of encoded images and of labels, as expressions."""
    with extra("data", _PURPOSE):
        from pyarrow import dataset, types

    def is_image(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    images = [field.name for field in schema if is_image(field.type)]
    labels = [field.name for field in schema if types.is_integer(field.type)]
    preferred = [name for name in ("label", "labels", "fine_label") if name in labels]
    if len(images) != 1 or not (preferred or len(labels) == 1):
        raise DataError(
            f"{path} has the columns {', '.join(f'{f.name}: {f.type}' for f in schema)}; expected "
            "one of images (struct<bytes, path>, or binary) and label: int64."
        )
    image = (images[0], "bytes") if types.is_struct(schema.field(images[0]).type) else images[:1]
    return {"image": dataset.field(*image), "label": dataset.field((preferred or labels)[0])}


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
    first = next((p for p in map(_pixels, encoded.images) if p is not None), None)
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
        found = _pixels(image)
        if found is None:
            bad.append(row)
        elif found.shape != first.shape:
            raise DataError(
                f"{name}: row {row} holds an image of {found.shape[1]}×{found.shape[2]} pixels "
                f"in {found.shape[0]} channels, the first one {first.shape[1]}×{first.shape[2]} "
                f"in {first.shape[0]}. Images in memory must be of one size; write others as "
                "pictures into folders, which are cut when they are read."
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


def _pixels(image: bytes) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Pixels of shape (channels, height, width); grey images keep their one channel."""
    picture = decode(io.BytesIO(image), keep_grey=True)
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
