"""Range of the images that a model was trained on, and how an input differs from it.

It is measured in the training pools and kept in the model's card; ``apply`` measures each series against it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldct_denoise.physics.noise import fill_with_air, radial_nps, uniform_roi_spectra, without_anatomy
from ldct_denoise.volume import SliceSource, slice_thickness_mm, spread_indices

#: Slices of a series that are measured, and largest number of training series.
MEASURED_SLICES, MEASURED_SERIES = 3, 24
#: Frequency at which the noise index is read, 1/mm: the scale of lesions, hardly dependent on the kernel.
INDEX_FREQUENCY_PER_MM = 0.2
#: Factors below the smallest and above the largest training value that still count as inside.
TOLERANCES = {
    "noise_index": (4.0, 2.0),
    "mean_frequency_per_mm": (1.6, 1.6),
    "slice_thickness_mm": (1.5, 1.5),
    "pixel_spacing_mm": (1.5, 1.5),
    "kvp": (1.2, 1.2),
    "soft_tissue_fraction": (4.0, 4.0),
}
#: Names and units of the measured values in messages.
_TITLES = {
    "noise_index": ("noise √NPS(0.2/mm)", "HU·mm"),
    "mean_frequency_per_mm": ("mean frequency of the noise", "/mm"),
    "slice_thickness_mm": ("slice thickness", "mm"),
    "pixel_spacing_mm": ("pixel spacing", "mm"),
    "kvp": ("tube voltage", "kV"),
    "soft_tissue_fraction": ("share of soft tissue in the slices", ""),
}
#: A slice whose first percentile is above this has no air, HU.
NO_AIR_ABOVE_HU = -300.0
#: Range of soft tissue, HU.
SOFT_TISSUE_HU = (-200.0, 300.0)
#: Kernels of lung and bone of GE, Philips and Canon, by their names.
_SHARP_NAME = re.compile(r"LUNG|BONE|EDGE|ULTRA|L|Y[A-D]|FC(5\d|8\d|3[0-5])", re.IGNORECASE)
#: Siemens kernels: body, head, specials or inner ear, and a number that rises with sharpness.
_SIEMENS_NAME = re.compile(r"[A-Z][a-z]?(\d\d)[a-z]?(\\\d)?")
SHARP_SIEMENS_FROM = 55


@dataclass(frozen=True)
class SeriesFacts:
    """Measured properties of a series.

    Parameters
    ----------
    kernel : str
        Convolution kernel; empty if it is unknown.
    values : mapping of str to float
        ``noise_index`` (HU·mm), ``mean_frequency_per_mm``, ``slice_thickness_mm``, ``pixel_spacing_mm``, ``kvp``
        and ``soft_tissue_fraction``; noise is missing where no slice has uniform tissue, ``kvp`` where the header
        does not state it.
    lowest_hu : float
        First percentile of the measured slices, HU.
    """

    kernel: str
    values: Mapping[str, float]
    lowest_hu: float


def is_sharp_kernel(name: str) -> bool:
    """Whether the name is that of a lung or bone kernel; an unknown name is none."""
    first = name.strip().partition(" ")[0]
    siemens = _SIEMENS_NAME.fullmatch(first)
    if siemens and not first.upper().startswith("FC"):
        return int(siemens[1]) >= SHARP_SIEMENS_FROM or first.startswith("Bl")
    return bool(_SHARP_NAME.fullmatch(first) or re.match(r"LUNG|BONE|EDGE", first, re.IGNORECASE))


def measure_series(source: SliceSource) -> SeriesFacts:
    """Measure a few slices of a series.

    Raises
    ------
    InputError
        If a slice cannot be read.
    """
    spacing_mm = source.geometry.pixel_spacing_mm
    spectra, lowest, tissue = [], [], []
    for index in spread_indices(len(source), MEASURED_SLICES + 2)[1:-1] or [0]:  # the ends show least anatomy
        hu = fill_with_air(source.read_hu(index))
        lowest.append(float(np.percentile(hu[::4, ::4], 1)))
        tissue.append(float(np.mean((hu > SOFT_TISSUE_HU[0]) & (hu < SOFT_TISSUE_HU[1]))))
        rois = uniform_roi_spectra(hu, spacing_mm)
        if len(rois) and rois.mean() > 0:
            spectra.append(rois.mean(axis=0))
    values = {
        "slice_thickness_mm": slice_thickness_mm(source),
        "pixel_spacing_mm": float(np.mean(spacing_mm)),
        "soft_tissue_fraction": float(np.mean(tissue)),
    }
    if source.metadata.kvp is not None:
        values["kvp"] = source.metadata.kvp
    if spectra:
        frequencies, nps = radial_nps(np.mean(spectra, axis=0) * spacing_mm[0] * spacing_mm[1], spacing_mm)
        nps = without_anatomy(frequencies, nps)
        values["noise_index"] = float(np.sqrt(np.interp(INDEX_FREQUENCY_PER_MM, frequencies, nps)))
        values["mean_frequency_per_mm"] = float(np.sum(frequencies * nps) / max(float(np.sum(nps)), 1e-9))
    return SeriesFacts(source.metadata.kernel, values, float(np.mean(lowest)))


def measure_envelope(sources: Iterable[SliceSource]) -> dict[str, Any]:
    """Envelope of training images, for a model's card.

    Parameters
    ----------
    sources : iterable of SliceSource
        Series of the pools; at most :data:`MEASURED_SERIES` are measured.

    Returns
    -------
    dict
        ``kernels``, and for each measured value its smallest and largest; empty without series.
    """
    series = list(sources)
    facts = [measure_series(series[index]) for index in spread_indices(len(series), MEASURED_SERIES)]
    if not facts:
        return {}
    envelope: dict[str, Any] = {"kernels": sorted({one.kernel for one in facts} - {""})}
    for name in TOLERANCES:
        found = [one.values[name] for one in facts if name in one.values]
        if found:
            envelope[name] = [round(min(found), 4), round(max(found), 4)]
    envelope["lowest_hu"] = [
        round(min(one.lowest_hu for one in facts)),
        round(max(one.lowest_hu for one in facts)),
    ]
    return envelope


def outside(envelope: Mapping[str, Any], facts: SeriesFacts) -> list[str]:
    """How a series differs from the images that a model was trained on.

    Parameters
    ----------
    envelope : mapping
        From :func:`measure_envelope`; empty: nothing is known, and nothing differs.
    facts : SeriesFacts
        Of the series.

    Returns
    -------
    list of str
        One phrase for each difference; empty for a series inside the envelope.
    """
    if not envelope:
        return []
    found = []
    kernels: Sequence[str] = envelope.get("kernels", ())
    if is_sharp_kernel(facts.kernel) and not any(map(is_sharp_kernel, kernels)):
        found.append(f"kernel {facts.kernel} is one of lung or bone (trained on {', '.join(kernels) or 'others'})")
    if "noise_index" in envelope and "noise_index" not in facts.values:
        found.append("no uniform soft tissue to measure noise in")
    for name, (below, above) in TOLERANCES.items():
        if name not in envelope or name not in facts.values:
            continue
        (low, high), value, (title, unit) = envelope[name], facts.values[name], _TITLES[name]
        if not low / below <= value <= high * above:
            found.append(f"{title} {value:.3g} {unit}".rstrip() + f" (trained on {low:.3g} to {high:.3g})")
    if facts.lowest_hu > NO_AIR_ABOVE_HU > envelope.get("lowest_hu", (0, 0))[1]:
        found.append(f"no air in the slices (lowest values {facts.lowest_hu:.0f} HU): are the values HU?")
    return found
