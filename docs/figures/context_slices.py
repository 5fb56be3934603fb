"""Print the gain from neighbouring slices, on series scanned again at a lower dose.

python docs/figures/context_slices.py FOLDER|patient:SEED MODEL … [--every N] [--dose F] [--cache DIR]

Slices that overlap share their noise as they share what they are made of (ldct_denoise/context_slices.py): the
simulated noise of the series is mixed so. With --every only every so many-th slice is taken. A synthetic patient,
ten slices that do not overlap, is measured against its truth.
"""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.context_slices import cholesky_factor, overlap_correlation
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.models.trained import TrainedModel, load_model
from ldct_denoise.phantoms.patients import Patient
from ldct_denoise.phantoms.scan import with_noise
from ldct_denoise.physics.simulated_cache import simulated_pool
from ldct_denoise.volume import SliceSource, Volume, slice_thickness_mm

FULL = Window("[-1024, 1024]", 0, 2048)


def lower_dose(full: Volume, source: SliceSource, dose: float, cache: Path) -> Volume:
    """The series at a lower dose, cut off where stored values are."""
    (scan,) = simulated_pool([source], (dose, dose), 7, cache)
    noise = Volume.of(scan).hu - full.hu
    correlation = overlap_correlation(full.geometry.offsets_mm, slice_thickness_mm(source))
    correlated = np.tensordot(cholesky_factor(correlation), noise, axes=1)
    return full.with_hu(np.maximum(full.hu + correlated, FULL.low_hu))


def subjects(asked: str, dose: float, cache: Path) -> Iterator[tuple[str, Volume, Volume]]:
    """Name, lower dose and reference of a synthetic patient, or of every series of a folder."""
    kind, _, seed = asked.partition(":")
    if kind == "patient":
        truth = Patient(int(seed), 10, 512).truth()
        yield asked, with_noise(truth, dose, 1), truth
        return
    for source in find_images(Path(asked)).series:
        full = Volume.of(source)
        name = f"{source.name}, slices of {slice_thickness_mm(source):.3g} mm"
        yield name, lower_dose(full, source, dose, cache), full


def restored(low: Volume, model: TrainedModel, alone: bool) -> Iterator[NDArray[np.float32]]:
    """Every slice; each as if there were no other, if wanted."""
    for index in range(len(low)):
        one = Volume(low.hu[[index]], low.geometry.select([index])) if alone else low
        yield from (hu for _, hu in restore_slices(one, model, ApplySettings(), [0 if alone else index]))


def measure(model: TrainedModel, low: Volume, reference: Volume, alone: bool) -> None:
    """What the model gains, mean of the slices."""
    gains = [
        [psnr(out, truth, each) - psnr(hu, truth, each) for each in (FULL, WINDOWS["abdomen"])]
        for hu, truth, out in zip(low.hu, reference.hu, restored(low, model, alone), strict=True)
    ]
    (wide, abdomen), least = np.mean(gains, axis=0), np.min(gains, axis=0)[1]
    name = f"{model.name}{', every slice alone' if alone else ''}"
    print(f"  {name}: {wide:+.2f} / {abdomen:+.2f} dB, least {least:+.2f} dB (abdomen)")


def main() -> None:
    """Every subject with every model."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("subject")
    parser.add_argument("model", nargs="+")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--dose", type=float, default=0.25)
    parser.add_argument("--cache", type=Path)
    asked = parser.parse_args()
    models = [load_model(name) for name in asked.model]
    with tempfile.TemporaryDirectory() as scratch:
        for name, *both in subjects(asked.subject, asked.dose, asked.cache or Path(scratch)):
            kept = range(0, len(both[0]), asked.every)
            low, reference = (Volume(each.hu[kept], each.geometry.select(kept)) for each in both)
            print(f"{name}: {len(low)} slices, {low.geometry.slice_spacing_mm:.2g} mm apart")
            for model in models:
                for alone in (False, True) if model.method.context_slices else (False,):
                    measure(model, low, reference, alone)


if __name__ == "__main__":
    main()
