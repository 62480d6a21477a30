"""Pictures of other depths than 8 bits a channel."""

from __future__ import annotations

from typing import Any

import numpy as np

from layerscope.errors import DataError

__all__ = ["eight_bits"]


def eight_bits(picture: Any) -> Any:
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
