"""Training noise: fields with the spectrum and level measured in the low-dose pool, which needs no pairs.

The noise that turns a normal-dose image into a low-dose one has the variance of the low-dose noise minus that of
the normal-dose noise, i.e. 1 − r² of the low-dose variance, where r is ``target_noise_fraction``.

Normal-dose images contain noise too. Low-dose noise n = n₁ + n₂ is the noise n₁ of normal dose plus the added
noise n₂, and the best estimate of n₁ from n is E[n₁ | n] = r²·n. Therefore the training target keeps the fraction
r² of a drawn field, reduced by the noise that the normal-dose image already contains: for an image with noise σ₀
and a field of level σ, E[n₀ + q·n | n₀ + n] = r²·(n₀ + n) gives q = r² − (1 − r²)·σ₀²/σ².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.config import DataConfig
from ldct_denoise.data.downscaled import DownscaledSeries
from ldct_denoise.errors import InputError
from ldct_denoise.io.photos import NoiseLaw, noise_for
from ldct_denoise.physics.content_noise import ContentNoise, ImageWithSpacing, measure_content_noise
from ldct_denoise.physics.noise import (
    NoiseModel,
    estimate_noise,
    fill_with_air,
    filtered_noise,
    half_plane_frequencies,
)
from ldct_denoise.volume import SliceSource, spread_indices

#: Random spectra: the peak of the radial NPS is drawn uniformly from this range, 1/mm.
RANDOM_NPS_PEAKS_PER_MM = (0.12, 0.75)
#: Largest number of slices of each pool in which noise by content is measured.
CONTENT_SLICES = 12


class NoiseSample(NamedTuple):
    """Noise fields, and the fraction of them that stays in the training target.

    Parameters
    ----------
    hu : ndarray, shape (n, rows, columns)
        Zero-mean noise, HU.
    target_fraction : float
        Fraction (0 to 1) that belongs to normal dose.
    """

    hu: NDArray[np.float32]
    target_fraction: float

    @property
    def target_hu(self) -> NDArray[np.float32]:
        """The part that belongs to normal dose, HU."""
        return np.float32(self.target_fraction) * self.hu

    @property
    def added_hu(self) -> NDArray[np.float32]:
        """The part that only low dose has, HU."""
        return np.float32(1 - self.target_fraction) * self.hu


class NoiseSampler:
    """Draw zero-mean CT noise of random level with a measured or a random spectrum.

    Parameters
    ----------
    models : sequence of NoiseModel
        One for each convolution kernel of the low-dose pool.
    config : DataConfig
        ``noise_model``, ``noise_level_factors``, ``random_nps_prob`` and ``target_noise_fraction``.
    normal_noise_hu : mapping of str to float, optional
        Noise standard deviation of each normal-dose series by UID, HU; 0 where it is unknown.
    content_noise : mapping of str to ContentNoise, optional
        Noise by content, by kernel; the noise of other kernels is the same everywhere.
    """

    def __init__(
        self,
        models: Sequence[NoiseModel],
        config: DataConfig,
        normal_noise_hu: Mapping[str, float] | None = None,
        content_noise: Mapping[str, ContentNoise] | None = None,
    ) -> None:
        self.models = tuple(models)
        self.content_noise = dict(content_noise or {})
        self._target_fraction = config.target_noise_fraction**2
        self._normal_noise_hu = dict(normal_noise_hu or {})
        # With dose_simulation the simulated scans are drawn elsewhere; the remaining fields are all random.
        probabilities = {"random_nps": config.random_nps_prob, "dose_simulation": 1.0}
        self._random_nps_prob = probabilities.get(config.noise_model, 0.0)
        excess = math.sqrt(1 - config.target_noise_fraction**2)
        sigmas = np.concatenate([np.atleast_1d(model.sigma_hu) for model in self.models])
        self.low_hu = float(sigmas.min()) * excess * config.noise_level_factors[0]
        self.high_hu = float(sigmas.max()) * excess * config.noise_level_factors[1]
        self._model_of = {model.kernel: model for model in self.models}

    def sample(
        self, normal: SliceSource, clean_hu: NDArray[np.float32], rng: np.random.Generator, count: int = 1
    ) -> NoiseSample:
        """Draw fields of one common level, log-uniform between ``low_hu`` and ``high_hu``.

        Parameters
        ----------
        normal : SliceSource
            Normal-dose series that the noise is added to. Its own kernel decides on the spectrum if the low-dose
            pool has that kernel; otherwise one of the measured kernels is drawn.
        clean_hu : ndarray, shape (rows, columns)
            Square patch that the noise is added to, HU.
        rng : numpy.random.Generator
        count : int
            Number of independent fields.

        Returns
        -------
        NoiseSample
            Fields of shape (count, rows, columns).
        """
        sigma_hu = math.exp(rng.uniform(math.log(self.low_hu), math.log(self.high_hu)))
        if self._random_nps_prob and rng.random() < self._random_nps_prob:
            spacing_mm = normal.geometry.pixel_spacing_mm
            fields = random_nps_noise(count, len(clean_hu), spacing_mm[0], rng)
            content = self.content_noise.get(normal.metadata.kernel)
            if content is not None:
                fields = content.apply(fields, clean_hu, spacing_mm, has_measured_spectrum=False)
            return NoiseSample((fields * sigma_hu).astype(np.float32), self._fraction(normal, sigma_hu))
        return self._measured(normal, clean_hu, sigma_hu, rng, count)

    def sample_reference_level(
        self, normal: SliceSource, clean_hu: NDArray[np.float32], rng: np.random.Generator, count: int = 1
    ) -> NoiseSample:
        """Draw fields of the geometric mean level with a measured spectrum, for validation.

        Parameters
        ----------
        normal : SliceSource
            Normal-dose series that the noise is added to; see :meth:`sample`.
        clean_hu : ndarray, shape (rows, columns)
            Square patch that the noise is added to, HU.
        rng : numpy.random.Generator
        count : int
            Number of independent fields.

        Returns
        -------
        NoiseSample
            Fields of shape (count, rows, columns).
        """
        return self._measured(normal, clean_hu, math.sqrt(self.low_hu * self.high_hu), rng, count)

    def _measured(
        self,
        normal: SliceSource,
        clean_hu: NDArray[np.float32],
        sigma_hu: float,
        rng: np.random.Generator,
        count: int,
    ) -> NoiseSample:
        model = self._model_of.get(normal.metadata.kernel) or self.models[rng.integers(len(self.models))]
        side, spacing_mm = len(clean_hu), normal.geometry.pixel_spacing_mm
        fields = model.draw_fields(count, side, side, spacing_mm, rng)
        if model.kernel in self.content_noise:
            fields = self.content_noise[model.kernel].apply(fields, clean_hu, spacing_mm)
        return NoiseSample((fields * sigma_hu).astype(np.float32), self._fraction(normal, sigma_hu))

    def _fraction(self, normal: SliceSource, sigma_hu: float) -> float:
        """Fraction of a field that stays in the target: q in the docstring of this module."""
        relative = self._normal_noise_hu.get(normal.uid, 0.0) / sigma_hu
        return max(0.0, self._target_fraction - (1 - self._target_fraction) * relative**2)


def random_nps_noise(count: int, side: int, spacing_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Noise fields of unit variance with one random, plausible CT spectrum.

    The radial NPS is ``(a + f) · exp(−(f/f₀)^p)``: the ramp of filtered back-projection, starting slightly above 0
    as measured spectra do, with the roll-off of a convolution kernel. Peak, roll-off and start are random.

    Parameters
    ----------
    count : int
        Number of fields.
    side : int
        Rows and columns of a field.
    spacing_mm : float
        Pixel spacing.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (count, side, side)
    """
    peak, power = rng.uniform(*RANDOM_NPS_PEAKS_PER_MM), rng.uniform(1.2, 6.0)
    roll_off = peak * power ** (1 / power)  # where the derivative of f·exp(−(f/f₀)^p) vanishes at `peak`
    radius = half_plane_frequencies(2 * side, 2 * side, (spacing_mm, spacing_mm)).astype(np.float32)
    nps = (rng.uniform(0, 0.3) * peak + radius) * np.exp(-((radius / roll_off) ** power))
    return filtered_noise(nps, (count, side, side), rng)


