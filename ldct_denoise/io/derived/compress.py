"""Compress derived images without loss, verified by decoding before they are written."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import pixel_array
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from ldct_denoise.errors import ConfigError, InputError

#: Transfer syntax of each compression on the command line (PS3.5 A.4).
SYNTAXES: dict[str, UID] = {"jpegls": JPEGLSLossless, "j2k": JPEG2000Lossless, "rle": RLELossless}
_PLUGINS = {"jpegls": "pyjpegls", "j2k": "pylibjpeg", "rle": "pydicom"}


def transfer_syntax(compress: str | None) -> UID | None:
    """Transfer syntax of a compression; None without compression.

    Raises
    ------
    ConfigError
        If there is no such compression.
    """
    if compress is None:
        return None
    if compress not in SYNTAXES:
        raise ConfigError(f"compress {compress!r}: give one of {', '.join(SYNTAXES)}")
    return SYNTAXES[compress]


def compress_pixels(image: Dataset, pixels: NDArray[np.integer], compress: str) -> None:
    """Set the pixel data of ``image`` to ``pixels``, compressed without loss.

    Parameters
    ----------
    image : Dataset
        Has file meta information and the attributes of the Image Pixel module; changed in place.
    pixels : ndarray, shape (rows, columns) or (frames, rows, columns)
        Stored values.
    compress : str
        A key of :data:`SYNTAXES`.

    Raises
    ------
    InputError
        If these pixels cannot be compressed, or decoding does not restore them.
    """
    image.PixelData = pixels.tobytes()
    image["PixelData"].VR = "OW" if image.BitsAllocated > 8 else "OB"
    try:
        image.compress(SYNTAXES[compress], encoding_plugin=_PLUGINS[compress], generate_instance_uid=False)
        exact = np.array_equal(pixel_array(image, raw=True), pixels)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"cannot compress as {compress} ({reason}); write uncompressed or choose rle") from None
    if not exact:
        raise InputError(f"{compress} does not restore these pixels; write uncompressed or choose rle")
