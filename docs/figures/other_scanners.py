"""Measure models and filters on scanners that the shipped models have not seen (docs/results.md).

python docs/figures/other_scanners.py measure PATIENTS PHANTOM LEARNED     updates docs/figures/other-scanners.csv
python docs/figures/other_scanners.py table                                prints the tables

PATIENTS: folders of series at normal dose, of which slices at quarter dose are simulated. PHANTOM: one uniform
phantom, in sections of constant tube current. LEARNED: a trained model to set beside the others. With the names of
folders as further arguments only these are measured.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from results import Row, fidelity, restored

import ldct_denoise
from ldct_denoise.metrics.noise import difference_spectrum, noise_power_spectrum
from ldct_denoise.metrics.series_noise import uniform_soft_tissue_rois
from ldct_denoise.metrics.texture import mean_noise_frequency
from ldct_denoise.physics.dose import DoseSimulator
from ldct_denoise.regions import body_mask
from ldct_denoise.volume import SliceSource, Volume

Candidate = tuple[str, str, float | None]
TABLE = Path(__file__).parent / "other-scanners.csv"
#: Label, model, strength (None: the model's default).
CANDIDATES: tuple[Candidate, ...] = (
    ("lir-ct", "lir-ct", None),
    ("lir-ct, strength 1", "lir-ct", 1.0),
    ("lir-ct, strength 0.8", "lir-ct", 0.8),
    ("lir-ct-small", "lir-ct-small", None),
    ("nlm", "nlm", None),
    ("tv", "tv", None),
    ("bilateral", "bilateral", None),
)
DOSE = 0.25
#: Slices of a series, or of a section of the phantom, that are measured.
SLICES = 4
#: Side of the squares around the center of the phantom, and how many there are along each side.
ROI_MM, ROIS = 24.0, 4
#: Tables of docs/results.md: title, whether of the phantom, both metrics, and their figures after the point.
TABLES = (
    ("PSNR gain, dB, [−1024, 1024] / abdomen", False, ("gain 0,2048", 1), ("gain abdomen", 1)),
    ("noise left / mean frequency, %", False, ("noise left", 2), ("mean frequency %", 0)),
    ("fat / soft tissue, HU", False, ("bias fat", 1), ("bias soft-tissue", 1)),
    ("phantom: noise left / mean frequency, %", True, ("noise left", 2), ("mean frequency %", 0)),
    ("phantom: noise left / mean, HU", True, ("noise left", 2), ("bias", 1)),
)


def spread(count: int) -> list[int]:
    """Indices of at most SLICES of ``count`` slices, evenly spread."""
    return sorted({round(index) for index in np.linspace(0, count - 1, SLICES + 2)[1:-1]})


def selected(volume: Volume, indices: Sequence[int]) -> Volume:
    """Some slices of a volume."""
    metadata = volume.metadata.select(indices)
    return Volume(volume.hu[list(indices)], volume.geometry.select(indices), metadata=metadata)


def outputs(low: Volume, candidates: Sequence[Candidate]) -> Iterator[tuple[str, Volume]]:
    """Label and result of every candidate."""
    networks: dict[str, Volume] = {}
    for label, model, strength in candidates:
        if strength is None:
            yield label, restored(low, model, None)
            continue
        if model not in networks:
            networks[model] = restored(low, model, 1.0)
        yield label, replace(low, hu=low.hu + strength * (networks[model].hu - low.hu))


def measure_patient(path: Path, candidates: Sequence[Candidate]) -> Iterator[Row]:
    """Fidelity and HU of every candidate on simulated slices of a series, and noise between two scans."""
    source = ldct_denoise.read_series(path)[0]
    indices, simulator = spread(len(source)), DoseSimulator(source)
    normal = selected(Volume.of(source), indices)
    scans = [
        replace(normal, hu=np.stack([simulator.simulate(index, DOSE, seed) for index in indices]))
        for seed in range(2)
    ]
    before, frequency = noise_of_scans(normal, *scans)
    yield Row(path.name, "input", "noise HU", before)
    for (label, first), (_, second) in zip(*(outputs(scan, candidates) for scan in scans), strict=True):
        for row in fidelity(path.name, label, scans[0], normal, first):
            if row.metric.startswith(("gain", "bias")):
                yield row
        after, changed = noise_of_scans(normal, first, second)
        yield Row(path.name, label, "noise left", after / before)
        yield Row(path.name, label, "mean frequency %", 100 * (changed / frequency - 1))


def noise_of_scans(normal: Volume, first: Volume, second: Volume) -> tuple[float, float]:
    """Standard deviation (HU) and mean frequency (1/mm) of the noise that two scans do not share."""
    spacing_mm = normal.geometry.pixel_spacing_mm
    one, other = [], []
    for number, hu in enumerate(normal.hu):
        for roi in uniform_soft_tissue_rois(hu, body_mask(hu, spacing_mm), spacing_mm):
            one.append(first.hu[number][roi])
            other.append(second.hu[number][roi])
    spectrum = difference_spectrum(np.stack(one), np.stack(other), spacing_mm)
    return float(np.sqrt(spectrum.variance_hu2)), mean_noise_frequency(spectrum)


def sections(source: SliceSource) -> Iterator[tuple[float, list[int]]]:
    """Tube current (mA) and slices of each section of constant current."""
    currents = source.metadata.tube_current_ma
    for current, group in groupby(range(len(source)), lambda index: currents[index]):
        indices = list(group)
        if current is not None and len(indices) > SLICES:
            yield current, [indices[index] for index in spread(len(indices))]


def measure_phantom(path: Path, candidates: Sequence[Candidate]) -> Iterator[Row]:
    """Noise between equal slices, and the shift of the mean, of every candidate in every section."""
    source = ldct_denoise.read_series(path)[0]
    volume = Volume.of(source)
    for current, indices in sections(source):
        low, name = selected(volume, indices), f"{current:g} mA"
        spacing_mm = low.geometry.pixel_spacing_mm
        before, frequency, mean_hu = noise_between(low, spacing_mm)
        yield Row(name, "input", "noise HU", before)
        for label, image in outputs(low, candidates):
            after, changed, changed_mean = noise_between(image, spacing_mm)
            yield Row(name, label, "noise left", after / before)
            yield Row(name, label, "mean frequency %", 100 * (changed / frequency - 1))
            yield Row(name, label, "bias", changed_mean - mean_hu)


def noise_between(volume: Volume, spacing_mm: tuple[float, float]) -> tuple[float, float, float]:
    """Standard deviation between equal slices (HU), its mean frequency (1/mm), and the mean (HU) of the center."""
    rois = np.stack([central_rois(image, spacing_mm) for image in volume.hu])
    noise = (rois - rois.mean(axis=0)) * np.sqrt(len(rois) / (len(rois) - 1))
    spectrum = noise_power_spectrum(noise.reshape(-1, *rois.shape[2:]), spacing_mm)
    return float(np.sqrt(np.square(noise).mean())), mean_noise_frequency(spectrum), float(rois.mean())


def central_rois(image: NDArray[np.float32], spacing_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Squares around the center of an image, shape (ROIS², side, side)."""
    side = round(ROI_MM / spacing_mm[0])
    top, left = ((length - ROIS * side) // 2 for length in image.shape)
    center = image[top : top + ROIS * side, left : left + ROIS * side]
    return center.reshape(ROIS, side, ROIS, side).swapaxes(1, 2).reshape(-1, side, side)


def read_table() -> list[Row]:
    """All rows of the table; none where it does not exist."""
    if not TABLE.is_file():
        return []
    with TABLE.open(encoding="utf-8") as file:
        return [
            Row(row["series"], row["model"], row["metric"], float(row["value"])) for row in csv.DictReader(file)
        ]


def measure(patients: Path, phantom: Path, learned: str, wanted: Sequence[str]) -> None:
    """Measure the phantom and every series of patients, or those that are named, and update the table."""
    candidates = (*CANDIDATES, (Path(learned).name, learned, None))
    for path in (*sorted(patients.iterdir()), phantom):
        if wanted and path.name not in wanted:
            continue
        measured = list((measure_phantom if path == phantom else measure_patient)(path, candidates))
        rows = {(row.series, row.model, row.metric): row for row in (*read_table(), *measured)}
        with TABLE.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["series", "model", "metric", "value"])
            writer.writerows([one.series, one.model, one.metric, f"{one.value:.4f}"] for one in rows.values())


def print_tables() -> None:
    """The tables of docs/results.md as Markdown."""
    rows = read_table()
    values = {(row.series, row.model, row.metric): row.value for row in rows}
    series = sorted({row.series for row in rows}, key=lambda name: (len(name), name))
    models = list(dict.fromkeys(row.model for row in rows if row.model != "input"))
    for title, is_phantom, *metrics in TABLES:
        chosen = [one for one in series if one.endswith(" mA") == is_phantom]
        print(f"{title}\n\n| | {' | '.join(chosen)} |\n|{' --- |' * (len(chosen) + 1)}")
        noise = (f"{values[one, 'input', 'noise HU']:.1f} HU" for one in chosen)
        print(f"| noise of the input | {' | '.join(noise)} |")
        for model in models:
            cells = [
                " / ".join(
                    f"{values.get((one, model, name), float('nan')):z.{digits}f}".replace("-", "−")
                    for name, digits in metrics
                )
                for one in chosen
            ]
            print(f"| {model} | {' | '.join(cells)} |")
        print()


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], sys.argv[5:])
    else:
        print_tables()
