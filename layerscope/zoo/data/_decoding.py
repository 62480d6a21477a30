"""Encoded pictures decoded, of whatever depth.

Pillow decodes them, and not `torchvision.io`, nor the feature ``Image`` of the package datasets:
these give 16 bits a channel as they are, or cut off what is above 255.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from layerscope.errors import DataError

__all__ = ["FORMATS", "MOST_PIXELS", "decode"]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats of Pillow's that are decoded. Others may start programs, as EPS starts Ghostscript."""

MOST_PIXELS = 2**26
"""Of one picture: more than nearly all cameras take."""

_MOST_BYTES = 450_000_000
"""That one picture may take while it is decoded."""

_AT_ONCE = 2**27
"""Bytes that pictures of all threads take together, but for one that needs more by itself."""

_MOST_WORK = 2**31
"""Pixels of a JPEG times its scans, each of which goes over all of them."""


def decode(source: Any, *, keep_grey: bool = False) -> Any | None:
    """Decode a picture from an open file; None where it can't be read.

    Parameters
    ----------
    source : binary file
    keep_grey : bool
        Leave a grey picture its one channel; all else becomes RGB.

    Returns
    -------
    PIL.Image.Image or None

    Raises
    ------
    DataError
        If its values have no known range, or it would take too much memory; the message goes on
        after the name of the picture.
    """
    from PIL import Image

    try:
        with Image.open(source, formats=FORMATS) as picture:
            grey = picture.mode in ("1", "L") or picture.mode.startswith("I")
            wanted = "L" if keep_grey and grey else "RGB"
            with _TURNS.take(_measure(picture, source, wanted)):
                plain = _eight_bits(picture)
                return plain.convert(wanted) if plain.mode != wanted else _loaded(plain)
    except DataError:
        raise
    # Pillow reports broken files as any of these, by format.
    except Exception:  # noqa: BLE001
        return None


def _loaded(picture: Any) -> Any:
    """Give the pixels a place of their own, which closing the file leaves alone, without a copy."""
    picture.load()
    return picture


def _measure(picture: Any, source: Any, wanted: str) -> int:
    """Bytes that a picture takes while it is decoded.

    Raises
    ------
    DataError
        If that is too much, or its pixels are too many.
    """
    pixels, scans = picture.width * picture.height, 1
    each = _IN_MEMORY.get(picture.mode, 4) + (0 if picture.mode == wanted else 4)
    if picture.format == "TIFF":  # one piece of it may be larger than all of it
        pixels = max(pixels, picture.tag_v2.get(322, 1) * picture.tag_v2.get(323, 1))
    elif picture.format == "WEBP":
        each += 12  # as the library lays it out, twice, and as it hands it over
    elif picture.format in ("JPEG", "MPO") and (scans := _count_scans(source)) > 1:
        each += 6  # what comes in several scans is put together first
    if pixels > MOST_PIXELS or pixels * each > _MOST_BYTES or pixels * scans > _MOST_WORK:
        in_scans = f" in {scans} scans" if scans > 1 else ""
        raise DataError(
            f"has {picture.width:,}×{picture.height:,} pixels ({picture.mode}{in_scans}), more "
            "than is decoded at once; make it smaller, or take it out."
        )
    return int(pixels * each)


_IN_MEMORY = {"1": 1, "L": 1, "P": 1, "I;16": 20, "I;16B": 20, "I;16L": 20, "I": 24}
"""Bytes of a pixel by Pillow's mode, for all others 4; where they are scaled, with that."""


def _count_scans(source: Any) -> int:
    """Count what may be scans of a JPEG."""
    place = source.tell()
    source.seek(0)
    found: int = sum(part.count(b"\xff\xda") for part in iter(lambda: source.read(2**20), b""))
    source.seek(place)
    return found


class _Turns:
    """Memory that threads share."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0
        self.free = threading.Condition()

    @contextmanager
    def take(self, need: int) -> Iterator[None]:
        """Wait until there is room; what needs more than there ever is goes alone."""
        with self.free:
            self.free.wait_for(lambda: not self.taken or self.taken + need <= self.most)
            self.taken += need
        try:
            yield
        finally:
            with self.free:
                self.taken -= need
                self.free.notify_all()


_TURNS = _Turns(_AT_ONCE)


def _eight_bits(picture: Any) -> Any:
    """Return a picture with 8 bits a channel; Pillow's own conversion cuts off what is above 255.

    Grey pictures of 16 bits are scaled, so that white stays white; colours of 16 bits Pillow has
    scaled when it opened the file.

    Raises
    ------
    DataError
        If its values have no known range, as in TIFF files of 32 bits.
    """
    from PIL import Image

    # Earlier versions of Pillow open PNG files of 16 bits as of 32.
    if picture.mode.startswith("I;16") or (picture.mode, picture.format) == ("I", "PNG"):
        deep = np.asarray(picture).astype(np.uint32)
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise DataError(
            f"has 32 bits a pixel (Pillow's mode {picture.mode}), so that it is not known which "
            "value is white; write it with 8 or 16 bits."
        )
    return picture
