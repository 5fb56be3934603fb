"""Print figures on air, and on noise that both doses share, from the Mayo 2016 pairs.

python docs/figures/low_dose_noise.py mayo2016 [MODEL ...]

With models, also print the gain of each in those ROIs, and the upper limit where there is only noise.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.models.trained import load_model
from ldct_denoise.physics.simulated_cache import simulated_pool
from ldct_denoise.regions import NOISE_TISSUE_HU, body_mask

#: Side of the ROIs whose spectra are averaged, pixels.
ROI_PX = 32

Restored = Mapping[int, NDArray[np.float32]]


def air(pair: Pair, cache: Path) -> None:
    """Compare noise in air, where stored values are clipped, with simulated noise: clipped, folded or averaged.

    Averaged: the slice is the mean of two thinner ones with √2 times the noise, each clipped.
    """
    scans = [simulated_pool([pair.normal], (0.25, 0.25), seed, cache)[0] for seed in (0, 1)]
    found: dict[str, list[NDArray[np.float32]]] = {}
    for low_index, normal_index in pair.indices:
        low, normal = pair.low.read_hu(low_index), pair.normal.read_hu(normal_index)
        outside = ndimage.distance_transform_edt(~body_mask(normal, pair.normal.geometry.pixel_spacing_mm)) > 4
        smooth = ndimage.gaussian_filter(np.where(outside, normal, -1000), 4)
        mask = outside & (np.abs(smooth + 985) < 40) & (normal > -1024)  # reconstructed air, not the table
        simulated, other = (scan.read_hu(normal_index) for scan in scans)
        thin = [np.maximum(normal + np.sqrt(2) * (scan - normal), -1024) for scan in (simulated, other)]
        images = {
            "quarter dose": low,
            "simulated, clipped": np.maximum(simulated, -1024),
            "simulated, folded": np.abs(simulated + 1024) - 1024,
            "simulated, mean of two clipped": np.mean(thin, axis=0),
        }
        for name, image in images.items():
            found.setdefault(name, []).append(np.stack([(image - normal)[mask], image[mask]]))
    for name, parts in found.items():
        shift, hu = np.concatenate(parts, axis=1)
        shares = f"{np.mean(hu < -1023):.1%} at the lower limit, {np.mean(hu < -1010):.1%} below -1010 HU"
        print(f"  air, {name}: shift {shift.mean():+.1f} HU, spread {hu.std():.1f} HU, {shares}")


def roi_spectra(pair: Pair, restored: Sequence[Restored]) -> Iterator[tuple[str, NDArray[np.complex128]]]:
    """Spectra of ROIs of quarter, full and restored dose: ``structure``, or ``uniform`` soft tissue and fat."""
    window = np.hanning(ROI_PX + 2)[1:-1]
    for low_index, normal_index in pair.indices:
        low, normal = pair.low.read_hu(low_index), pair.normal.read_hu(normal_index)
        images = np.stack([low, normal, *(slices[low_index] for slices in restored)])
        body = body_mask(normal, pair.normal.geometry.pixel_spacing_mm)
        smooth = ndimage.gaussian_filter(normal, 2)
        edges = ndimage.gaussian_gradient_magnitude(smooth, 1)
        for row in range(0, body.shape[0] - ROI_PX, ROI_PX // 2):
            for column in range(0, body.shape[1] - ROI_PX, ROI_PX // 2):
                at = np.s_[..., row : row + ROI_PX, column : column + ROI_PX]
                edge, level = edges[at].mean(), smooth[at].mean()
                kind = (
                    "structure"
                    if edge > 12
                    else "uniform"
                    if edge < 5 and NOISE_TISSUE_HU[0] < level < NOISE_TISSUE_HU[1]
                    else None
                )
                if kind and level > -600 and body[at].mean() > 0.95:
                    centred = images[at] - images[at].mean(axis=(1, 2), keepdims=True)
                    yield kind, np.fft.fft2(centred * np.outer(window, window))


def noise_kept(pair: Pair, restored: Sequence[Restored]) -> None:
    """Print S_qf/S_ff (share of full-dose noise in quarter dose), S_qf/S_qq (share to keep) and gains."""
    sums: dict[str, NDArray[np.float64]] = {}
    for kind, (low, normal, *outputs) in roi_spectra(pair, restored):
        spectra = [(low * normal.conj()).real, np.abs(normal) ** 2, np.abs(low) ** 2]
        sums[kind] = sums.get(kind, 0.0) + np.stack([*spectra, *(np.abs(each - normal) ** 2 for each in outputs)])
    frequency = np.hypot(np.fft.fftfreq(ROI_PX)[:, None], np.fft.fftfreq(ROI_PX)[None])
    for kind, spectra in sums.items():
        for low_end, high_end in ((0.05, 0.2), (0.3, 0.5)):
            band = (frequency >= low_end) & (frequency < high_end)
            cross, full, quarter, *_ = spectra[:, band].sum(axis=1)
            shares = f"S_qf/S_ff {cross / full:.3f}, S_qf/S_qq {cross / quarter:.3f}"
            print(f"  {kind}, {low_end}–{high_end} /pixel: {shares}")
        if restored:
            print(f"  {kind}, gain: {gains(spectra, frequency)}")


def gains(spectra: NDArray[np.float64], frequency: NDArray[np.float64]) -> str:
    """Upper limit of the gain of a linear filter that knows the spectra, and the gain of each model, dB.

    The spectra are averaged over rings of equal frequency. For Gaussian noise alone no filter is better than the
    linear one (Wiener): the remaining error is noise of full dose that is not in quarter dose. A larger gain is
    possible only with knowledge of anatomy beyond its spectrum.
    """
    ring = np.rint(frequency * ROI_PX).astype(int).ravel()
    cross, full, quarter, *left = (np.bincount(ring, each.ravel()) for each in spectra)
    before = (quarter + full - 2 * cross).sum()
    most, *ours = (10 * np.log10(before / each.sum()) for each in (full - cross**2 / quarter, *left))
    return f"a linear filter at most {most:.2f} dB, models {', '.join(f'{each:.2f}' for each in ours)}"


if __name__ == "__main__":
    root = Path(sys.argv[1])
    models = [load_model(name) for name in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as cache:
        for pair in find_pairs(label_series(find_images(root).series, root)):
            print(pair.patient, pair.kernel)
            air(pair, Path(cache))
            noise_kept(pair, [dict(restore_slices(pair.low, model, ApplySettings())) for model in models])