class PhotographNoise:
    """Draw uncorrelated Gaussian or Poisson noise, as the literature adds it to photographs.

    Parameters
    ----------
    law : {"gaussian", "poisson"}
    sigma_range : tuple of 2 floats
        The level is drawn uniformly from this range; see :func:`~ldct_denoise.io.photos.noise_for`.
    """

    models: tuple[NoiseModel, ...] = ()

    def __init__(self, law: NoiseLaw, sigma_range: tuple[float, float]) -> None:
        self._law, self._range = law, sigma_range

    def sample(self, clean: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw noise for a clean patch."""
        return noise_for(clean, self._law, rng.uniform(*self._range), rng)

    def sample_reference_level(self, clean: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Draw noise of the mean level for a clean patch, for validation."""
        return noise_for(clean, self._law, sum(self._range) / 2, rng)


def noise_of_pool(
    low: Sequence[SliceSource],
    normal: Sequence[SliceSource],
    config: DataConfig,
    report: Callable[[str], None] | None = None,
) -> NoiseSampler:
    """Measure the noise of the low-dose pool in uniform regions of its images.

    Parameters
    ----------
    low : sequence of SliceSource
        The low-dose pool.
    normal : sequence of SliceSource
        Normal-dose series that noise will be added to; their own noise is measured too, unless the training
        target is to be free of noise.
    config : DataConfig
    report : callable, optional
        Receives a line for each kernel.

    Raises
    ------
    InputError
        If a low-dose series has no uniform tissue in which noise can be measured.
    """
    measured = [estimate_noise(source) for source in low]
    return noise_from_models(
        measured, normal, config, report, content_noise_of_pools(low, normal, measured, config)
    )


def noise_from_models(
    measured: Sequence[NoiseModel],
    normal: Sequence[SliceSource],
    config: DataConfig,
    report: Callable[[str], None] | None = None,
    content_noise: Mapping[str, ContentNoise] | None = None,
) -> NoiseSampler:
    """Build the sampler from noise that was measured in each low-dose series; see :func:`noise_of_pool`.

    Parameters
    ----------
    measured : sequence of NoiseModel
        One for each low-dose series.
    normal : sequence of SliceSource
        Normal-dose series that noise will be added to.
    config : DataConfig
    report : callable, optional
        Receives a line for each kernel.
    content_noise : mapping of str to ContentNoise, optional
        Noise by content, by kernel.
    """
    by_kernel: dict[str, list[NoiseModel]] = {}
    for model in measured:
        by_kernel.setdefault(model.kernel, []).append(model)
    models = [NoiseModel.merge(found) for found in by_kernel.values()]
    for model in models if report else ():
        assert report is not None
        report(
            f"noise of kernel {model.kernel or 'unknown'}: mean frequency {model.mean_frequency_per_mm:.2f}/mm, "
            f"sigma {np.min(model.sigma_hu):.0f}–{np.max(model.sigma_hu):.0f} HU"
        )
    normal_noise_hu = (
        {source.uid: _median_noise_hu(source) for source in normal} if config.target_noise_fraction else {}
    )
    for kernel, content in (content_noise or {}).items() if report else ():
        assert report is not None
        report(f"noise of kernel {kernel or 'unknown'} by content: {content.summary()}")
    return NoiseSampler(models, config, normal_noise_hu, content_noise)


def content_noise_of_pools(
    low: Sequence[SliceSource], normal: Sequence[SliceSource], measured: Sequence[NoiseModel], config: DataConfig
) -> dict[str, ContentNoise]:
    """Measure the noise by content of each kernel that both pools have.

    Parameters
    ----------
    low, normal : sequence of SliceSource
        The two pools.
    measured : sequence of NoiseModel
        Noise of each low-dose series in uniform tissue.
    config : DataConfig
        ``noise_by_content`` and ``target_noise_fraction``.

    Returns
    -------
    dict of str to ContentNoise
        By kernel; empty where ``noise_by_content`` is off.
    """
    found = {}
    for kernel in {model.kernel for model in measured} if config.noise_by_content else ():
        model = NoiseModel.merge([one for one in measured if one.kernel == kernel])
        added_hu = float(np.median(model.sigma_hu)) * math.sqrt(1 - config.target_noise_fraction**2)
        content = measure_content_noise(_images(low, kernel), _images(normal, kernel), model, added_hu)
        if content is not None:
            found[kernel] = content
    return found


def _images(sources: Iterable[SliceSource], kernel: str) -> list[ImageWithSpacing]:
    """Slices of one kernel, evenly spread over its series, with their pixel spacing; no down-scaled copies."""
    series = [source for source in sources if source.metadata.kernel == kernel]
    originals = [source for source in series if not isinstance(source, DownscaledSeries)]
    slices = [(source, index) for source in originals for index in range(len(source))]
    chosen = [slices[number] for number in spread_indices(len(slices), CONTENT_SLICES)]
    return [(fill_with_air(source.read_hu(index)), source.geometry.pixel_spacing_mm) for source, index in chosen]


def _median_noise_hu(source: SliceSource) -> float:
    """Median noise of a series, HU; 0 where it cannot be measured."""
    model = estimate_noise_or_none(source)
    return 0.0 if model is None else float(np.median(model.sigma_hu))


def estimate_noise_or_none(source: SliceSource) -> NoiseModel | None:
    """Noise of a series; None where it has no uniform tissue, or no noise."""
    try:
        return estimate_noise(source)
    except InputError:
        return None
