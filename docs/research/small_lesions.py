"""Contrast of small lesions against coarse noise, on pairs of doses; figures in small-lesions.md.

python docs/research/small_lesions.py mayo2016 [MODEL ...]

Prints how well an ideal observer finds lesions in the noise of the low dose, which limits every denoiser. With
models, also prints what each leaves of a lesion, and how much coarse noise, where its residual is given back.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.arrays import denoise
from ldct_denoise.evaluation.insertion_plan import InsertionPlan, plan_insertions
from ldct_denoise.inference.noise_blend import DEFAULT_PARAMETERS
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import RadialSpectrum, noise_power_spectrum
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.phantoms.insertion import InsertedLesion, disc
from ldct_denoise.volume import Volume

Images = NDArray[np.floating]

LESIONS = tuple(InsertedLesion("soft tissue", mm, -20) for mm in (3, 5, 8))
#: Share of the power of the low dose's noise that full dose does not have; the rest is in both images of a pair.
ADDED_SHARE = 0.84
#: Uniform images in which extrema are counted.
UNIFORM_IMAGES = 4
#: Noise of the outputs that are compared, in uniform images and relative to the low dose.
NOISE_LEFT = (0.35, 0.5)
#: A coarse extremum: a local one of 5×5 pixels, this far from the mean after a Gaussian of sigma 2 mm.
EXTREMUM_HU, EXTREMUM_SIGMA_MM, EXTREMUM_PX = 8.0, 2.0, 5
#: Width of the border that is not searched for extrema, pixels.
BORDER_PX = 20


@dataclass(frozen=True)
class Noise:
    """Noise in soft tissue.

    Parameters
    ----------
    spectrum : RadialSpectrum
        1/mm and HU²·mm².
    spacing_mm : tuple of 2 floats
    """

    spectrum: RadialSpectrum
    spacing_mm: tuple[float, float]

    @classmethod
    def of_pair(cls, difference_rois: Images, spacing_mm: tuple[float, float]) -> Noise:
        """Noise that low dose adds, from the difference of both doses, in which anatomy cancels."""
        return cls(noise_power_spectrum(difference_rois, spacing_mm, detrend_order=0).radial(), spacing_mm)

    def of_low_dose(self) -> Noise:
        """The noise of low dose, of which this noise is the added part."""
        return replace(self, spectrum=replace(self.spectrum, power=self.spectrum.power / ADDED_SHARE))

    def power(self, side: int) -> NDArray[np.float64]:
        """The spectrum on the grid of a square's DFT, shape (side, side), HU²·mm²; infinite at frequency 0."""
        rows, columns = (np.fft.fftfreq(side, mm) for mm in self.spacing_mm)
        radius = np.hypot(rows[:, None], columns)
        power = np.interp(radius, self.spectrum.frequency, self.spectrum.power)
        power[0, 0] = np.inf
        return power

    def draw(self, count: int, side: int, seed: int) -> NDArray[np.float64]:
        """Independent squares of this noise, shape (count, side, side), HU."""
        power = self.power(side) / np.prod(self.spacing_mm)
        power[0, 0] = 0
        white = np.random.default_rng(seed).standard_normal((count, side, side))
        return np.asarray(np.fft.ifft2(np.fft.fft2(white) * np.sqrt(power)).real)


class IdealObserver(NamedTuple):
    """How well a prewhitening observer that knows a lesion's shape finds it at an unknown place.

    Parameters
    ----------
    z : float
        Signal-to-noise ratio of the lesion, which is also d′ at a known place.
    false_spots_per_100_cm2 : float
        Places without a lesion that score at least as high as half of the lesions, bright or dark.
    """

    z: float
    false_spots_per_100_cm2: float


def ideal_observer(noise: Noise, lesion: InsertedLesion, blur_mm: float, side: int = 512) -> IdealObserver:
    """The prewhitening matched filter: z² = Σ |S(f)|²/NPS(f)."""
    signal = np.fft.fft2(lesion.contrast_hu * disc(lesion.diameter_mm, noise.spacing_mm, side, blur_mm))
    area_mm2 = float(np.prod(noise.spacing_mm))
    weight = area_mm2 / noise.power(side)
    z = float(np.sqrt(np.sum(np.abs(signal) ** 2 * weight)) / side)
    fields = np.fft.fft2(noise.draw(6, side, seed=1))
    scores = np.abs(np.fft.ifft2(fields * signal.conj() * weight).real) / z
    peaks = (scores == ndimage.maximum_filter(scores, (1, EXTREMUM_PX, EXTREMUM_PX))) & (scores > z)
    return IdealObserver(z, float(peaks.sum() / (len(fields) * side**2 * area_mm2 / 1e4)))


