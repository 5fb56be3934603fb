"""Noise fields for training: drawn with the low-dose pool's own spectrum and level, which needs no pairs.

For training the noise to add to a normal-dose image is what the low dose has in excess: its variance less that of
the normal-dose pool (r² of it, r being ``target_noise_fraction``).

Normal dose is not free of noise either. Low dose is normal dose with more noise, n = n₁ + n₂, and of all that is
seen of it, n, the best guess at the normal dose's own part is E[n₁ | n] = r²·n. That share of
a drawn field stays in the target; where the normal-dose image has noise of its own, so much less of the field:
with σ₀ of its own and σ drawn, E[n₀ + q·n | n₀ + n] = r²·(n₀ + n) gives q = r² − (1 − r²)·σ₀²/σ².
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.config import DataConfig
from ldct_denoise.errors import InputError
from ldct_denoise.io.photos import NoiseLaw, noise_for
from ldct_denoise.physics.noise import NoiseModel, estimate_noise, filtered_noise
from ldct_denoise.volume import SliceSource

#: Spectra of `broad` noise: the peak of the radial NPS is drawn from this range, 1/mm.
BROAD_PEAKS_PER_MM = (0.12, 0.75)


class Drawn(NamedTuple):
    """Noise fields in HU, shape (count, side, side), and the share of them that belongs to normal dose."""

    hu: NDArray[np.float32]
    kept: float

    @property
    def in_target(self) -> NDArray[np.float32]:
        """The part that belongs to normal dose, HU."""
        return np.float32(self.kept) * self.hu

    @property
    def added(self) -> NDArray[np.float32]:
        """The part that only low dose has, HU."""
        return np.float32(1 - self.kept) * self.hu


class PoolNoise:
    """Draws zero-mean noise fields in HU, of random level, with a measured spectrum.

    Parameters
    ----------
    models : sequence of NoiseModel
        One for each kernel of the low-dose pool.
    config : DataConfig
        ``noise_model``, ``noise_level_factors``, ``random_nps_prob`` and ``target_noise_fraction``.
    own_hu : dict, optional
        Noise of the normal-dose series themselves, by UID, HU; 0 where it is not known.
    """

    def __init__(
        self, models: Sequence[NoiseModel], config: DataConfig, own_hu: Mapping[str, float] | None = None
    ) -> None:
        self.models = tuple(models)
        self._kept = config.target_noise_fraction**2
        self._own_hu = dict(own_hu or {})
        self._random_nps_prob = {"random_nps": config.random_nps_prob, "dose_simulation": 1.0}.get(
            config.noise_model, 0.0
        )
        excess = math.sqrt(1 - config.target_noise_fraction**2)
        sigmas = np.concatenate([np.atleast_1d(model.sigma_hu) for model in self.models])
        self.low_hu = float(sigmas.min()) * excess * config.noise_level_factors[0]
        self.high_hu = float(sigmas.max()) * excess * config.noise_level_factors[1]
        self._by_kernel = {model.kernel: model for model in self.models}

    def draw(self, normal: SliceSource, side: int, rng: np.random.Generator, count: int = 1) -> Drawn:
        """Fields of shape (count, side, side), of one level log-uniform between ``low_hu`` and ``high_hu``.

        A normal-dose series gets noise of its own kernel where the low-dose pool has it. Where the rest is
        simulated, all are broad.
        """
        sigma_hu = math.exp(rng.uniform(math.log(self.low_hu), math.log(self.high_hu)))
        if self._random_nps_prob and rng.random() < self._random_nps_prob:
            fields = broad_fields(count, side, normal.geometry.pixel_spacing_mm[0], rng)
            return Drawn((fields * sigma_hu).astype(np.float32), self._share(normal, sigma_hu))
        return self._measured(normal, side, sigma_hu, rng, count)

    def probe(self, normal: SliceSource, side: int, rng: np.random.Generator, count: int = 1) -> Drawn:
        """Fields of the measured spectrum and the middle level, to judge by."""
        return self._measured(normal, side, math.sqrt(self.low_hu * self.high_hu), rng, count)

    def _measured(
        self, normal: SliceSource, side: int, sigma_hu: float, rng: np.random.Generator, count: int
    ) -> Drawn:
        own = self._by_kernel.get(normal.metadata.kernel)
        model = own or self.models[rng.integers(len(self.models))]
        fields = model.draw_fields(count, side, side, normal.geometry.pixel_spacing_mm, rng)
        return Drawn((fields * sigma_hu).astype(np.float32), self._share(normal, sigma_hu))

    def _share(self, normal: SliceSource, sigma_hu: float) -> float:
        """How much of a field stays in the target: r², less what the image has of its own."""
        own = self._own_hu.get(normal.uid, 0.0) / sigma_hu
        return max(0.0, self._kept - (1 - self._kept) * own**2)


def broad_fields(count: int, side: int, spacing_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit-variance fields of one random plausible CT spectrum, shape (count, side, side).

    The radial NPS is ``f · exp(−(f/f₀)^p)`` (the ramp of filtered back-projection rolled off by a kernel), its
    peak and sharpness of roll-off drawn at random, in 1/mm; the ramp starts a little above 0, as measured.
    """
    peak, power = rng.uniform(*BROAD_PEAKS_PER_MM), rng.uniform(1.2, 6.0)
    roll_off = peak * power ** (1 / power)  # where the derivative of f·exp(−(f/f₀)^p) vanishes at `peak`
    down, along = np.fft.fftfreq(2 * side, spacing_mm), np.fft.rfftfreq(2 * side, spacing_mm)
    radius = np.hypot(down[:, None], along[None])
    nps = (rng.uniform(0, 0.3) * peak + radius) * np.exp(-((radius / roll_off) ** power))
    return filtered_noise(nps, (count, side, side), rng)


