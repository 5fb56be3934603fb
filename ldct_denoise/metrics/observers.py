"""Model observers that score images: detectability d′ of a lesion in ensembles with and without it.

Images come in pairs with the same noise, with the lesion and without. The observer's template is applied to the
processed images, so that everything a nonlinear denoiser does to lesion and noise is counted. ``d′`` is the
distance between the mean scores with and without the lesion, in standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from ldct_denoise.errors import InputError
from ldct_denoise.metrics.detectability import eye_filter
from ldct_denoise.metrics.statistics import small_sample_spread

Stack = NDArray[np.floating]

#: Pass bands of the Gabor channels: centre frequencies, 1/mm, one octave wide each.
GABOR_CENTRES_PER_MM = (0.05, 0.1, 0.2, 0.4)
GABOR_ORIENTATIONS = 8
#: Regularisation of the channels' covariance, relative to its mean variance.
RIDGE = 1e-9


@dataclass(frozen=True)
class Detectability:
    """Detectability index with its 95 % bootstrap interval.

    Parameters
    ----------
    d_prime : float
        Dimensionless.
    low, high : float
        Limits of the interval.
    samples : ndarray, shape (n,)
        Bootstrap samples of d′. Samples of the same seed and number of realisations belong together.
    """

    d_prime: float
    low: float
    high: float
    samples: NDArray[np.float64]

    @property
    def auc(self) -> float:
        """Area under the ROC curve of Gaussian scores, ``Φ(d′/√2)``."""
        return float(special.ndtr(self.d_prime / np.sqrt(2)))

    @property
    def auc_interval(self) -> tuple[float, float]:
        """Limits of the 95 % interval of :attr:`auc`."""
        low, high = special.ndtr(np.array([self.low, self.high]) / np.sqrt(2))
        return float(low), float(high)


def laguerre_gauss_channels(size: int, width_px: float, count: int = 6) -> NDArray[np.float64]:
    """Laguerre–Gauss channels ``√2/a·exp(−πr²/a²)·L_j(2πr²/a²)``, complete for rotationally symmetric lesions.

    With a = √(2π)·σ the first channel is a Gaussian lesion of σ pixels.

    Parameters
    ----------
    size : int
        Side of the region, pixels.
    width_px : float
        Width a, pixels.
    count : int
        Number of channels.

    Returns
    -------
    ndarray, shape (size², count)

    References
    ----------
    Gallas & Barrett, "Validating the use of channels to estimate the ideal linear observer", JOSA A 20, 2003.
    """
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    square = (rows**2 + columns**2) / width_px**2
    channels = [
        np.sqrt(2) / width_px * np.exp(-np.pi * square) * special.eval_laguerre(order, 2 * np.pi * square)
        for order in range(count)
    ]
    return np.stack([channel.ravel() for channel in channels], axis=1)


def gabor_channels(size: int, spacing_mm: float) -> NDArray[np.float64]:
    """Even Gabor channels of four octaves, each the mean over eight orientations.

    ``exp(−4·ln 2·r²/w²)·cos(2πf·(x·cos θ + y·sin θ))`` with ``w = 6·ln 2/(πf)``: a bandwidth of one octave. Odd
    channels and single orientations are left out, because a round lesion in the centre has none.

    Parameters
    ----------
    size : int
        Side of the region, pixels.
    spacing_mm : float
        Pixel spacing.

    Returns
    -------
    ndarray, shape (size², channels)

    References
    ----------
    Yu et al., "Prediction of human observer performance in a 2-alternative forced choice low-contrast detection
    task using channelized Hotelling observer", Med. Phys. 40, 2013.
    """
    y, x = (np.mgrid[:size, :size] - (size - 1) / 2) * spacing_mm
    angles = np.pi * np.arange(GABOR_ORIENTATIONS) / GABOR_ORIENTATIONS
    along = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y
    channels = []
    for frequency in GABOR_CENTRES_PER_MM:
        width_mm = 6 * np.log(2) / (np.pi * frequency)
        envelope = np.exp(-4 * np.log(2) * (x**2 + y**2) / width_mm**2)
        wave = envelope * np.cos(2 * np.pi * frequency * along).mean(axis=0)
        channels.append((wave / np.linalg.norm(wave)).ravel())
    return np.stack(channels, axis=1)


def npwe_template(lesion: Stack, spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Template of the non-prewhitening observer with eye filter: the ideal lesion, filtered twice by the eye.

    Parameters
    ----------
    lesion : ndarray, shape (rows, columns)
        The lesion as the scanner images it, without noise and without any denoiser, HU.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    ndarray, shape (rows, columns)
    """
    down, along = (np.fft.fftfreq(side, mm) for side, mm in zip(lesion.shape, spacing_mm, strict=True))
    eye = eye_filter(np.hypot(down[:, None], along[None, :]))
    template: NDArray[np.float64] = np.fft.ifft2(np.fft.fft2(lesion) * eye**2).real
    return template


def template_detectability(
    present: Stack, absent: Stack, template: Stack, *, seed: int = 0, repeats: int = 500
) -> Detectability:
    """d′ of an observer with a fixed template.

    Parameters
    ----------
    present, absent : ndarray, shape (realisations, rois, rows, columns)
        Regions of interest (ROIs) with and without the lesion in their centre. Each pair has the same noise. The
        ROIs of one realisation come from one image, and each has the same place in all realisations: what is
        common to a place is background, not noise. Shape (realisations, rows, columns) stands for one ROI each.
    template : ndarray, shape (rows, columns)
        For instance :func:`npwe_template`.
    seed : int
        Seed of the bootstrap over realisations.
    repeats : int
        Number of bootstrap samples.

    Returns
    -------
    Detectability

    Raises
    ------
    InputError
        If there are fewer than two realisations, or the shapes differ.
    """
    with_lesion, without = (_outputs(stack, template.reshape(-1, 1)) for stack in (present, absent))
    _check(with_lesion, without, 2)
    difference, residuals = _signal_and_noise(with_lesion, without)
    squares = (residuals**2).mean(axis=(0, 2, 3))
    return _from_scores(difference[:, 0], squares, without.shape[1], seed=seed, repeats=repeats)