def extrema_per_100_cm2(images: Images, spacing_mm: tuple[float, float]) -> float:
    """Coarse extrema of uniform images, which an eye takes for lesions."""
    found = 0
    for image in images:
        smooth = ndimage.gaussian_filter(image, [EXTREMUM_SIGMA_MM / mm for mm in spacing_mm])
        smooth -= smooth.mean()
        for one in (smooth, -smooth):
            inside = one == ndimage.maximum_filter(one, EXTREMUM_PX)
            found += np.sum((inside & (one > EXTREMUM_HU))[BORDER_PX:-BORDER_PX, BORDER_PX:-BORDER_PX])
    side = images.shape[-1] - 2 * BORDER_PX
    return float(found / (len(images) * side**2 * np.prod(spacing_mm) / 1e4))


def lesion_band(images: Images, spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """The scale of lesions, exp(−(f/f₀)²): the lesion part of the default output."""
    rows, columns = (np.fft.fftfreq(n, mm) for n, mm in zip(images.shape[-2:], spacing_mm, strict=True))
    radius = np.hypot(rows[:, None], columns)
    gain = np.exp(-((radius / DEFAULT_PARAMETERS.lesion_frequency_per_mm) ** 2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(images) * gain).real)


def given_back(plan: InsertionPlan, stack: Volume, uniform: Volume, model: TrainedModel) -> Iterator[str]:
    """Outputs of equal noise, with more and more of the residual at the scale of lesions."""
    images: list[NDArray[np.float64]] = []
    residuals: list[NDArray[np.float64]] = []
    bands: list[NDArray[np.float64]] = []
    for volume in (stack, uniform):
        alone = denoise(volume, model, strength=1).hu
        images.append(np.asarray(volume.hu, np.float64))
        residuals.append(images[-1] - alone)
        bands.append(lesion_band(residuals[-1], plan.spacing_mm))

    def output(number: int, everything: float, lesions: float) -> NDArray[np.float64]:
        return np.asarray(images[number] - (1 - everything) * residuals[number] + lesions * bands[number])

    def noise(everything: float, lesions: float) -> float:
        return float(output(1, everything, lesions).std() / images[1].std())

    def line(name: str, everything: float, lesions: float) -> str:
        kept = plan.recoveries(output(0, everything, lesions))
        recovery = " ".join(f"{np.mean(kept[lesion]):.2f}" for lesion in LESIONS)
        extrema = extrema_per_100_cm2(output(1, everything, lesions), plan.spacing_mm)
        return f"{name}: noise {noise(everything, lesions):.2f}, recovery {recovery}, extrema {extrema:.0f}"

    yield line("network alone", 0.0, 0.0)
    for wanted in NOISE_LEFT:
        for lesions in (0.0, 0.2, 0.4, 0.6, 0.8):
            low, high = 0.0, 1.0 - lesions
            if not noise(low, lesions) <= wanted <= noise(high, lesions):
                continue
            for _ in range(10):  # bisection
                middle = (low + high) / 2
                low, high = (low, middle) if noise(middle, lesions) > wanted else (middle, high)
            yield line(f"lesion part {lesions:.1f}", high, lesions)


def main(root: Path, models: Sequence[TrainedModel]) -> None:
    """Print the figures of every pair of series below a folder."""
    for pair in find_pairs(label_series(find_images(root).series, root)):
        print(pair.patient, pair.kernel)
        plan, noise = _prepare(pair)
        for lesion in LESIONS:
            z, spots = ideal_observer(noise.of_low_dose(), lesion, plan.blur_mm)
            print(f"  {lesion.diameter_mm:g} mm: z {z:.2f}, false spots {spots:.1f} per 100 cm²")
        stack = plan.volume(pair.low)
        fields = noise.draw(UNIFORM_IMAGES, 512, seed=0).astype(np.float32)
        chosen = [pair.indices[number % len(pair.indices)][0] for number in range(UNIFORM_IMAGES)]
        geometry, metadata = pair.low.geometry.select(chosen), pair.low.metadata.select(chosen)
        print(f"  low dose: extrema {extrema_per_100_cm2(fields, plan.spacing_mm):.0f} per 100 cm²")
        for model in models:
            for line in given_back(plan, stack, Volume(50 + fields, geometry, metadata=metadata), model):
                print(f"  {model.name}, {line}", flush=True)


def _prepare(pair: Pair) -> tuple[InsertionPlan, Noise]:
    """Places of lesions in the low dose, and its noise there."""
    low, normal = (list(one) for one in zip(*pair.indices, strict=True))
    plan = plan_insertions(pair.low, low, LESIONS, seed=0)
    difference = plan.slices - np.stack([pair.normal.read_hu(index) for index in normal])
    return plan, Noise.of_pair(plan.noise_rois(difference), plan.spacing_mm)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [load_model(name) for name in sys.argv[2:]])