class SyntheticNoise:
    """Draws noise of the synthetic law, as it makes the low-dose pool: for natural images.

    Parameters
    ----------
    law : str
        ``gaussian`` or ``poisson``.
    sigma_range : tuple of 2 floats
        Levels are drawn uniformly from this range, grey values.
    """

    models: tuple[NoiseModel, ...] = ()

    def __init__(self, law: NoiseLaw, sigma_range: tuple[float, float]) -> None:
        self._law, self._range = law, sigma_range

    def degrade(self, clean: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Noise for this clean patch."""
        return noise_for(clean, self._law, rng.uniform(*self._range), rng)

    def probe_for(self, clean: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        """Noise of the middle level, to judge by."""
        return noise_for(clean, self._law, sum(self._range) / 2, rng)


def measure_pool_noise(
    low: Sequence[SliceSource],
    normal: Sequence[SliceSource],
    config: DataConfig,
    report: Callable[[str], None] | None = None,
) -> PoolNoise:
    """Measure each kernel's noise over the low-dose pool, from uniform regions of its images alone.

    Where noise is kept, that of the normal-dose series is measured too.
    """
    return pool_noise([estimate_noise(source) for source in low], normal, config, report)


def pool_noise(
    measured: Sequence[NoiseModel],
    normal: Sequence[SliceSource],
    config: DataConfig,
    report: Callable[[str], None] | None = None,
) -> PoolNoise:
    """:func:`measure_pool_noise` of low-dose series that are measured already."""
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
    own_hu = {source.uid: _level_hu(source) for source in normal} if config.target_noise_fraction else {}
    return PoolNoise(models, config, own_hu)


def _level_hu(source: SliceSource) -> float:
    """Median noise of a series, HU; 0 where there is none to measure."""
    model = noise_if_any(source)
    return 0.0 if model is None else float(np.median(model.sigma_hu))


def noise_if_any(source: SliceSource) -> NoiseModel | None:
    """The noise of a series, or none where there is no soft tissue to measure it in, or no noise."""
    try:
        return estimate_noise(source)
    except InputError:
        return None
