"""CT slices embedded in an HTML file: HU rather than grey values, small enough for e-mail."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.intensity import Window
from ldct_denoise.output import atomic_write
from ldct_denoise.regions.regions import Region, region_masks
from ldct_denoise.volume import SliceSource, spread_indices

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]


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
) -> list[dict[str, object]]:
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

    Returns
    -------
    list of dict
        See :func:`slice_view`.
    """
    last = list(sources)[-1]
    geometry = sources[last].geometry
    picks = spread_indices(len(indices), most)
    first, source = next(iter(sources.items()))
    size = len(sources) * len(encode_hu(source.read_hu(indices[0][first])))
    fitting = max(1, min(len(picks), budget // size))
    views = []
    for number in spread_indices(len(picks), fitting):
        at = indices[picks[number]]
        panels = {title: source.read_hu(at[title]) for title, source in sources.items()}
        found = region_masks(regions, geometry, at[last], panels[last])
        masks = {name: mask for name, mask in found.items() if mask is not None}
        label = f"z = {geometry.offsets_mm[at[last]]:.1f} mm"
        views.append(slice_view(label, panels, masks, geometry.pixel_spacing_mm))
    return views


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
