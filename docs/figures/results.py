"""Measure and draw the figures of docs/results.md.

python docs/figures/results.py measure MAYO2016 ["L143 D45f" …]     writes docs/figures/results.csv (minutes)
python docs/figures/results.py speed BENCHMARK.json …   writes docs/figures/speed.csv from `benchmark apply --json`
python docs/figures/results.py draw                 writes docs/figures/results-*.svg and prints the tables
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import ldct_denoise
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.noise import difference_spectrum, find_uniform_rois
from ldct_denoise.metrics.series_noise import uniform_soft_tissue_rois
from ldct_denoise.metrics.texture import blurred_noise_hu, mean_noise_frequency
from ldct_denoise.regions import body_mask, tissue_masks
from ldct_denoise.volume import Volume

Image = NDArray[np.float32]
HERE = Path(__file__).parent
TABLE, SPEED = HERE / "results.csv", HERE / "speed.csv"
#: Label, model, strength (None: the model's default).
CANDIDATES = (
    ("lir-ct", "lir-ct", None),
    ("lir-ct, strength 1", "lir-ct", 1.0),
    ("lir-ct, strength 0.8", "lir-ct", 0.8),
    ("lir-ct-small", "lir-ct-small", None),
    ("lir-ct-small, strength 1", "lir-ct-small", 1.0),
)
COLORS = ("#1f4e9c", "#9bb8e0", "#d98e04", "#2a9d8f", "#a3d5cd")
#: Diameter (mm) and contrast (HU) of inserted discs, and the blur of the scanner (standard deviation, mm).
LESIONS = ((3.0, -20.0), (5.0, -20.0), (8.0, -20.0), (2.0, 300.0))
BLUR_MM = 0.5
#: Side of the square in which a lesion is inserted, and of its uniform surroundings.
LESION_SIDE_MM = 24.0
LESION_SLICES = 4
#: Squares of 24 mm of each slice in which noise is measured.
NOISE_SQUARES = 8
TISSUES = ("fat", "soft-tissue", "lung")
WINDOWS = ("0,2048", "abdomen")
SERIES = ("L096 D45f", "L143 D45f", "L143 B30f")


@dataclass(frozen=True)
class Row:
    """One figure of a series and a model."""

    series: str
    model: str
    metric: str
    value: float


# Measure ------------------------------------------------------------------------------------------------------


def paired_volumes(pair: Pair) -> tuple[Volume, Volume]:
    """The paired slices of both doses, in memory."""
    lows, normals = zip(*pair.indices, strict=True)
    return (
        Volume(np.stack([pair.low.read_hu(index) for index in lows]), pair.low.geometry.select(lows)),
        Volume(np.stack([pair.normal.read_hu(index) for index in normals]), pair.normal.geometry.select(normals)),
    )


def restored(low: Volume, model: str, strength: float | None) -> Volume:
    """The volume denoised by a model."""
    image = ldct_denoise.denoise(low, model, strength=strength)
    assert isinstance(image, Volume)
    return image


def measure_pair(name: str, low: Volume, normal: Volume) -> Iterator[Row]:
    """Fidelity, HU, noise and recovery of every candidate on one series."""
    lesions = [(spec, *insert(low, normal, *spec)) for spec in LESIONS]
    few = Volume(low.hu[:LESION_SLICES], low.geometry.select(range(LESION_SLICES)))
    again = second_realisation(low, normal)
    squares = noise_squares(normal)
    noise_in = difference_spectrum(cut(low, squares), cut(again, squares), low.geometry.pixel_spacing_mm)
    for label, model, strength in CANDIDATES:
        image = restored(low, model, strength)
        yield from fidelity(name, label, low, normal, image)
        other = restored(again, model, strength)
        noise = difference_spectrum(cut(image, squares), cut(other, squares), low.geometry.pixel_spacing_mm)
        yield Row(name, label, "noise left", (noise.variance_hu2 / noise_in.variance_hu2) ** 0.5)
        shift = mean_noise_frequency(noise) / mean_noise_frequency(noise_in) - 1
        yield Row(name, label, "mean frequency %", 100 * shift)
        yield Row(name, label, "noise left 2 mm", blurred_noise_hu(noise, 2.0) / blurred_noise_hu(noise_in, 2.0))
        plain = restored(few, model, strength)
        for (diameter, contrast), with_lesions, cores in lesions:
            change = restored(with_lesions, model, strength).hu - plain.hu
            core = cores != 0
            kept = float(change[core].mean() / cores[core].mean())
            yield Row(name, label, f"recovery {diameter:g} mm {contrast:+g} HU", kept)


def fidelity(name: str, label: str, low: Volume, normal: Volume, image: Volume) -> Iterator[Row]:
    """PSNR gain and bias of tissues of one candidate, against full dose."""
    found = ldct_denoise.evaluate(image, normal, low, windows=WINDOWS, rois=TISSUES)
    for window, text in zip(found.windows, WINDOWS, strict=True):
        ours, theirs = (found.values(who, window.name, "image", "psnr") for who in ("candidate", "input"))
        gains = [ours[key] - theirs[key] for key in ours]
        yield Row(name, label, f"gain {text}", mean(gains))
        yield Row(name, label, f"lowest gain {text}", min(gains))
    for tissue in TISSUES:
        full = found.values("reference", "none", tissue, "hu_mean")
        for who, model in (("candidate", label), ("input", "input")):
            means = found.values(who, "none", tissue, "hu_mean")
            if bias := [means[key] - full[key] for key in means if key in full]:
                yield Row(name, model, f"bias {tissue}", mean(bias))


def second_realisation(low: Volume, normal: Volume) -> Volume:
    """Quarter dose with other noise: full dose plus the difference of the doses in the slice before.

    Denoised like the first, their difference is the noise that is left, and nothing else: anatomy, and what the
    denoiser does to it, is in both. No assumption about the denoiser is needed.
    """
    return Volume(normal.hu + np.roll(low.hu - normal.hu, 1, axis=0), low.geometry)


def noise_squares(normal: Volume) -> list[tuple[int, tuple[slice, slice]]]:
    """Slice, rows and columns of the most uniform squares of soft tissue or fat of full dose."""
    spacing_mm = normal.geometry.pixel_spacing_mm
    return [
        (index, roi)
        for index, hu in enumerate(normal.hu)
        for roi in uniform_soft_tissue_rois(hu, body_mask(hu, spacing_mm), spacing_mm, NOISE_SQUARES)
    ]


def cut(volume: Volume, squares: list[tuple[int, tuple[slice, slice]]]) -> Image:
    """The squares of a volume, shape (n, rows, columns)."""
    return np.array([volume.hu[index][roi] for index, roi in squares])


def insert(low: Volume, normal: Volume, diameter_mm: float, contrast_hu: float) -> tuple[Volume, Image]:
    """The first slices with discs in uniform soft tissue of full dose, and the discs' cores (HU; 0 elsewhere)."""
    spacing_mm = low.geometry.pixel_spacing_mm
    side = round(LESION_SIDE_MM / spacing_mm[0])
    lesion = disc(side, spacing_mm[0], diameter_mm) * contrast_hu
    axis = (np.arange(side) - (side - 1) / 2) * spacing_mm[0]
    core = np.hypot(axis[:, None], axis[None]) < max(diameter_mm / 4, 0.71 * spacing_mm[0])
    hu, cores = low.hu[:LESION_SLICES].copy(), np.zeros_like(low.hu[:LESION_SLICES])
    for index, slice_hu in enumerate(normal.hu[:LESION_SLICES]):
        body = body_mask(slice_hu, spacing_mm)
        soft = tissue_masks(slice_hu, ("soft-tissue",), spacing_mm, body)["soft-tissue"]
        for roi in find_uniform_rois(slice_hu, soft, side):
            hu[index][roi] += lesion
            cores[index][roi] = np.where(core, lesion, 0)
    return Volume(hu, low.geometry.select(range(LESION_SLICES))), cores


