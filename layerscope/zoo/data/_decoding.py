"""Encoded pictures decoded, of whatever depth.

Pillow decodes them, and not `torchvision.io`, nor the feature ``Image`` of the package datasets:
these give 16 bits a channel as they are, or cut off what is above 255.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from layerscope.errors import DataError

__all__ = ["decode"]


def decode(source: Any, *, keep_grey: bool = False) -> Any | None:
    """Decode a picture from a path or an open file; None where it can't be read.

    Parameters
    ----------
    source : path or file
    keep_grey : bool
        Leave a grey picture its one channel; all else becomes RGB.

    Returns
    -------
    PIL.Image.Image or None

    Raises
    ------
    DataError
        If its values have no known range.
    """
    from PIL import Image

    try:
        with Image.open(source) as picture:
            plain = _eight_bits(picture)
            return plain.convert("L" if keep_grey and plain.mode in ("L", "1") else "RGB")
    # Pillow reports broken files as any of these, by format.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        return None


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
            f"{getattr(picture, 'filename', '') or 'a picture'} has 32 bits a pixel (Pillow's mode "
            f"{picture.mode}), so that it is not known which value is white; write it with 8 or 16 "
            "bits."
        )
    return picture
