"""Report of ``apply --report``: a denoised series against its input, without a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.inference.series import derivation_of, input_warnings
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.io.find import find_images
from ldct_denoise.io.slice_matching import match_slices
from ldct_denoise.metrics.checks import CHECKED_TISSUES
from ldct_denoise.metrics.contrast import finest_spacing_mm
from ldct_denoise.metrics.no_reference import (
    NoReferenceReport,
    no_reference_report,
    residual_edge_map,
)
from ldct_denoise.metrics.noise_change import NoiseChange
from ldct_denoise.metrics.unpaired_noise import RING_PER_MM, NoiseLimits
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.regions.body import body_mask
from ldct_denoise.report.charts import line_chart
from ldct_denoise.report.identity import NO_SIGNATURE, Identity, Signature, dose_facts, series_facts, subject_of
from ldct_denoise.report.lesion_changes import lesion_map_section, lesion_table
from ldct_denoise.report.noise_map import DEFINITION as NOISE_MAP
from ldct_denoise.report.noise_map import noise_map_pictures
from ldct_denoise.report.numbers import between
from ldct_denoise.report.page import PICTURE_BUDGET, STATUS, ChartSection, Page, Picture, Table, write_page
from ldct_denoise.report.pictures import crop_box, png_uri, spread_slice_views
from ldct_denoise.report.verdict import answer
from ldct_denoise.volume import SliceSource, spread_indices

#: Largest number of slices that are measured, and that are shown.
MEASURED_SLICES, SHOWN_SLICES = 24, 16
#: Width of a map on the page, pixels.
MAP_WIDTH_PX = 400

DEFINITIONS = (
    ("global noise level", "mode of the map of local standard deviations (6 mm squares) in a tissue, HU "
     "(Christianson et al. 2015)."),
    ("noise power spectrum", "mean |DFT|² of the ROIs (24 mm) of soft tissue or fat with the least anatomy, "
     "second-order trend removed, HU²·mm²; radial mean. One half of the frequencies of the input chooses the ROIs "
     "in which the other half is measured. The anatomy that is left makes this an upper limit; the lower limit "
     "has at most the power at low frequencies that filtered back-projection gives."),
    ("noise reduction profile", "10·log10(NPS after / NPS before), dB, of the upper limits."),
    NOISE_MAP,
    ("edge sharpness", "gradient after, projected on the gradient before, over the strongest 2 % of the edges."),
    ("edge correlation", "correlation of input − output with the input, both as differences of Gaussian means "
     "(σ = 2 and 4 pixels), at the input's edges; near 0 if only noise was removed, above 0.6 for a blur."),
    ("lesion-sized changes", "largest z score of output − input after a difference of Gaussians for discs of 3 to "
     "15 mm, divided by its local noise; on every slice, away from the body's outline and strong edges. "
     "Removed noise exceeds the amber limit in one series of 20, the red in one of 100 000; lesions "
     "that noise hides stay below both."),
    ("flicker", "rms change of 16×16-pixel means between neighbouring slices, over √2. It includes anatomy, so "
     "only its change is checked."),
    STATUS,
)  # fmt: skip


def write_apply_report(
    source: SliceSource,
    restored: SliceSource,
    path: Path,
    model_info: Mapping[str, object] | None = None,
    *,
    signature: Signature = NO_SIGNATURE,
    warnings: Sequence[str] = (),
) -> NoReferenceReport:
    """Measure a denoised series against its input and write the report.

    Parameters
    ----------
    source, restored : SliceSource
        Series before and after denoising; slices are paired by position. Every slice is searched for lesion-sized
        changes; everything else is measured on at most 24 slices.
    path : Path
        HTML file; replaced atomically.
    model_info : mapping, optional
        Model, checksum, strength, …; shown in the block at the top.
    signature : Signature
        Author and site.
    warnings : sequence of str
        Warnings about the input, shown as notes.

    Returns
    -------
    NoReferenceReport

    Raises
    ------
    InputError
        If the two series share no slice.
    """
    pairs = match_slices(source.geometry, restored.geometry)
    if not pairs:
        raise InputError(
            f"{restored.name or path}: no slice has the position of a slice of its input; nothing to report"
        )
    spacing = source.geometry.pixel_spacing_mm

    def read() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        for before, after in pairs:
            yield source.read_hu(before), restored.read_hu(after)

    offsets = source.geometry.offsets_mm
    report = no_reference_report(
        read(),
        spacing,
        offsets_mm=[float(offsets[before]) for before, _ in pairs],
        slice_spacing_mm=finest_spacing_mm(offsets),
        sampled=frozenset(_neighbouring_pairs(len(pairs), MEASURED_SLICES)),
    )
    attention = _attention(report)
    views, first_view = spread_slice_views(
        {"input": source, "output": restored},
        [{"input": before, "output": after} for before, after in pairs],
        most=SHOWN_SLICES,
        budget=PICTURE_BUDGET,
        always=attention,
    )
    identity = _identity(source, model_info or {}, signature)
    page = Page(
        title=identity.title,
        identity=identity.rows,
        sentences=[verdict(report)],
        checks=report.checks,
        notes=[
            *warnings,
            f"All {len(pairs)} slices were searched for lesion-sized changes; everything else was measured on "
            f"{report.slices} of them.",
        ],
        slice_views=views,
        first_view=first_view,
        picture_note=f"{len(views)} of {len(pairs)} slices are shown (spread along z, cropped to the body) so "
        f"that the file stays below 10 MB.{_attention_words(source, pairs, attention)}",
        view_command="ldct-denoise view INPUT OUTPUT",
        charts=[
            lesion_map_section(source, restored, pairs, report.lesion_changes, report.lesion_z_limits),
            *_charts(report),
            *_maps(source, restored, pairs[len(pairs) // 2], report.noise),
        ],
        tables=[
            *lesion_table(source, pairs, report.lesion_changes, report.lesion_z_limits),
            _tissues(report),
            *_scales(report),
        ],
        definitions=DEFINITIONS,
    )
    write_page(page, path)
    return report


def apply_report_writer(
    model: TrainedModel, settings: ApplySettings, signature: Signature = NO_SIGNATURE
) -> Callable[[SliceSource, Path, Path], NoReferenceReport]:
    """The ``write_report`` callback of :func:`ldct_denoise.inference.batch.apply`, with the model's facts.

    Parameters
    ----------
    model : TrainedModel
    settings : ApplySettings
        How the model is applied.
    signature : Signature
        Author and site.

    Returns
    -------
    callable
        Called with the source, the location of the result and the report's path.
    """
    derivation = derivation_of(model, settings)
    facts: dict[str, object] = {"model": model.name}
    facts["model SHA-256"] = model.checksum or "none: a method without training"
    facts["strength"] = derivation.amount or f"strength {100 * derivation.strength:g} %"
    facts |= derivation.settings

    def write(source: SliceSource, location: Path, report: Path) -> NoReferenceReport:
        restored = find_images(location, include_derived=True).series[0]
        warnings = input_warnings(source, model, settings)
        return write_apply_report(source, restored, report, facts, signature=signature, warnings=warnings)

    return write


def verdict(report: NoReferenceReport) -> str:
    """First paragraph of the report."""
    return answer(report.checks)


def _identity(source: SliceSource, model_info: Mapping[str, object], signature: Signature) -> Identity:
    facts = series_facts([source]) + dose_facts({"input": [source]})
    facts += [(name, str(value)) for name, value in model_info.items()]
    model = ", ".join(str(model_info[key]) for key in ("model", "strength") if key in model_info)
    return Identity("Denoising report", subject_of([source], model), facts, signature)


def _attention(report: NoReferenceReport) -> int | None:
    """Slice with the largest lesion-sized change, where that is beyond the limit."""
    alarming = any(check.name == "lesion-sized changes" and check.status != "green" for check in report.checks)
    return report.lesion_changes[0].slice_number if alarming else None


def _attention_words(source: SliceSource, pairs: Sequence[tuple[int, int]], attention: int | None) -> str:
    if attention is None:
        return ""
    z_mm = source.geometry.offsets_mm[pairs[attention][0]]
    return f" The viewer opens at z = {z_mm:.1f} mm, the slice with the largest lesion-sized change."


def _neighbouring_pairs(total: int, wanted: int) -> list[int]:
    """Indices spread along the series in pairs of neighbours, between which flicker can be measured."""
    if total <= wanted:
        return list(range(total))
    starts = spread_indices(total - 1, wanted // 2)
    return sorted({start + step for start in starts for step in (0, 1)})


def _charts(report: NoReferenceReport) -> list[ChartSection]:
    noise = report.noise
    if noise is None:
        return []
    limits = {"input": noise.before, "output": noise.after}
    spectra = {f"{name}, upper limit": one.upper.radial(RING_PER_MM) for name, one in limits.items()}
    spectra |= {f"{name}, lower limit": one.lower.radial(RING_PER_MM) for name, one in limits.items() if one.lower}
    transfer = noise.transfer_hu
    charts = [
        line_chart(
            {name: (list(s.frequency), list(s.power)) for name, s in spectra.items()},
            "frequency, 1/mm",
            "NPS, HU²·mm²",
            "noise power spectrum",
            log_y=True,
        ),
        line_chart(
            {"output": (list(noise.profile.frequency), list(noise.profile.power))},
            "frequency, 1/mm",
            "dB",
            "noise reduction profile: output against input",
        ),
        line_chart(
            {"output": ([before for before, _ in transfer], [after for _, after in transfer])},
            "noise before, HU",
            "noise after, HU",
            "noise out for noise in (means over ROIs)",
            dots=True,
        ),
    ]
    text = (
        f"From the {noise.before.rois} ROIs of soft tissue or fat with the least anatomy. "
        f"{_certainty(noise.before)} The output of a denoiser lies between its limits."
    )
    return [ChartSection("Noise by frequency", text, [c for c in charts if c])]


def _certainty(noise: NoiseLimits) -> str:
    """How well the noise of the input is known, in words."""
    if noise.lower is None:
        return "The pixels are too coarse to tell noise from anatomy: all figures are upper limits."
    words = f"The noise of the input is {between(noise.noise_hu)} HU there"
    if noise.stated_from_per_mm <= 0:
        return f"{words}; its limits agree at all frequencies."
    return (
        f"{words}; below {noise.stated_from_per_mm:.2f}/mm its limits differ by more than 25 %, because the ROIs "
        "may hold anatomy."
    )


def _maps(
    source: SliceSource, restored: SliceSource, pair: tuple[int, int], noise: NoiseChange | None
) -> list[ChartSection]:
    """Maps of one slice: noise before and after, and removed anatomy."""
    before, after = source.read_hu(pair[0]), restored.read_hu(pair[1])
    spacing = source.geometry.pixel_spacing_mm
    place = f"Slice at z = {source.geometry.offsets_mm[pair[0]]:.1f} mm."
    sections = []
    if noise is not None:
        pictures = noise_map_pictures({"input": (before, noise.before), "output": (after, noise.after)}, spacing)
        text = f"{place} Noise differs from place to place; this is its standard deviation around each pixel."
        sections.append(ChartSection("Noise map", text, [], pictures))
    correlation = residual_edge_map(before, after, body_mask(before, spacing))[crop_box([before])]
    correlation = np.where(correlation == 0, np.nan, correlation)
    caption = (
        "edge correlation of the removed signal: −1 (blue) to +1 (red: edges were removed); grey: not measured"
    )
    picture = Picture(png_uri(correlation, -1, 1, "RdBu_r"), caption, MAP_WIDTH_PX)
    return [*sections, ChartSection("Removed anatomy", place, [], [picture])]


def _tissues(report: NoReferenceReport) -> Table:
    rows = [
        [tissue, before, after, _change(tissue, before, after), report.shift_hu.get(tissue)]
        for tissue, (before, after) in report.noise_hu.items()
    ]
    columns = ("tissue", "noise before, HU", "noise after, HU", "change, %", "mean HU shift")
    text = "Global noise level and HU shift. Lung and bone are not uniform: their level is mostly anatomy."
    return Table("Tissues", text, columns, rows)


def _scales(report: NoReferenceReport) -> list[Table]:
    noise = report.noise
    if noise is None:
        return []
    limits = {"0 (all)": (noise.before.noise_hu, noise.after.noise_hu)}
    limits |= {f"{sigma_mm:g}": pair for sigma_mm, pair in noise.blurred_hu.items()}
    rows = [[sigma_mm, between(before), between(after)] for sigma_mm, (before, after) in limits.items()]
    columns = ("blur (σ), mm", "noise before, HU", "noise after, HU")
    text = (
        "Noise in the ROIs with the least anatomy, after a Gaussian blur: at the scale of lesions little of it "
        "may be removed. Two numbers are limits: the upper holds the anatomy of the ROIs, the lower assumes noise "
        "of filtered back-projection."
    )
    return [Table("Noise by scale", text, columns, rows)]


def _change(tissue: str, before: float, after: float) -> float | None:
    """Change of the noise level in %, for tissues uniform enough that the level is noise."""
    return 100 * (after / before - 1) if before > 0 and tissue in CHECKED_TISSUES else None
