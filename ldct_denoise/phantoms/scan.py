"""The synthetic scanner: sampling, resolution and noise of phantom scans.

Objects are scanned by the simulator of ``ldct_denoise.physics.dose``. :func:`with_noise` is a faster approximation
whose noise depends only on the thickness of the body.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.physics.dose import scan_noise
from ldct_denoise.physics.noise import NoiseModel, filtered_noise
from ldct_denoise.physics.scanner import DEFAULT_SCANNER
from ldct_denoise.physics.texture import Texture
from ldct_denoise.volume import Geometry, Volume

#: Slice spacing, mm.
SLICE_MM = 3.0
#: Noise in the centre of an average patient at normal dose, HU.
NORMAL_NOISE_HU = 14.0
#: Kernel of the synthetic scanner, and the peak of its noise power spectrum, 1/mm.
KERNEL = "Sim35"
KERNEL_PEAK_PER_MM = 0.35
#: Normal dose: mean tube current, and quanta per mm, radian and mA (a Siemens Definition AS+ has about a million).
NORMAL_MA = 200.0
QUANTA_PER_MA = 1.0e6
#: Resolution of the synthetic scanner: σ of a Gaussian, pixels.
SYSTEM_BLUR_PX = 0.6


def fine_axis_mm(size: int, field_mm: float, oversampling: int) -> NDArray[np.float64]:
    """Centres of the fine samples along a side.

    Parameters
    ----------
    size : int
        Pixels along the side.
    field_mm : float
        Field of view.
    oversampling : int
        Samples per pixel.

    Returns
    -------
    ndarray, shape (size · oversampling,)
        mm from the centre.
    """
    fine = size * oversampling
    return (np.arange(fine) + 0.5) / fine * field_mm - field_mm / 2


def detect(fine_hu: NDArray[np.float64], oversampling: int) -> NDArray[np.float32]:
    """Average fine samples to pixels, and blur them by the scanner's resolution (a Gaussian of 0.6 pixels)."""
    size = len(fine_hu) // oversampling
    coarse = fine_hu.reshape(size, oversampling, size, oversampling).mean(axis=(1, 3))
    return ndimage.gaussian_filter(coarse, SYSTEM_BLUR_PX).astype(np.float32)


def stack_geometry(slices: int, size: int, field_mm: float) -> Geometry:
    """Geometry of square axial slices, centred, 3 mm apart.

    Parameters
    ----------
    slices : int
        Number of slices.
    size : int
        Matrix size, pixels.
    field_mm : float
        Field of view.

    Returns
    -------
    Geometry
    """
    spacing = field_mm / size
    corner = -(field_mm - spacing) / 2
    positions = np.array([[corner, corner, number * SLICE_MM] for number in range(slices)])
    return Geometry(positions, (1, 0, 0), (0, 1, 0), (spacing, spacing), size, size)


def with_noise(truth: Volume, dose: float, seed: int) -> Volume:
    """Add stationary-spectrum noise to a noise-free volume: variance ∝ 1/dose, strongest in the centre of the
    body.

    Parameters
    ----------
    truth : Volume
        Noise-free volume.
    dose : float
        Fraction of the normal dose, > 0.
    seed : int
        Another seed gives another noise realisation.

    Returns
    -------
    Volume
    """
    geometry = truth.geometry
    side = geometry.rows
    spacing = geometry.pixel_spacing_mm[0]
    down, along = np.fft.fftfreq(2 * side, spacing), np.fft.rfftfreq(2 * side, spacing)
    radius = np.hypot(down[:, None], along[None])
    power = radius * np.exp(-((radius / (KERNEL_PEAK_PER_MM * 2**0.5)) ** 2))  # a ramp, rolled off by the kernel
    noisy = np.empty(truth.hu.shape, np.float32)
    for index, hu in enumerate(truth.hu):
        rng = np.random.default_rng([13, seed, index, round(dose * 1e6)])
        field = filtered_noise(power, (1, side, side), rng)[0]
        body = ndimage.gaussian_filter(np.clip(hu + 1000, 0, 1500), side / 12) / 1000
        noisy[index] = hu + field * NORMAL_NOISE_HU / math.sqrt(dose) * np.clip(body, 0.25, None)
    return truth.with_hu(noisy)


def scan(
    truth: Volume, dose: float, seed: int, progress: Callable[[int, int, str], None] = lambda d, t, n: None
) -> Volume:
    """Scan a noise-free volume with the simulated scanner: quantum and electronic noise of its projections.

    Parameters
    ----------
    truth : Volume
        Noise-free volume.
    dose : float
        Fraction of the normal dose (200 mA), > 0.
    seed : int
        Another seed gives another noise realisation.
    progress : callable
        Called with (slices done, slices in all, note).

    Returns
    -------
    Volume
    """
    spacing_mm = truth.geometry.pixel_spacing_mm
    texture = Texture.of(synthetic_kernel(spacing_mm), spacing_mm)
    noisy = np.empty(truth.hu.shape, np.float32)
    for index, hu in enumerate(truth.hu):
        rng = np.random.default_rng([29, seed, index, round(dose * 1e6)])
        noisy[index] = hu + scan_noise(
            hu, spacing_mm, texture, quanta_per_ma=QUANTA_PER_MA, current_ma=NORMAL_MA * dose,
            scanner=DEFAULT_SCANNER, rng=rng,
        )  # fmt: skip
        progress(index + 1, len(noisy), truth.name)
    return truth.with_hu(noisy)


def synthetic_kernel(spacing_mm: tuple[float, float]) -> NoiseModel:
    """Noise power spectrum of the synthetic scanner's kernel: a ramp, rolled off by a Gaussian."""
    frequency = np.arange(0.025, 0.72 / min(spacing_mm), 0.025)
    nps = frequency * np.exp(-((frequency / (KERNEL_PEAK_PER_MM * 2**0.5)) ** 2))
    return NoiseModel(KERNEL, frequency, nps / nps.max(), np.ones(1))
