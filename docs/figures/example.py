"""Draw docs/figures/example.png: simulated quarter dose, the denoised slice and their difference.

usage: python docs/figures/example.py RIDER_CHEST_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt

import ldct_denoise
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import WINDOWS
from ldct_denoise.models.trained import load_model
from ldct_denoise.volume import Volume

#: Middle of the series, and the fraction of the dose that is simulated.
INDEX, DOSE = 40, 0.25


def main(folder: Path) -> None:
    """Simulate, denoise and draw one slice; the noise is measured in the slices around it."""
    (series,) = ldct_denoise.read_series(folder)
    low = ldct_denoise.simulate_low_dose(Volume.of(series), DOSE)
    assert isinstance(low, Volume)
    denoised = dict(restore_slices(low, load_model("lir-ct"), indices=[INDEX]))[INDEX]
    window = WINDOWS["mediastinum"]
    low_hu, high_hu = window.level_hu - window.width_hu / 2, window.level_hu + window.width_hu / 2
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.75), facecolor="black")
    pictures = (
        ("quarter dose (simulated)", low.read_hu(INDEX), (low_hu, high_hu)),
        ("denoised", denoised, (low_hu, high_hu)),
        ("difference, ±100 HU", denoised - low.read_hu(INDEX), (-100, 100)),
    )
    for axis, (title, hu, (lowest, highest)) in zip(axes, pictures, strict=True):
        axis.imshow(hu[60:420, 40:475], cmap="gray", vmin=lowest, vmax=highest)
        axis.set_title(title, color="white", fontsize=12)
        axis.axis("off")
    figure.tight_layout(pad=0.4)
    figure.savefig(Path(__file__).with_name("example.png"), dpi=100, facecolor="black")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
