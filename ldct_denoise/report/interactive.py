"""Viewer for notebooks: series side by side in a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError
from ldct_denoise.intensity import Window
from ldct_denoise.io.orientation import oriented_like
from ldct_denoise.io.slice_matching import match_slices
from ldct_denoise.regions.regions import Region, Sphere
from ldct_denoise.report.page import PICTURE_BUDGET, Page, render
from ldct_denoise.report.pictures import spread_slice_views
from ldct_denoise.volume import Geometry, SliceSource

Image = NDArray[np.floating]


def slice_figure(images: Mapping[str, Image], window: Window, outline: NDArray[np.bool_] | None = None) -> Any:
    """Slices side by side in one window, as a matplotlib figure.

    Parameters
    ----------
    images : mapping from title to ndarray, shape (rows, columns)
        HU.
    window : Window
    outline : ndarray of bool, shape (rows, columns), optional
        Mask whose border is drawn on every slice.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt  # notebooks show only figures that pyplot created

    figure, axes = plt.subplots(
        1, len(images), figsize=(3.6 * len(images), 3.9), layout="constrained", squeeze=False
    )
    plt.close(figure)  # so that the notebook shows the returned figure once
    for axis, (title, hu) in zip(axes.flat, images.items(), strict=True):
        axis.imshow(hu, cmap="gray", vmin=window.low_hu, vmax=window.high_hu)
        if outline is not None and outline.any():
            axis.contour(outline, levels=[0.5], colors="yellow", linewidths=1)
        axis.set_title(title)
        axis.set_axis_off()
    return figure


@dataclass(frozen=True)
class Viewer:
    """A page shown in a notebook cell.

    Parameters
    ----------
    html : str
        Complete page; needs neither network nor server.
    height_px : int
        Height of the cell's output.
    """

    html: str
    height_px: int = 720

    def _repr_html_(self) -> str:
        return (
            f'<iframe srcdoc="{escape(self.html)}" style="width:100%;height:{self.height_px}px;border:0" '
            'sandbox="allow-scripts allow-downloads"></iframe>'
        )


def review(
    sources: Mapping[str, SliceSource], regions: Sequence[Region] = (), *, most: int = 24, title: str = "Review"
) -> Viewer:
    """View several series of the same anatomy: linked scrolling and zoom, windows, differences, circular ROIs.

    Parameters
    ----------
    sources : mapping from title to SliceSource
        Paired by position, also in another axis order; the last one is the reference of the differences.
    regions : sequence of Region
        Regions that are outlined.
    most : int
        Largest number of slices, spread along the series; fewer if the notebook would exceed 10 MB.
    title : str

    Returns
    -------
    Viewer
        Shown if it is the last expression of a notebook cell.

    Raises
    ------
    InputError
        If the series have no slice position in common.
    """
    *others, last = sources
    sources = {name: oriented_like(source, sources[last].geometry) for name, source in sources.items()}
    matches = {name: dict(match_slices(sources[last].geometry, sources[name].geometry)) for name in others}
    indices = [
        {**{name: matches[name][index] for name in others}, last: index}
        for index in range(len(sources[last]))
        if all(index in matches[name] for name in others)
    ]
    if not indices:
        raise InputError("the series have no slice position in common; give series of the same scan")
    views, middle = spread_slice_views(sources, indices, most=most, budget=PICTURE_BUDGET, regions=regions)
    note = f"{len(views)} of {len(indices)} slices."
    page = Page(title, (), slice_views=views, first_view=middle, picture_note=note, definitions=())
    return Viewer(render(page))


def roi_numbers(sources: Mapping[str, SliceSource], roi: Sphere) -> dict[str, dict[str, float]]:
    """Statistics of a spherical ROI in every series.

    Parameters
    ----------
    sources : mapping from title to SliceSource
    roi : Sphere

    Returns
    -------
    dict from title to dict
        ``mean_hu``, ``std_hu`` (NaN if the series does not reach the ROI) and number of ``pixels``.
    """
    return {title: _numbers(source, source.geometry, roi) for title, source in sources.items()}


def _numbers(source: SliceSource, geometry: Geometry, roi: Sphere) -> dict[str, float]:
    values = []
    for index in range(len(source)):
        if abs((np.asarray(roi.centre_mm) - geometry.positions_mm[index]) @ geometry.normal) <= roi.radius_mm:
            hu = source.read_hu(index)
            values.append(hu[roi.mask(geometry, index, hu)])
    inside = np.concatenate(values) if values else np.array([])
    if not inside.size:
        return {"mean_hu": float("nan"), "std_hu": float("nan"), "pixels": 0.0}
    return {"mean_hu": float(inside.mean()), "std_hu": float(inside.std()), "pixels": float(inside.size)}
