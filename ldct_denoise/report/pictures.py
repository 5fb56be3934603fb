"""CT slices embedded in an HTML file: HU rather than grey values, small enough for e-mail."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.output import atomic_write
from ldct_denoise.regions.regions import Region, region_masks
from ldct_denoise.regions.tissues import TISSUES
from ldct_denoise.volume import SliceSource, spread_indices

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]
#: Widest window in which pictures show tissue rather than a grey body, HU.
MAX_DISPLAY_WIDTH_HU = 2000.0
#: σ of the Gaussian that suppresses noise before soft tissue is searched, pixels.
SMOOTHING_PX = 2.0


def display_window(windows: Sequence[Window]) -> Window:
    """The last window that is narrow enough for pictures, otherwise the abdomen window."""
    return next((w for w in reversed(windows) if w.width_hu <= MAX_DISPLAY_WIDTH_HU), WINDOWS["abdomen"])


def encode_hu(hu: Image) -> str:
    """Encode a slice as base64 of a zlib stream; ``viewer.js`` decodes it.

    HU are rounded to int16, each pixel is replaced by its difference from the left neighbour (with wrap-around),
    and all low bytes are stored before all high bytes: half the size of plain int16.
    """
    whole = np.clip(np.rint(hu), -32768, 32767).astype(np.int16)
    steps = np.diff(whole, axis=1, prepend=np.int16(0)).astype("<i2")  # wraps around as the decoder's sum does
    planes = steps.view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode("ascii")


def decode_hu(text: str, rows: int, columns: int) -> NDArray[np.int16]:
    """Decode a slice that :func:`encode_hu` encoded.

    Parameters
    ----------
    text : str
    rows, columns : int
        Size of the slice.

    Returns
    -------
    ndarray of int16, shape (rows, columns)
        HU.
    """
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(2, -1)
    steps = np.ascontiguousarray(planes.T).view("<i2").reshape(rows, columns)
    return np.cumsum(steps, axis=1, dtype=np.int16)


def encode_mask(mask: Mask) -> str:
    """Encode a mask as base64 of the zlib stream of its packed bits (most significant first)."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 6)).decode("ascii")


def crop_box(hu: Iterable[Image], margin: int = 8) -> tuple[slice, slice]:
    """Rectangle that holds everything above −500 HU in any of the images, plus a margin in pixels.

    The surrounding air is left out of the report because it takes half of the bytes.
    """
    dense = np.logical_or.reduce([image > -500 for image in hu])
    rows, columns = np.flatnonzero(dense.mean(axis=1) > 0.01), np.flatnonzero(dense.mean(axis=0) > 0.01)
    if not len(rows) or not len(columns):
        return slice(0, dense.shape[0]), slice(0, dense.shape[1])
    return (
        slice(max(rows[0] - margin, 0), min(rows[-1] + margin + 1, dense.shape[0])),
        slice(max(columns[0] - margin, 0), min(columns[-1] + margin + 1, dense.shape[1])),
    )


def soft_tissue_square(hu: Image, side_px: int) -> tuple[float, tuple[slice, slice]]:
    """The square with the largest share of soft tissue.

    Parameters
    ----------
    hu : ndarray, shape (rows, columns)
        HU.
    side_px : int
        Side of the square, an even number of pixels; at most that of the image.

    Returns
    -------
    share : float
        Share of the square that is soft tissue.
    square : tuple of 2 slices
        Rows and columns.
    """
    smooth, soft = ndimage.gaussian_filter(np.asarray(hu, np.float32), SMOOTHING_PX), TISSUES["soft-tissue"]
    tissue = (smooth >= soft.low_hu) & (smooth <= soft.high_hu)
    share = ndimage.uniform_filter(tissue.astype(np.float32), side_px, mode="constant")
    half = min(side_px, *hu.shape) // 2
    row, column = (int(at) for at in np.unravel_index(np.argmax(share), share.shape))
    top, left = (max(0, min(at - half, side - 2 * half)) for at, side in zip((row, column), hu.shape, strict=True))
    return float(share.max()), (slice(top, top + 2 * half), slice(left, left + 2 * half))


