"""Print the checks of `apply --report` for "denoisers" of known quality, on real pairs.

python docs/figures/no_reference_limits.py mayo2016
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.checks import CHECKED_TISSUES
from ldct_denoise.metrics.no_reference import no_reference_report

Image = NDArray[np.float32]
#: Slices of each pair of series that are measured, the first ones.
SLICES = 4

DENOISERS: dict[str, Callable[[Image, Image], Image]] = {
    "full dose": lambda low, full: full,
    "mean of quarter and full dose": lambda low, full: (low + full) / 2,
    "Gaussian, 0.5 px": lambda low, full: ndimage.gaussian_filter(low, 0.5),
    "Gaussian, 1 px": lambda low, full: ndimage.gaussian_filter(low, 1.0),
    "median 5×5": lambda low, full: ndimage.median_filter(low, 5),
    "median 9×9 of the full dose": lambda low, full: ndimage.median_filter(full, 9),
    "full dose with 30 % of its detail (finer than 1.5 px) removed": lambda low, full: (
        0.7 * full + 0.3 * ndimage.gaussian_filter(full, 1.5)
    ),
    "full dose + 4 HU": lambda low, full: full + 4,
}


def main(root: Path) -> None:
    """Print the range over the pairs of series, and the largest shift of fat and soft tissue."""
    pairs = find_pairs(label_series(find_images(root).series, root))
    for name, denoiser in DENOISERS.items():
        edges, correlations, shifts = [], [], []
        for pair in pairs:
            images = (
                (pair.low.read_hu(low), pair.normal.read_hu(normal)) for low, normal in pair.indices[:SLICES]
            )
            report = no_reference_report(
                ((low, denoiser(low, full)) for low, full in images), pair.low.geometry.pixel_spacing_mm
            )
            values = {check.name: check.value for check in report.checks}
            edges.append(values["edge sharpness"])
            correlations.append(values["removed anatomy"])
            shifts += [abs(report.shift_hu[tissue]) for tissue in CHECKED_TISSUES]
        print(
            f"{name}: edges {min(edges):.3f} … {max(edges):.3f}, edge correlation {min(correlations):+.2f} … "
            f"{max(correlations):+.2f}, largest shift {max(shifts):.2f} HU"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
