"""Simulated against real quarter dose (Mayo 2016), and water cylinders: docs/explanation/simulation.md.

python docs/figures/simulation.py mayo2016 docs/figures
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import periodograms, ring_means
from ldct_denoise.physics.dose import DoseSimulator, scan_noise
from ldct_denoise.physics.noise import NoiseModel, radial_nps, soft_tissue_rois
from ldct_denoise.physics.scanner import WATER_PER_MM, Scanner
from ldct_denoise.physics.texture import Texture
from ldct_denoise.volume import Volume

GROUPS = {
    "L096 D45f": "L096/{}_3mm_sharp",
    "L143 D45f": "L143/{}_3mm_sharp",
    "L143 B30f": "L143/{}_3mm",
}
#: The sharp slices of a patient, filtered to the transfer function of the soft kernel: another anatomy for it.
SOFTENED = "L096 as B30f"
SEEDS = 2
#: Side of the ROIs of the radial spectra, pixels, and their rings, 1/mm.
SIDE, EDGES = 64, np.arange(0.03, 0.74, 0.05)
Grid = NDArray[np.float64]


def spectra(image: Grid, corners: NDArray[np.int_], side: int = 32) -> Grid:
    """Periodograms of the ROIs of an image."""
    return periodograms(np.stack([image[r : r + side, c : c + side] for r, c in corners]), hann_window=True)


def body_corners(hu: Grid) -> NDArray[np.int_]:
    """Corners of the 64-pixel ROIs that lie in the body."""
    body = ndimage.binary_opening(ndimage.gaussian_filter(hu, 2.5) > -300, iterations=5)
    inside = ndimage.minimum_filter(ndimage.binary_fill_holes(body), SIDE, origin=-(SIDE // 2))[::32, ::32]
    corners = np.argwhere(inside) * 32
    return corners[(corners <= np.array(hu.shape) - SIDE).all(axis=1)]


def pairs(folder: Path) -> dict[str, tuple[Volume, Grid]]:
    """Full dose and quarter minus full dose of every group."""
    found = {}
    for name, pattern in GROUPS.items():
        low, full = (find_images(folder / pattern.format(dose)).series[0] for dose in ("quarter", "full"))
        hu = np.stack([full.read_hu(index) for index in range(len(full))])
        difference = np.stack([low.read_hu(index) for index in range(len(full))]) - hu
        found[name] = Volume(hu, full.geometry, full.uid, full.patient, name, full.metadata), difference
    found[SOFTENED] = softened(found)
    return found


def softened(found: dict[str, tuple[Volume, Grid]]) -> tuple[Volume, Grid]:
    """L096 filtered by the square root of the ratio of L143's two spectra (MTF soft / sharp), 1 at frequency 0."""
    curves = []
    for name in ("L143 B30f", "L143 D45f"):
        full, difference = found[name]
        powers = [spectra(d, soft_tissue_rois(hu)[0]) for d, hu in zip(difference, full.hu, strict=True)]
        f, nps = radial_nps(
            np.mean([p.mean(axis=0) / p.mean() for p in powers], axis=0), full.geometry.pixel_spacing_mm
        )
        curves.append(nps)
    ratio = np.where(curves[1] > 0, curves[0] / np.maximum(curves[1], 1e-9), 0)
    transfer = np.sqrt(np.minimum(ratio / ratio[1:3].mean(), 1))
    full, difference = found["L096 D45f"]
    radius = np.hypot(
        *np.meshgrid(
            *(np.fft.fftfreq(n, d) for n, d in zip(full.hu.shape[1:], full.geometry.pixel_spacing_mm, strict=True))
        )
    )
    response = np.interp(radius, np.r_[0, f], np.r_[1, transfer])
    soft = [np.fft.ifft2(np.fft.fft2(image) * response).real.astype(np.float32) for image in (full.hu, difference)]
    return replace(full, hu=np.rint(soft[0]), name=SOFTENED), soft[1]