def hotelling_detectability(
    present: Stack,
    absent: Stack,
    channels: NDArray[np.float64],
    *,
    internal_noise: float = 0.0,
    seed: int = 0,
    repeats: int = 500,
) -> Detectability:
    """d′ of the channelised Hotelling observer (CHO), leave-one-out.

    Every realisation is scored by a template trained on all others, so that the observer cannot learn the noise it
    is tested on; otherwise d′ of small samples is too high.

    Parameters
    ----------
    present, absent : ndarray, shape (realisations, rois, rows, columns)
        As for :func:`template_detectability`.
    channels : ndarray, shape (rows · columns, count)
        See :func:`laguerre_gauss_channels` and :func:`gabor_channels`.
    internal_noise : float
        Variance of the observer's own noise in each channel, relative to the variance from the images; 0 is the
        ideal linear observer of the channels. People have internal noise.
    seed : int
        Seed of the bootstrap over realisations.
    repeats : int
        Number of bootstrap samples.

    Returns
    -------
    Detectability

    Raises
    ------
    InputError
        If there are too few images for the number of channels, or the shapes differ.

    References
    ----------
    Gallas & Barrett, "Validating the use of channels to estimate the ideal linear observer", JOSA A 20, 2003.
    Brankov, "Evaluation of the channelized Hotelling observer with an internal-noise model in a train-test
    paradigm for cardiac SPECT defect detection", Phys. Med. Biol. 58, 2013.
    """
    with_lesion, without = (_outputs(stack, channels) for stack in (present, absent))
    count = channels.shape[1]
    _check(with_lesion, without, max(2, -(-2 * count // with_lesion.shape[1])))
    difference, residuals = _signal_and_noise(with_lesion, without)
    products = np.einsum("krmi,krmj->rij", residuals, residuals) / 2
    realisations, rois = without.shape[:2]
    signals, squares, own = np.empty((3, realisations))
    for left_out in range(realisations):
        freedom = rois * max(realisations - 2, 1)
        covariance = (products.sum(axis=0) - products[left_out]) / freedom
        covariance += np.eye(count) * (RIDGE * np.trace(covariance) / count or 1.0)
        inner = np.diag(internal_noise * np.diag(covariance))
        mean = (difference.sum(axis=0) - difference[left_out]) / (realisations - 1)
        template = np.linalg.solve(covariance + inner, mean)
        signals[left_out] = difference[left_out] @ template
        squares[left_out] = np.mean((residuals[:, left_out] @ template) ** 2)
        own[left_out] = template @ inner @ template
    return _from_scores(signals, squares, rois, internal=float(own.mean()), seed=seed, repeats=repeats)


def _signal_and_noise(
    present: NDArray[np.float64], absent: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean difference of each realisation, and deviations of both kinds of image from their mean in each place.

    Shapes (realisations, channels) and (2, realisations, rois, channels). Templates of different realisations
    weigh signal and background differently, which is no noise: only the deviations are.
    """
    residuals = np.stack([outputs - outputs.mean(axis=0) for outputs in (present, absent)])
    return (present - absent).mean(axis=1), residuals


def _outputs(stack: Stack, channels: Stack) -> NDArray[np.float64]:
    """Outputs of the channels, shape (realisations, rois, channels)."""
    return np.asarray(stack, dtype=np.float64).reshape(len(stack), -1, len(channels)) @ channels


def _check(present: NDArray[np.float64], absent: NDArray[np.float64], needed: int) -> None:
    if present.shape != absent.shape:
        raise InputError(
            f"images with and without the lesion must be pairs, not {present.shape} and {absent.shape}"
        )
    if len(present) < needed:
        raise InputError(f"{len(present)} realisations are too few for {present.shape[2]} channels; give {needed}")


def _from_scores(
    difference: NDArray[np.float64],
    squares: NDArray[np.float64],
    rois: int,
    *,
    internal: float = 0.0,
    seed: int,
    repeats: int,
) -> Detectability:
    """d′ from the mean difference and the mean squared deviation of each realisation's scores.

    The bootstrap samples are centred on the estimate and spread for the small number of realisations
    (:func:`~ldct_denoise.metrics.statistics.small_sample_spread`).
    """
    count = len(difference)
    squares = squares * count / (count - 1)
    factor = 1 + internal / max(float(squares.mean()), 1e-300)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=repeats) / count
    freedom = rois * (count - 1)
    # The inverse of a standard deviation is too large on average (Hedges 1981).
    factor = factor / (1 - 3 / (4 * freedom - 1)) ** 2
    d_prime, samples = (
        _ratio(part @ difference, factor * (part @ squares)) for part in (np.full(count, 1 / count), weights)
    )
    if not np.isfinite(d_prime):
        return Detectability(float(d_prime), float(d_prime), float(d_prime), np.full(repeats, float(d_prime)))
    samples = float(d_prime) + small_sample_spread(count) * (samples - samples.mean())
    low, high = np.quantile(samples, [0.025, 0.975])
    return Detectability(float(d_prime), float(low), float(high), samples)


def _ratio(difference: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """``difference/√variance``; 0 without a difference."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 0.0, difference / np.sqrt(variance))