def disc(side: int, spacing_mm: float, diameter_mm: float, fine: int = 5) -> Image:
    """A disc of height 1 as the scanner shows it: blurred, and averaged over each pixel."""
    axis = ((np.arange(side * fine) + 0.5) / fine - side / 2) * spacing_mm
    shape = (np.hypot(axis[:, None], axis[None]) < diameter_mm / 2).astype(float)
    blurred = ndimage.gaussian_filter(shape, BLUR_MM / spacing_mm * fine)
    return blurred.reshape(side, fine, side, fine).mean((1, 3)).astype(np.float32)


def read_table(path: Path) -> list[Row]:
    """All rows of a table; none where it does not exist."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [
            Row(row["series"], row["model"], row["metric"], float(row["value"])) for row in csv.DictReader(file)
        ]


def measure(root: Path, wanted: list[str]) -> None:
    """Measure the pairs of a tree, or those of the series that are named, and update the table."""
    for pair in find_pairs(label_series(find_images(root).series, root)):
        name = f"{pair.patient} {pair.kernel}"
        if wanted and name not in wanted:
            continue
        rows = [row for row in read_table(TABLE) if row.series != name]
        rows += {(row.model, row.metric): row for row in measure_pair(name, *paired_volumes(pair))}.values()
        write_table(TABLE, rows)


def write_table(path: Path, rows: list[Row]) -> None:
    """Write all rows of a table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["series", "model", "metric", "value"])
        writer.writerows([row.series, row.model, row.metric, f"{row.value:.4f}"] for row in rows)


