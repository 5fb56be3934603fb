"""Noise measured from images alone, and noise drawn with what was measured.

No normal-dose partner and no repeated scan is needed: the most uniform small squares of soft tissue give the noise
power spectrum (NPS) of a kernel and its standard deviation slice by slice. The squares' periodograms are those of
ICRU Report 87, eq. 11.1: NPS(f) = dx·dy / (Nx·Ny) · ⟨|FFT(square − trend)|²⟩, here with a Hann window.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.noise import periodograms, ring_means
from ldct_denoise.regions.tissues import noise_tissue_mask
from ldct_denoise.volume import SliceSource

#: Side of the squares, pixels.
SIDE = 32
#: Squares are tried at every so many pixels.
STEP = 8
#: Share of the squares that counts as uniform.
UNIFORM_SHARE = 0.2
#: Width of a frequency bin, 1/mm.
BIN_PER_MM = 0.05
#: Below this frequency (1/mm) anatomy that is left outweighs noise, so the spectrum is continued from above it.
TRUSTED_FROM_PER_MM = 0.1
#: Slices that are looked at in a series, at most, evenly spread.
MOST_SLICES = 40
#: What stands for air, and below which pixels are padding (−2000, −3024): no scanner's noise reaches so far down.
AIR_HU, PADDING_BELOW_HU = -1000.0, -1500.0
#: Variance (HU²) below which a square holds no noise but rounding.
LEAST_VARIANCE = 1e-6


@dataclass(frozen=True)
class NoiseModel:
    """The noise of one reconstruction kernel.

    Parameters
    ----------
    kernel : str
        Convolution kernel, or nothing where the format does not say.
    frequencies_per_mm : ndarray, shape (bins,)
        Centres of the radial bins, 1/mm.
    nps : ndarray, shape (bins,)
        Radial noise power spectrum relative to its largest value.
    sigma_hu : ndarray, shape (slices,)
        Standard deviation in uniform soft tissue of each slice that was measured, HU.
    """

    kernel: str
    frequencies_per_mm: NDArray[np.float64]
    nps: NDArray[np.float64]
    sigma_hu: NDArray[np.float64]

    @property
    def mean_frequency_per_mm(self) -> float:
        """Mean of the radial spectrum, 1/mm."""
        return float(np.sum(self.frequencies_per_mm * self.nps) / np.sum(self.nps))

    @property
    def peak_frequency_per_mm(self) -> float:
        """Where the radial spectrum is largest, 1/mm."""
        return float(self.frequencies_per_mm[np.argmax(self.nps)])

    def power(self, frequency_per_mm: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Relative power at any frequency; nothing above the last bin, falling to nothing at 0."""
        frequencies = np.concatenate([[0.0], self.frequencies_per_mm])
        return np.interp(frequency_per_mm, frequencies, np.concatenate([[0.0], self.nps]), right=0.0)

    def draw_fields(
        self, count: int, height: int, width: int, spacing_mm: tuple[float, float], rng: np.random.Generator
    ) -> NDArray[np.float32]:
        """Stationary Gaussian fields of unit variance with this spectrum.

        Parameters
        ----------
        count, height, width : int
        spacing_mm : tuple of 2 floats
            Row and column spacing of the image that they are for.
        rng : Generator

        Returns
        -------
        ndarray, shape (count, height, width), float32
        """
        # Drawn on twice the area, so that opposite edges are not neighbours.
        rows, columns = 2 * height, 2 * width
        down, along = np.fft.fftfreq(rows, spacing_mm[0]), np.fft.rfftfreq(columns, spacing_mm[1])
        power = self.power(np.hypot(down[:, None], along[None]))
        return filtered_noise(power, (count, height, width), rng)

    def save(self, path: Path) -> None:
        """Write as a small JSON file."""
        content = {
            key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in vars(self).items()
        }
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> NoiseModel:
        """Read what :meth:`save` wrote.

        Raises
        ------
        InputError
            If the file is something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            arrays = {key: np.asarray(content[key], float) for key in ("frequencies_per_mm", "nps", "sigma_hu")}
            _check_spectrum(arrays["frequencies_per_mm"], arrays["nps"])
            return cls(str(content["kernel"]), **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a noise model ({error})") from None

    @classmethod
    def merge(cls, models: Sequence[NoiseModel]) -> NoiseModel:
        """One model of several series of a kernel: the mean spectrum (by slices measured) and all levels."""
        weights = [len(model.sigma_hu) for model in models]
        nps = np.average([model.nps for model in models], axis=0, weights=weights)
        sigma_hu = np.concatenate([model.sigma_hu for model in models])
        return cls(models[0].kernel, models[0].frequencies_per_mm, nps / nps.max(), sigma_hu)


def _check_spectrum(frequencies_per_mm: NDArray[np.float64], nps: NDArray[np.float64]) -> None:
    """Raise ValueError unless each of at least two rising frequencies has its power, and not all are 0."""
    if frequencies_per_mm.ndim != 1 or frequencies_per_mm.shape != nps.shape or len(nps) < 2:
        raise ValueError("frequencies_per_mm and nps must be two lists of one length, of at least 2")
    if not (np.isfinite(frequencies_per_mm).all() and np.all(np.diff(frequencies_per_mm, prepend=0) > 0)):
        raise ValueError("frequencies_per_mm must rise from above 0")
    if not (np.isfinite(nps).all() and nps.min() >= 0 and nps.max() > 0):
        raise ValueError("nps must be ≥ 0, and more somewhere")


def is_image(hu: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where pixels hold HU: finite, and no padding."""
    return np.isfinite(hu) & (hu >= PADDING_BELOW_HU)


