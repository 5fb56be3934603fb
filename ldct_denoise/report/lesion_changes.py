"""Lesion-sized changes in the report of ``apply``: the map of z values over the CT image, and the list."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.metrics.lesion_changes import LesionChange, LesionChangeMap, lesion_change_map
from ldct_denoise.regions.body import body_mask
from ldct_denoise.report.overlay import WIDTH_PX, draw_overlay
from ldct_denoise.report.page import ChartSection, Picture, Table
from ldct_denoise.volume import SliceSource

Image = NDArray[np.floating]

#: Limit of the colour scale; below :data:`SHOWN_Z` the CT image shows through.
SCALE_Z, SHOWN_Z = 8.0, 2.0


def lesion_map_section(
    source: SliceSource,
    restored: SliceSource,
    pairs: Sequence[tuple[int, int]],
    changes: Sequence[LesionChange],
    limits: tuple[float, float],
) -> ChartSection:
    """Map of the slice with the largest change, or of the middle slice if there is none.

    Parameters
    ----------
    source, restored : SliceSource
        Series before and after denoising.
    pairs : sequence of (int, int)
        Indices of the searched slices in both series.
    changes : sequence of LesionChange
        The largest first; ``slice_number`` is an index of ``pairs``.
    limits : tuple of 2 floats
        Limits (amber, red) of the absolute z.

    Returns
    -------
    ChartSection
    """
    number = changes[0].slice_number if changes else len(pairs) // 2
    before, after = source.read_hu(pairs[number][0]), restored.read_hu(pairs[number][1])
    spacing = source.geometry.pixel_spacing_mm
    found = lesion_change_map(before, after, body_mask(before, spacing), spacing)
    here = [change for change in changes if change.slice_number == number]
    z_mm = source.geometry.offsets_mm[pairs[number][0]]
    text = (
        f"Output − input of the slice at z = {z_mm:.1f} mm, filtered for lesions of 3 to 15 mm and divided by its "
        "noise. Red: the output is brighter; blue: darker. A dark lesion that was erased and a bright one that "
        "was invented are both red. Hatched grey: not measured (outside the body and near strong edges), so "
        "nothing is known there. Circles: the largest changes, solid where they exceed the limit."
    )
    picture = Picture(draw_lesion_map(after, found, here, limits), "z score over the denoised image", WIDTH_PX)
    return ChartSection("Lesion-sized changes", text, [], [picture])


def draw_lesion_map(
    hu: Image, found: LesionChangeMap, changes: Sequence[LesionChange], limits: tuple[float, float]
) -> str:
    """Draw the z values over a CT image, with a colour bar, as a PNG in a ``data:`` address.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        Image below the map, HU; shown in the abdomen window.
    found : LesionChangeMap
        Map of this slice. Pixels that were not measured are hatched.
    changes : sequence of LesionChange
        Circled; beyond the amber limit with a solid line, otherwise dotted.
    limits : tuple of 2 floats
        Limits (amber, red) of the absolute z, marked at the colour bar.

    Returns
    -------
    str
    """
    from matplotlib.patches import Circle

    drawn = draw_overlay(
        hu,
        found.z,
        found.pixel_spacing_mm,
        limits=(-SCALE_Z, SCALE_Z),
        colours="RdBu_r",
        opacity=np.clip((np.abs(np.nan_to_num(found.z)) - SHOWN_Z) / (limits[0] - SHOWN_Z), 0, 1),
        label="z score of output − input",
    )
    for change in changes:
        style = "solid" if abs(change.z) > limits[0] else "dotted"
        centre = change.column - drawn.left, change.row - drawn.top
        radius = 0.75 * change.size_mm / found.pixel_spacing_mm[1] + 3
        drawn.axis.add_patch(Circle(centre, radius, fill=False, color="#ffd400", linestyle=style))
    for limit in limits:
        drawn.bar.axhline(limit, color="black", linewidth=1)
        drawn.bar.axhline(-limit, color="black", linewidth=1)
    return drawn.png_uri()


def lesion_table(
    source: SliceSource,
    pairs: Sequence[tuple[int, int]],
    changes: Sequence[LesionChange],
    limits: tuple[float, float],
) -> list[Table]:
    """Table of the largest changes with their place in the patient; none if there is none.

    Parameters
    ----------
    source : SliceSource
    pairs : sequence of (int, int)
        Indices of the searched slices; the first of each is that of ``source``.
    changes : sequence of LesionChange
    limits : tuple of 2 floats
        Limits (amber, red) of the absolute z.

    Returns
    -------
    list of Table
    """
    rows = []
    for change in changes:
        x, y, z = source.geometry.to_lps([pairs[change.slice_number][0], change.row, change.column])
        measured = change.row, change.column, change.size_mm, change.contrast_hu, change.z
        rows.append([f"{x:.0f}, {y:.0f}, {z:.0f}", *measured])
    columns = ("position LPS, mm", "row", "column", "size, mm", "contrast output − input, HU", "z score")
    text = (
        "The largest lesion-sized changes of all slices, also those within the limit "
        f"(±{limits[0]:.1f}: amber, ±{limits[1]:.1f}: red), which noise explains."
    )
    return [Table("Lesion-sized changes", text, columns, rows)] if rows else []