def collect_speed(files: list[Path]) -> None:
    """Collect the speeds of networks from results of ``benchmark apply --json``."""
    rows = {}
    for path in files:
        for result in json.loads(path.read_text(encoding="utf-8"))["results"]:
            if result["name"].startswith("speed of ") and result["unit"] == "slices/s":
                name = result["name"].removeprefix("speed of ").removesuffix(", shipped")
                rows[name] = Row("512×512", name, "slices per second", result["value"])
    write_table(SPEED, sorted(rows.values(), key=lambda row: -row.value))


# Draw ---------------------------------------------------------------------------------------------------------


#: Values by metric, model and series.
Table = dict[str, dict[str, dict[str, float]]]


def table(rows: list[Row]) -> Table:
    """Values by metric, model and series."""
    found: Table = {}
    for row in rows:
        found.setdefault(row.metric, {}).setdefault(row.model, {})[row.series] = row.value
    return found


def grouped_bars(axis: plt.Axes, groups: list[str], values: dict[str, list[float]]) -> None:
    """Bars of every model, in groups."""
    width = 0.8 / len(values)
    colors = dict(zip((model for model, *_ in CANDIDATES), COLORS, strict=True))
    for number, (model, heights) in enumerate(values.items()):
        places = np.arange(len(groups)) + (number - (len(values) - 1) / 2) * width
        axis.bar(places, heights, width, label=model, color=colors[model])
    axis.set_xticks(range(len(groups)), groups)
    axis.grid(axis="y", color="0.9")
    axis.set_axisbelow(True)


