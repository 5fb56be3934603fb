"""Noise and resolution along z, as they appear in reports and summaries."""

from __future__ import annotations

from collections.abc import Sequence

from ldct_denoise.evaluation.along_z import AlongZ
from ldct_denoise.evaluation.tables import Entry, finite_or_none
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.page import ChartSection, Table

DEFINITIONS = (
    ("z-NPS", "noise power spectrum along z of at most 9 contiguous slices, HU²·mm: 24 mm ROIs in tissue that is "
     "uniform in all of them, in-plane trend removed. The shape is that of the part of each image that follows a "
     "difference in which anatomy cancels; the image gives the level above 0.25/mm in-plane."),
    ("slice sensitivity profile", "a disc of 10 mm is inserted with a Gaussian profile whose full width at half "
     "maximum (FWHM) is the slice thickness. The chart shows its contrast in the difference of images with and "
     "without it. A denoiser that works slice by slice cannot widen it; one that uses neighbouring slices may."),
)  # fmt: skip
#: Charts of at most so many series; the tables have all.
MAX_SERIES = 4


def along_z_sentences(found: Sequence[AlongZ]) -> list[str]:
    """One sentence for each series."""
    sentences = []
    for one in found:
        parts = []
        if one.noise is not None:
            before, after = (noise.correlation[1] for noise in one.noise)
            parts.append(f"correlation of the noise of neighbouring slices {before:.2f} → {after:.2f}")
        if one.sensitivity:
            widths = one.sensitivity[0].fwhm_mm
            parts.append(f"slice sensitivity (FWHM) {widths[0]:.1f} → {widths[1]:.1f} mm")
        sentences.append(f"{_title(one)}, along z: {'; '.join(parts)}.")
    return sentences


def along_z_entries(found: Sequence[AlongZ]) -> list[Entry]:
    """Entries of ``summary.json``."""
    return [
        {
            "series": one.name,
            "kernel": one.kernel,
            "dose": one.dose,
            "slices": one.slices,
            "spacing_mm": one.spacing_mm,
            "thickness_mm": one.thickness_mm,
            "difference": one.difference,
            "rois": one.regions,
            "noise": _noise_entries(one),
            "slice_sensitivity": [
                {
                    "contrast_hu": part.contrast_hu,
                    "places": part.places,
                    "fwhm_before_mm": finite_or_none(part.fwhm_mm[0]),
                    "fwhm_after_mm": finite_or_none(part.fwhm_mm[1]),
                    "offset_mm": part.offsets_mm.tolist(),
                    "before": part.before.tolist(),
                    "after": part.after.tolist(),
                }
                for part in one.sensitivity
            ],
        }
        for one in found
    ]


def _noise_entries(one: AlongZ) -> dict[str, Entry]:
    return {
        name: {
            "noise_hu": noise.noise_hu,
            "correlation": [finite_or_none(value) for value in noise.correlation],
            "frequency_per_mm": noise.frequency.tolist(),
            "nps_hu2_mm": noise.power.tolist(),
            "is_free_of_anatomy": noise.is_free_of_anatomy,
        }
        for name, noise in zip(("before", "after"), one.noise or (), strict=False)
    }


def along_z_tables(found: Sequence[AlongZ]) -> list[Table]:
    """Noise of every series along z, and its slice sensitivity."""
    noise_rows: list[list[object]] = []
    widths: list[list[object]] = []
    for one in found:
        for name, noise in zip(("before", "after"), one.noise or (), strict=False):
            source = one.difference if noise.is_free_of_anatomy else "uniform ROIs: anatomy included"
            noise_rows.append(
                [_title(one), name, noise.noise_hu, *noise.correlation[1:3].tolist(), one.regions, source]
            )
        for part in one.sensitivity:
            kept = 100 * float(part.after.max() / part.before.max())
            widths.append([_title(one), one.thickness_mm, part.contrast_hu, *part.fwhm_mm, kept, part.places])
    columns = ("series", "image", "noise, HU", "correlation, next slice", "next but one", "ROIs", "from")
    sensitivity = (
        "series", "slice thickness, mm", "contrast, HU", "FWHM before, mm", "FWHM after, mm", "contrast kept, %",
        "places",
    )  # fmt: skip
    tables = [
        Table("Noise along z", "Anatomy in the ROIs would correlate along z.", columns, noise_rows),
        Table("Slice sensitivity", "Thin discs, inserted into these images.", sensitivity, widths),
    ]
    return [table for table in tables if table.rows]


def along_z_charts(found: Sequence[AlongZ]) -> ChartSection:
    """z-NPS and slice sensitivity of the first series."""
    charts = []
    for one in found[:MAX_SERIES]:
        if one.noise is not None:
            spectra = zip(("before", "after"), one.noise, strict=True)
            curves = {name: (noise.frequency.tolist(), noise.power.tolist()) for name, noise in spectra}
            charts.append(line_chart(curves, "frequency along z, 1/mm", "z-NPS, HU²·mm", f"z-NPS: {_title(one)}"))
        profiles = {}
        for part in one.sensitivity:
            offsets = part.offsets_mm.tolist()
            profiles[f"before, {part.contrast_hu:+g} HU"] = (offsets, part.before.tolist())
            profiles[f"after, {part.contrast_hu:+g} HU"] = (offsets, part.after.tolist())
        title = f"slice sensitivity: {_title(one)}"
        charts.append(line_chart(profiles, "distance from the disc, mm", "share of the contrast", title))
    text = "Noise and resolution from slice to slice, in these images."
    return ChartSection("Along z", text, [chart for chart in charts if chart])


def _title(one: AlongZ) -> str:
    kernel = "" if one.kernel in one.name else one.kernel
    return ", ".join(part for part in (one.name, kernel, one.dose and f"{one.dose} dose") if part)