def slice_view(
    label: str, panels: Mapping[str, Image], masks: Mapping[str, Mask], spacing_mm: tuple[float, float]
) -> dict[str, object]:
    """One slice for the viewer, cropped to the body.

    Parameters
    ----------
    label : str
    panels : mapping from title to ndarray, shape (rows, columns)
        Images shown side by side, HU.
    masks : mapping from name to ndarray of bool, shape (rows, columns)
        Regions that are outlined.
    spacing_mm : tuple of 2 floats
        Row and column spacing, mm.

    Returns
    -------
    dict
        JSON object that ``viewer.js`` reads.
    """
    box = crop_box(panels.values())
    rows, columns = (int(part.stop - part.start) for part in box)
    return {
        "label": label,
        "rows": rows,
        "columns": columns,
        "origin": [int(box[0].start), int(box[1].start)],
        "spacing_mm": [float(mm) for mm in spacing_mm],
        "panels": {name: encode_hu(image[box]) for name, image in panels.items()},
        "masks": {name: encode_mask(mask[box]) for name, mask in masks.items()},
    }


def spread_slice_views(
    sources: Mapping[str, SliceSource],
    indices: Sequence[Mapping[str, int]],
    *,
    most: int,
    budget: int,
    regions: Sequence[Region] = (),
    always: int | None = None,
) -> tuple[list[dict[str, object]], int]:
    """Slices for the viewer, evenly spread along the series, as many as fit into a size limit.

    Parameters
    ----------
    sources : mapping from title to SliceSource
        Panels in order; the last one defines the slice positions and the regions.
    indices : sequence of mapping from title to int
        For each position the slice of every source.
    most : int
        Largest number of slices.
    budget : int
        Size limit in bytes; all slices are assumed to have the size of the first.
    regions : sequence of Region
        Regions that are outlined.
    always : int, optional
        An element of ``indices`` that is always shown.

    Returns
    -------
    views : list of dict
        See :func:`slice_view`.
    first_view : int
        Number of the view of ``always``, otherwise of the middle slice.
    """
    last = list(sources)[-1]
    geometry = sources[last].geometry
    picks = spread_indices(len(indices), most)
    first, source = next(iter(sources.items()))
    size = len(sources) * len(encode_hu(source.read_hu(indices[0][first])))
    fitting = max(1, min(len(picks), budget // size))
    views = []
    spread = {picks[number] for number in spread_indices(len(picks), fitting)}
    shown = sorted(spread if always is None else spread | {always})
    for number in shown:
        at = indices[number]
        panels = {title: source.read_hu(at[title]) for title, source in sources.items()}
        found = region_masks(regions, geometry, at[last], panels[last])
        masks = {name: mask for name, mask in found.items() if mask is not None}
        label = f"z = {geometry.offsets_mm[at[last]]:.1f} mm"
        views.append(slice_view(label, panels, masks, geometry.pixel_spacing_mm))
    return views, len(shown) // 2 if always is None else shown.index(always)


def png_uri(values: Image, low: float, high: float, colours: str = "gray") -> str:
    """An image as a PNG in a ``data:`` address, for pages that load nothing.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
        NaN is grey.
    low, high : float
        Values shown in the first and the last colour.
    colours : str
        Name of a colour map of matplotlib.

    Returns
    -------
    str
    """
    from matplotlib import colormaps
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    scale = colormaps[colours].with_extremes(bad="#8a8a8a")
    imsave(buffer, np.asarray(values), vmin=low, vmax=high, cmap=scale, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def save_comparison(path: Path, images: Mapping[str, Image], window: Window) -> None:
    """Save slices side by side in one window, and below each its difference from the last one, as a PNG.

    Parameters
    ----------
    path : Path
        Replaced atomically.
    images : mapping from title to ndarray, shape (rows, columns)
        HU; the last one is the reference.
    window : Window
        Differences are shown at ± a quarter of its width.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(images), 6.8), facecolor="black", layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    *_, last = images.values()
    half = window.width_hu / 4
    for column, (title, hu) in enumerate(images.items()):
        axes[0, column].imshow(hu, cmap="gray", vmin=window.low_hu, vmax=window.high_hu)
        axes[0, column].set_title(title, color="white", fontsize=10)
        if hu is not last:
            axes[1, column].imshow(hu - last, cmap="gray", vmin=-half, vmax=half)
            axes[1, column].set_title(f"difference, ±{half:g} HU", color="white", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    atomic_write(path, lambda part: figure.savefig(part, dpi=110))