def compare(name: str, full: Volume, difference: Grid, axis: plt.Axes, dots: plt.Axes) -> None:
    """Print one row of the table, and draw the curves of the group."""
    spacing_mm = full.geometry.pixel_spacing_mm
    started = time.perf_counter()
    simulator = DoseSimulator(full)
    prepared = time.perf_counter() - started
    sigmas, bodies, regions, chance, curves, seconds = [], [], [], [], ([], []), []
    for index, (hu, real_noise) in enumerate(zip(full.hu, difference, strict=True)):
        corners, wide = soft_tissue_rois(hu, 16)[0], body_corners(hu)
        started = time.perf_counter()
        drawn = [simulator.simulate(index, 0.25, seed) - hu for seed in range(SEEDS)]
        seconds.append((time.perf_counter() - started) / SEEDS)
        real, another = spectra(real_noise, corners), spectra(drawn[-1], corners)
        simulated = np.mean([spectra(image, corners) for image in drawn], axis=0)
        sigmas.append([np.sqrt(part.mean()) for part in (real, simulated)])
        both = [spectra(real_noise, wide, SIDE), np.mean([spectra(image, wide, SIDE) for image in drawn], axis=0)]
        bodies.append(np.sqrt(both[1].mean() / both[0].mean()))
        for curve, part in zip(curves, both, strict=True):
            curve.append(part.mean(axis=0) / part.mean())
        # Regions are means of up to 4 neighbouring ROIs, about 3 × 3 cm, to reduce the statistical scatter.
        blocks = (corners // 48) @ np.array([1000, 1])
        for block in np.unique(blocks):
            part = blocks == block
            if part.sum() >= 4:
                regions.append(np.sqrt(simulated[part].mean() / real[part].mean()))
                chance.append(np.sqrt(simulated[part].mean() / another[part].mean()))
    sigma = np.array(sigmas)
    ratio = sigma[:, 1] / sigma[:, 0]
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(SIDE, step) for step in spacing_mm), indexing="ij"))
    f, rings = (EDGES[1:] + EDGES[:-1]) / 2, []
    for curve, label, style in zip(curves, ("real", "simulated"), ("-", "--"), strict=True):
        rings.append(ring_means(np.mean(curve, axis=0), radius, EDGES)[0])
        axis.plot(f, rings[-1] / rings[-1].max(), style, label=f"{name} {label}")
    means = [np.sum(f * nps) / np.sum(nps) for nps in rings]
    used = rings[0] > 0.001 * rings[0].max()
    nps_ratio = rings[1][used] / rings[0][used]
    dots.plot(sigma[:, 0], sigma[:, 1], "o", label=name)
    rank = [np.corrcoef(np.log(full.metadata.tube_current_ma), np.log(column))[0, 1] for column in sigma.T]
    rows = {
        "slices / regions": f"{len(full)} / {len(regions)}",
        "σ real, simulated (HU)": f"{sigma[:, 0].mean():.1f}, {sigma[:, 1].mean():.1f}",
        "σ ratio by slice: mean, range": f"{ratio.mean():.3f}, {ratio.min():.3f}–{ratio.max():.3f}",
        "the same, whole body": f"{np.mean(bodies):.3f}, {min(bodies):.3f}–{max(bodies):.3f}",
        "σ ratio by region: median": f"{np.median(regions):.3f}",
        "regions within 10 % (chance)": f"{share(regions)} % ({share(chance)} %)",
        "NPS ratio in rings of 0.05 /mm: range": f"{nps_ratio.min():.2f}–{nps_ratio.max():.2f}",
        "mean NPS frequency real, simulated (/mm)": f"{means[0]:.3f}, {means[1]:.3f}",
        "correlation of log σ with log mA": f"{rank[0]:+.2f}, {rank[1]:+.2f}",
        "quanta per mm, rad, mA: measured, expected": (
            f"{simulator.quanta_per_ma / 1e6:.2f}, {simulator.expected.per_ma / 1e6:.2f} million"
        ),
        "seconds: measuring, each slice": f"{prepared:.1f}, {np.mean(seconds):.2f}",
    }
    print(name, *(f"{key}: {value}" for key, value in rows.items()), sep="\n  ", flush=True)


def share(ratios: list[float]) -> str:
    """Percentage of ratios within 10 % of 1."""
    return f"{100 * np.mean(np.abs(np.array(ratios) - 1) < 0.1):.0f}"


def water(axis: plt.Axes) -> None:
    """Print and draw the variance in the centre of a 300 mm water cylinder against dose."""
    side, spacing = 256, (1.5, 1.5)
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) * spacing[0]
    hu = np.where(np.hypot(x, y) < 150, 0, -1000).astype(np.float32)
    f = np.arange(0.05, 0.35, 0.05)
    kernel = Texture.of(NoiseModel("", f, f * np.exp(-((f / 0.25) ** 2)), np.ones(1)), spacing)
    doses = np.array([1, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01])
    electronic_ma = {"quantum noise only": 0.0, "with electronic noise (default)": Scanner().electronic_noise_ma}
    for label, noise_ma in electronic_ma.items():
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
    for name, (full, difference) in pairs(data).items():
        compare(name, full, difference, left, right)
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
