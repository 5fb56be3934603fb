"""Maps drawn over a CT image, with a colour bar; what was not measured is hatched."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.intensity import WINDOWS
from ldct_denoise.report.pictures import crop_box

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Image = NDArray[np.floating]

#: Width of the picture on the page, pixels, and its resolution.
WIDTH_PX, DPI = 640, 130


class Overlay(NamedTuple):
    """A drawn map.

    Parameters
    ----------
    figure : Figure
    axis, bar : Axes
        Of the image and of the colour bar.
    top, left : int
        First row and column of the image that is shown.
    """

    figure: Figure
    axis: Axes
    bar: Axes
    top: int
    left: int

    def png_uri(self) -> str:
        """The figure as a PNG in a ``data:`` address."""
        self.axis.set_axis_off()
        buffer = io.BytesIO()
        self.figure.savefig(buffer, dpi=DPI, format="png")
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def draw_overlay(
    hu: Image,
    values: Image,
    pixel_spacing_mm: tuple[float, float],
    *,
    limits: tuple[float, float],
    colours: str,
    opacity: Image | float,
    label: str,
) -> Overlay:
    """Draw a map over a CT image in the abdomen window, cropped to the body.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        Image below the map, HU.
    values : ndarray, shape (rows, columns)
        Map; pixels that are not finite were not measured, and are hatched.
    pixel_spacing_mm : tuple of 2 floats
        Row and column spacing, mm.
    limits : tuple of 2 floats
        Values at the ends of the colour scale.
    colours : str
        Colour map of matplotlib.
    opacity : float or ndarray, shape (rows, columns)
        0 (the CT image alone) to 1.
    label : str
        Label of the colour bar.

    Returns
    -------
    Overlay
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    box = crop_box([hu])
    dy, dx = pixel_spacing_mm
    shown, window, scale = values[box], WINDOWS["abdomen"], Normalize(*limits)
    height = 5.5 * shown.shape[0] * dy / (shown.shape[1] * dx) + 0.2
    figure = Figure(figsize=(6.4, min(max(height, 2.0), 9.0)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(hu[box], cmap="gray", vmin=window.low_hu, vmax=window.high_hu, aspect=dy / dx)
    alpha = opacity[box] if isinstance(opacity, np.ndarray) else np.where(np.isfinite(shown), opacity, 0.0)
    axis.imshow(shown, cmap=colours, norm=scale, alpha=alpha, aspect=dy / dx)
    unmeasured = (~np.isfinite(shown)).astype(float)
    if unmeasured.any() and not unmeasured.all():
        axis.contourf(unmeasured, levels=[0.5, 1.5], colors=["#8a8a8a"], alpha=0.35)
        axis.contourf(unmeasured, levels=[0.5, 1.5], colors="none", hatches=["////"])
    # The bar shows the colours without the transparency of the map.
    bar = figure.colorbar(ScalarMappable(scale, colours), ax=axis, shrink=0.85, label=label)
    return Overlay(figure, axis, bar.ax, box[0].start, box[1].start)
