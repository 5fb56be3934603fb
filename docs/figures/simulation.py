"""Simulated against real quarter dose (Mayo 2016), and water cylinders: docs/explanation/simulation.md.

python docs/figures/simulation.py ../shared/data/mayo2016 docs/figures
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import periodograms
from ldct_denoise.physics.dose import DoseSimulator, scan_noise
from ldct_denoise.physics.noise import NoiseModel, radial_nps, soft_tissue_rois
from ldct_denoise.physics.scanner import WATER_PER_MM, Scanner
from ldct_denoise.physics.texture import Texture

GROUPS = {
    "L096 D45f": "L096/{}_3mm_sharp",
    "L143 D45f": "L143/{}_3mm_sharp",
    "L143 B30f": "L143/{}_3mm",
}
SEEDS = 4
Grid = NDArray[np.float64]


def peak_per_mm(f: Grid, nps: Grid) -> float:
    """Peak of the parabola through the largest bin and its neighbours, 1/mm."""
    top = slice(max(int(np.argmax(nps)) - 1, 0), int(np.argmax(nps)) + 2)
    a, b, _ = np.polyfit(f[top], nps[top], 2)
    return float(-b / (2 * a))


def spectra(image: Grid, corners: NDArray[np.int_]) -> Grid:
    """Periodograms of the ROIs of an image."""
    return periodograms(np.stack([image[r : r + 32, c : c + 32] for r, c in corners]), hann_window=True)


def compare(name: str, folder: Path, axis: plt.Axes, dots: plt.Axes) -> None:
    """Print one row of the table, and draw the curves of the group."""
    pattern = GROUPS[name]
    low, full = (find_images(folder / pattern.format(dose)).series[0] for dose in ("quarter", "full"))
    started = time.perf_counter()
    simulator = DoseSimulator(full)
    prepared = time.perf_counter() - started
    sigmas, regions, chance, curves, seconds = [], [], [], ([], []), []
    for index in range(len(full)):
        hu = full.read_hu(index)
        corners, _ = soft_tissue_rois(hu, 16)
        real = spectra(low.read_hu(index) - hu, corners)
        started = time.perf_counter()
        drawn = [simulator.simulate(index, 0.25, seed) - hu for seed in range(SEEDS)]
        seconds.append((time.perf_counter() - started) / SEEDS)
        simulated = np.mean([spectra(image, corners) for image in drawn], axis=0)
        another = spectra(simulator.simulate(index, 0.25, SEEDS) - hu, corners)
        sigmas.append([np.sqrt(part.mean()) for part in (real, simulated)])
        # Regions are means of up to 4 neighbouring ROIs, about 3 × 3 cm, to reduce the statistical scatter.
        blocks = (corners // 48) @ np.array([1000, 1])
        for block in np.unique(blocks):
            part = blocks == block
            if part.sum() >= 4:
                regions.append(np.sqrt(simulated[part].mean() / real[part].mean()))
                chance.append(np.sqrt(simulated[part].mean() / another[part].mean()))
        for curve, part in zip(curves, (real, simulated), strict=True):
            curve.append(part.mean(axis=0) / part.mean())
    sigma = np.array(sigmas)
    ratio = sigma[:, 1] / sigma[:, 0]
    frequencies = []
    for curve, label, style in zip(curves, ("real", "simulated"), ("-", "--"), strict=True):
        f, nps = radial_nps(np.mean(curve, axis=0), full.geometry.pixel_spacing_mm)
        frequencies.append((np.sum(f * nps) / np.sum(nps), peak_per_mm(f, nps)))
        axis.plot(f, nps / nps.max(), style, label=f"{name} {label}")
    current = np.array(full.metadata.tube_current_ma, float)
    dots.plot(sigma[:, 0], sigma[:, 1], "o", label=name)
    regions, chance = np.array(regions), np.array(chance)
    rank = [np.corrcoef(np.log(current), np.log(column))[0, 1] for column in sigma.T]
    print(
        f"| {name} | {len(full)} | {sigma[:, 0].mean():.1f} | {sigma[:, 1].mean():.1f} | {ratio.mean():.3f} | "
        f"{ratio.min():.3f}–{ratio.max():.3f} | {len(regions)} | {np.median(regions):.3f} | "
        f"{100 * np.mean(np.abs(regions - 1) < 0.1):.0f} % ({100 * np.mean(np.abs(chance - 1) < 0.1):.0f} %) | "
        f"{regions.min():.2f}–{regions.max():.2f} ({chance.min():.2f}–{chance.max():.2f}) | "
        f"{frequencies[0][0]:.3f} / {frequencies[1][0]:.3f} | {frequencies[0][1]:.3f} / {frequencies[1][1]:.3f} | "
        f"{rank[0]:+.2f} / {rank[1]:+.2f} | {prepared:.1f} | {np.mean(seconds):.2f} |"
    )


def water(axis: plt.Axes) -> None:
    """Print and draw the variance in the centre of a 300 mm water cylinder against dose."""
    side, spacing = 256, (1.5, 1.5)
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * spacing[0]
    hu = np.where(np.hypot(x, y) < 150, 0, -1000).astype(np.float32)
    f = np.arange(0.05, 0.35, 0.05)
    kernel = Texture.of(NoiseModel("", f, f * np.exp(-((f / 0.25) ** 2)), np.ones(1)), spacing)
    doses = np.array([1, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01])
    for label, noise_ma in (("quantum noise only", 0.0), ("with electronic noise (default)", 0.07)):
        scanner = Scanner(electronic_noise_ma=noise_ma, bow_tie=0, modulation=0)
        middle = [
            scan_noise(
                hu, spacing, kernel, quanta_per_ma=1e6, current_ma=200 * dose, scanner=scanner,
                rng=np.random.default_rng(0),
            )[np.hypot(x, y) < 40].var()
            for dose in doses
        ]  # fmt: skip
        scaled = np.array(middle) * doses
        share = 1 + noise_ma * np.exp(300 * WATER_PER_MM) / (200 * doses)
        print(
            label,
            "variance × dose, relative:",
            np.round(scaled / scaled[0], 2),
            "theory",
            np.round(share / share[0], 2),
        )
        line = axis.loglog(doses, middle, "o", label=label)[0]
        axis.loglog(doses, middle[0] / doses * share / share[0], color=line.get_color(), lw=0.8)
    axis.set(xlabel="dose, relative", ylabel="variance in the middle, HU²")
    axis.legend(fontsize=7)


def main(data: Path, output: Path) -> None:
    """Draw both figures and print the table."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name in GROUPS:
        compare(name, data, left, right)
    left.set(xlabel="frequency, 1/mm", ylabel="NPS of the added noise, relative", xlim=(0, 1))
    right.set(xlabel="sigma of real quarter − full dose, HU", ylabel="sigma simulated, HU")
    right.axline((30, 30), slope=1, color="grey", lw=0.8)
    left.legend(fontsize=7)
    right.legend(fontsize=7)
    figure.savefig(output / "simulation-real.png", dpi=80)
    figure, axis = plt.subplots(figsize=(4.5, 3.4), layout="constrained")
    water(axis)
    figure.savefig(output / "simulation-water.png", dpi=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