def with_air(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    """The slice with air where it holds no HU."""
    return np.where(is_image(hu), hu, np.float32(AIR_HU))


def filtered_noise(
    power: NDArray[np.float64], shape: tuple[int, int, int], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Unit-variance Gaussian fields with this power spectrum.

    Parameters
    ----------
    power : ndarray, shape (2·height, width + 1)
        Relative power on the half plane of ``rfft2`` over twice the area.
    shape : tuple of 3 ints
        (count, height, width).
    rng : Generator
    """
    count, height, width = shape
    area = (2 * height, 2 * width)
    twice = np.full(width + 1, 2.0)
    twice[[0, -1]] = 1.0  # the columns of the half plane that have no mirror image
    sigma = np.sqrt((power * twice).sum() / (area[0] * area[1]))
    white = np.fft.rfft2(rng.standard_normal((count, *area), dtype=np.float32))
    fields = np.fft.irfft2(white * np.sqrt(power), s=area)[:, :height, :width]
    return (fields / sigma).astype(np.float32)


def estimate_noise(source: SliceSource) -> NoiseModel:
    """The noise of a series, from its most uniform squares of soft tissue.

    Parameters
    ----------
    source : SliceSource

    Returns
    -------
    NoiseModel

    Raises
    ------
    InputError
        If no slice has a uniform square of soft tissue, or none has noise.
    """
    spacing_mm = source.geometry.pixel_spacing_mm
    count = len(source)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_SLICES)).round().astype(int))
    spectra, sigmas, is_tissue = [], [], False
    for index in chosen:
        squares = uniform_roi_spectra(with_air(source.read_hu(int(index))), spacing_mm)
        is_tissue |= len(squares) > 0
        if len(squares) and squares.mean() > LEAST_VARIANCE:
            spectra.append(squares.mean(axis=0))
            sigmas.append(np.sqrt(squares.mean()))
    if is_tissue and not spectra:
        raise InputError(f"{source.name}: has no noise to measure; give a scan, as noisy as it was made")
    if not spectra:
        raise InputError(f"{source.name}: no uniform soft tissue to measure noise in; leave it out")
    # Every slice weighs alike: spectra are relative, and the noisiest slice would outweigh all others.
    shape = np.mean([spectrum / spectrum.mean() for spectrum in spectra], axis=0)
    frequencies, nps = radial(shape, spacing_mm)
    nps = _without_anatomy(frequencies, nps)
    return NoiseModel(source.metadata.kernel, frequencies, nps / nps.max(), np.asarray(sigmas))


def uniform_roi_spectra(hu: NDArray[np.float32], spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Periodograms (HU², mean = variance) of a slice's most uniform squares, shape (n, SIDE, SIDE).

    Uniform are those with the least power at low frequencies, where anatomy is, relative to that at high ones.
    """
    squares = soft_tissue_rois(hu)[1]
    if not len(squares):
        return np.empty((0, SIDE, SIDE))
    spectra = periodograms(squares, hann_window=True)
    radius = roi_frequencies(spacing_mm)
    low = spectra[:, (radius > 0) & (radius < 0.12)].mean(axis=1)
    high = spectra[:, radius > 0.5 * radius.max() / np.sqrt(2)].mean(axis=1)
    kept = max(min(10, len(spectra)), round(UNIFORM_SHARE * len(spectra)))
    best: NDArray[np.float64] = spectra[np.argsort(low / np.maximum(high, 1e-9))[:kept]]
    return best


def soft_tissue_rois(hu: NDArray[np.float32], step: int = STEP) -> tuple[NDArray[np.int_], NDArray[np.float64]]:
    """Squares that lie in soft tissue: first row and column, shape (n, 2), and HU, shape (n, SIDE, SIDE)."""
    tissue = noise_tissue_mask(hu).astype(np.uint8)
    inside = ndimage.minimum_filter(tissue, size=SIDE, origin=-(SIDE // 2))[::step, ::step].astype(bool)
    corners = np.argwhere(inside) * step
    corners = corners[(corners[:, 0] <= hu.shape[0] - SIDE) & (corners[:, 1] <= hu.shape[1] - SIDE)]
    squares = [hu[row : row + SIDE, column : column + SIDE] for row, column in corners]
    return corners, np.asarray(squares, float).reshape(-1, SIDE, SIDE)


def roi_frequencies(spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Frequency of each cell of a square's spectrum, 1/mm."""
    down, along = (np.fft.fftfreq(SIDE, spacing) for spacing in spacing_mm)
    return np.hypot(down[:, None], along[None])


def radial(
    spectrum: NDArray[np.float64], spacing_mm: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Radial mean of a square's spectrum: bin centres (1/mm) and power; empty bins above the corner are 0."""
    edges = np.arange(0.5, 24) * BIN_PER_MM
    return (edges[:-1] + edges[1:]) / 2, ring_means(spectrum, roi_frequencies(spacing_mm), edges)[0]


def _without_anatomy(frequencies_per_mm: NDArray[np.float64], nps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Below its peak the noise of filtered back-projection only rises (the ramp): what does not is anatomy.

    Power is made to rise up to the peak, and in proportion to frequency below ``TRUSTED_FROM_PER_MM``.
    """
    trusted = frequencies_per_mm >= TRUSTED_FROM_PER_MM
    peak = int(np.argmax(np.where(trusted, nps, 0)))
    rising = nps.copy()
    rising[: peak + 1] = np.minimum.accumulate(nps[peak::-1])[::-1]
    first = int(np.argmax(trusted))
    rising[:first] = np.minimum(
        rising[:first], rising[first] * frequencies_per_mm[:first] / frequencies_per_mm[first]
    )
    return rising