def draw_gain(found: Table) -> plt.Figure:
    """PSNR gain by series, in two windows."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
    for axis, window, title in zip(axes, WINDOWS, ("[−1024, 1024] HU", "abdomen window"), strict=True):
        gains = found[f"gain {window}"]
        complete = [model for model, *_ in CANDIDATES if {*SERIES} <= {*gains.get(model, {})}]
        values = {model: [gains[model][one] for one in SERIES] for model in complete}
        grouped_bars(axis, list(SERIES), values)
        axis.set_title(title)
    axes[0].set_ylabel("PSNR gain, dB")
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=5, loc="outside lower center")
    return figure


def draw_texture(found: Table) -> plt.Figure:
    """Noise that is left against the shift of its mean frequency."""
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    for number, (model, *_) in enumerate(CANDIDATES):
        left, shift = (found[name].get(model, {}) for name in ("noise left", "mean frequency %"))
        both = [one for one in SERIES if one in left and one in shift]
        if both:
            axis.scatter([left[x] for x in both], [shift[x] for x in both], color=COLORS[number], label=model)
    axis.axhspan(-16, 0, color="0.93", zorder=0)
    axis.annotate("commercial products: down to −16 %", (0.01, -1.8), xycoords=("axes fraction", "data"))
    axis.set_xlabel("noise that is left, relative to quarter dose")
    axis.set_ylabel("mean frequency of the noise, change in %")
    axis.legend(fontsize=8)
    return figure


def draw_lesions(found: Table) -> plt.Figure:
    """Contrast that inserted discs keep, mean over the series."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    names = [f"{diameter:g} mm {contrast:+g} HU" for diameter, contrast in LESIONS]
    kept = {
        model: [mean(found[f"recovery {name}"][model].values()) for name in names]
        for model, *_ in CANDIDATES
        if model in found[f"recovery {names[0]}"]
    }
    grouped_bars(axis, [name.replace("-", "−") for name in names], kept)
    axis.axhline(1, color="0.5", linewidth=0.8)
    axis.set_ylabel("contrast that is kept")
    figure.legend(*axis.get_legend_handles_labels(), fontsize=8, ncols=5, loc="outside lower center")
    return figure


def draw_hu(found: Table) -> plt.Figure:
    """Bias of tissues against full dose, every series."""
    figure, axis = plt.subplots(figsize=(8, 3.2))
    models = {"input": "0.4", **{model: color for (model, *_), color in zip(CANDIDATES, COLORS, strict=True)}}
    for place, tissue in enumerate(TISSUES):
        for number, (model, color) in enumerate(models.items()):
            values = list(found[f"bias {tissue}"].get(model, {}).values())
            places = [place + (number - 2.5) * 0.12] * len(values)
            axis.scatter(places, values, color=color, s=22, label=model if place == 0 and values else None)
    axis.axhspan(-1, 1, color="0.93", zorder=0)
    axis.set_xticks(range(len(TISSUES)), TISSUES)
    axis.set_ylabel("bias against full dose, HU")
    axis.legend(fontsize=8, ncols=3)
    return figure


def draw_speed(found: Table) -> plt.Figure:
    """Slices a second of the shipped models and of published networks."""
    figure, axis = plt.subplots(figsize=(7, 2.4))
    rates = {model: one["512×512"] for model, one in found["slices per second"].items()}
    axis.barh(list(rates)[::-1], list(rates.values())[::-1], color="#1f4e9c")
    axis.set_xscale("log")
    axis.set_xlabel("slices of 512×512 a second, two CPU cores, fp32")
    for place, value in enumerate(list(rates.values())[::-1]):
        axis.text(value * 1.05, place, f"{value:.2g}", va="center", fontsize=8)
    return figure


def print_table(found: Table) -> None:
    """The figures of docs/results.md as Markdown: means over the series."""
    metrics = [name for name in found if name != "slices per second"]
    print(f"| | {' | '.join(metrics)} |\n|{' --- |' * (len(metrics) + 1)}")
    for model in ("input", *(label for label, *_ in CANDIDATES)):
        cells = (found[name].get(model, {}) for name in metrics)
        print(f"| {model} | {' | '.join(' '.join(f'{one:.2f}' for one in cell.values()) for cell in cells)} |")


def draw() -> None:
    """Draw all charts as SVG files and print the table."""
    matplotlib.rcParams.update({"svg.hashsalt": "results", "font.size": 9, "figure.constrained_layout.use": True})
    found = table(read_table(TABLE) + read_table(SPEED))
    charts = {
        "gain": draw_gain,
        "texture": draw_texture,
        "lesions": draw_lesions,
        "hu": draw_hu,
        "speed": draw_speed,
    }
    for name, chart in charts.items():
        figure = chart(found)
        figure.savefig(HERE / f"results-{name}.svg", metadata={"Date": None}, facecolor="white")
        plt.close(figure)
    print_table(found)


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), sys.argv[3:])
    elif sys.argv[1:2] == ["speed"]:
        collect_speed([Path(name) for name in sys.argv[2:]])
    else:
        draw()
