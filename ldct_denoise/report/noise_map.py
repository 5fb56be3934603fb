"""Maps of the noise level of a slice before and after denoising, drawn over the CT image."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.local_noise import local_noise_map
from ldct_denoise.metrics.unpaired_noise import NoiseLimits
from ldct_denoise.regions.body import body_mask
from ldct_denoise.report.overlay import WIDTH_PX, draw_overlay
from ldct_denoise.report.page import Picture

Image = NDArray[np.floating]

#: Percentiles of the first image's map: the end of the colour scale, and the range in the caption.
SCALE_PERCENTILE, RANGE_PERCENTILES = 98, (5, 95)
#: Opacity of the map over the CT image.
OPACITY = 0.6

DEFINITION = (
    "noise map",
    "standard deviation of the noise around each pixel (Gaussian neighbourhood, σ = 6 mm), HU: from the image "
    "after a high-pass filter, without strong edges and with outliers clipped, times the factor that the spectrum "
    "of the series gives from the filtered noise to the whole. Fine anatomy, such as vessels of the lung, counts "
    "in part.",
)


def noise_map_pictures(
    images: Mapping[str, tuple[Image, NoiseLimits]], pixel_spacing_mm: tuple[float, float]
) -> list[Picture]:
    """Noise maps of several images of one slice on the same scale; none where nothing could be measured.

    Parameters
    ----------
    images : mapping from name to (ndarray, NoiseLimits)
        HU, and the noise of the series; the first image gives the body and the scale.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    list of Picture
    """
    first = next(iter(images.values()))[0]
    body = body_mask(first, pixel_spacing_mm)
    maps = {
        name: local_noise_map(hu, body, pixel_spacing_mm, noise.lower or noise.upper)
        for name, (hu, noise) in images.items()
    }
    measured = next(iter(maps.values()))
    measured = measured[np.isfinite(measured)]
    if not measured.size:
        return []
    top = float(np.percentile(measured, SCALE_PERCENTILE)) or 1.0
    pictures = []
    for name, values in maps.items():
        drawn = draw_overlay(
            images[name][0],
            values,
            pixel_spacing_mm,
            limits=(0.0, top),
            colours="viridis",
            opacity=OPACITY,
            label="noise, HU",
        )
        low, high = np.nanpercentile(values, RANGE_PERCENTILES)
        caption = (
            f"noise of the {name}: {low:.1f} to {high:.1f} HU (5th to 95th percentile); hatched: not measured"
        )
        pictures.append(Picture(drawn.png_uri(), caption, WIDTH_PX))
    return pictures
