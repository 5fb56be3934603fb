"""Prints what docs/experiments.md says of air and of the noise that low dose keeps, from the Mayo 2016 pairs.

python docs/figures/low_dose_noise.py ../shared/data/mayo2016 [MODEL ...]

With models also what each gains in those squares, beside the most that can be gained where nothing but noise is.
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
from ldct_denoise.regions.body import body_mask

SIDE = 32  # of the squares whose spectra are averaged, pixels

Restored = Mapping[int, NDArray[np.float32]]


def air(pair: Pair, cache: Path) -> None:
    """How noise lies on the scanner's floor beside the patient, against simulated noise cut off, folded, averaged.

    Averaged: the slice is the mean of two thinner ones, each of √2 times the noise and cut off by itself.
    """
    scans = [simulated_pool([pair.normal], (0.25, 0.25), seed, cache)[0] for seed in (0, 1)]
    found: dict[str, list[NDArray[np.float32]]] = {}
    for low_at, normal_at in pair.indices:
        low, normal = pair.low.read_hu(low_at), pair.normal.read_hu(normal_at)
        beside = ndimage.distance_transform_edt(~body_mask(normal, pair.normal.geometry.pixel_spacing_mm)) > 4
        smooth = ndimage.gaussian_filter(np.where(beside, normal, -1000), 4)
        mask = beside & (np.abs(smooth + 985) < 40) & (normal > -1024)  # air that was reconstructed, not the table
        simulated, other = (scan.read_hu(normal_at) for scan in scans)
        thin = [np.maximum(normal + np.sqrt(2) * (scan - normal), -1024) for scan in (simulated, other)]
        images = {
            "quarter dose": low,
            "simulated, cut": np.maximum(simulated, -1024),
            "simulated, folded": np.abs(simulated + 1024) - 1024,
            "simulated, mean of two cut": np.mean(thin, axis=0),
        }
        for name, image in images.items():
            found.setdefault(name, []).append(np.stack([(image - normal)[mask], image[mask]]))
    for name, parts in found.items():
        shift, hu = np.concatenate(parts, axis=1)
        shares = f"{np.mean(hu < -1023):.1%} on the floor, {np.mean(hu < -1010):.1%} below -1010 HU"
        print(f"  air, {name}: shift {shift.mean():+.1f} HU, spread {hu.std():.1f} HU, {shares}")


def squares(pair: Pair, restored: Sequence[Restored]) -> Iterator[tuple[str, NDArray[np.complex128]]]:
    """Spectra of squares of quarter, full and restored dose: ``structure``, or ``uniform`` soft tissue and fat."""
    window = np.hanning(SIDE + 2)[1:-1]
    for low_at, normal_at in pair.indices:
        low, normal = pair.low.read_hu(low_at), pair.normal.read_hu(normal_at)
        images = np.stack([low, normal, *(slices[low_at] for slices in restored)])
        body = body_mask(normal, pair.normal.geometry.pixel_spacing_mm)
        smooth = ndimage.gaussian_filter(normal, 2)
        edges = ndimage.gaussian_gradient_magnitude(smooth, 1)
        for row in range(0, body.shape[0] - SIDE, SIDE // 2):
            for column in range(0, body.shape[1] - SIDE, SIDE // 2):
                at = np.s_[..., row : row + SIDE, column : column + SIDE]
                edge, level = edges[at].mean(), smooth[at].mean()
                kind = "structure" if edge > 12 else "uniform" if edge < 5 and abs(level) < 150 else None
                if kind and level > -600 and body[at].mean() > 0.95:
                    centred = images[at] - images[at].mean(axis=(1, 2), keepdims=True)
                    yield kind, np.fft.fft2(centred * np.outer(window, window))


def noise_kept(pair: Pair, restored: Sequence[Restored]) -> None:
    """S_qf/S_ff (what quarter dose has of full dose) and S_qf/S_qq (what of it to keep) by frequency; gains."""
    sums: dict[str, NDArray[np.float64]] = {}
    for kind, (low, normal, *made) in squares(pair, restored):
        spectra = [(low * normal.conj()).real, np.abs(normal) ** 2, np.abs(low) ** 2]
        sums[kind] = sums.get(kind, 0.0) + np.stack([*spectra, *(np.abs(each - normal) ** 2 for each in made)])
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    for kind, spectra in sums.items():
        for low_end, high_end in ((0.05, 0.2), (0.3, 0.5)):
            band = (frequency >= low_end) & (frequency < high_end)
            cross, full, quarter, *_ = spectra[:, band].sum(axis=1)
            shares = f"S_qf/S_ff {cross / full:.3f}, S_qf/S_qq {cross / quarter:.3f}"
            print(f"  {kind}, {low_end}–{high_end} /pixel: {shares}")
        if restored:
            print(f"  {kind}, gain: {gains(spectra, frequency)}")


def gains(spectra: NDArray[np.float64], frequency: NDArray[np.float64]) -> str:
    """In dB: the most that a linear filter can gain who knows the spectra, then what each model gains.

    The spectra are averaged over rings of one frequency, as the filter would have to be told them. For Gaussian
    noise alone no filter is better than the linear one (Wiener): what is left is full dose's own noise, of which
    quarter dose knows nothing. More is gained only where anatomy is known better than by its spectrum.
    """
    ring = np.rint(frequency * SIDE).astype(int).ravel()
    cross, full, quarter, *left = (np.bincount(ring, each.ravel()) for each in spectra)
    there = (quarter + full - 2 * cross).sum()
    most, *ours = (10 * np.log10(there / each.sum()) for each in (full - cross**2 / quarter, *left))
    return f"a linear filter at most {most:.2f} dB, models {', '.join(f'{each:.2f}' for each in ours)}"


if __name__ == "__main__":
    root = Path(sys.argv[1])
    models = [load_model(name) for name in sys.argv[2:]]
    with tempfile.TemporaryDirectory() as cache:
        for pair in find_pairs(label_series(find_images(root).series, root)):
            print(pair.patient, pair.kernel)
            air(pair, Path(cache))
            noise_kept(pair, [dict(restore_slices(pair.low, model, ApplySettings())) for model in models])
