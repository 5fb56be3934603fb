"""CT slices inside an HTML file: real HU, not grey pictures, small enough for a mail server."""

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
from ldct_denoise.volume import SliceSource

Image = NDArray[np.floating]
Mask = NDArray[np.bool_]


def encode_hu(hu: Image) -> str:
    """A slice as base64 of a zlib stream.

    HU rounded to int16; each pixel minus its left neighbour (wrapping), low bytes before high bytes: half the
    size of plain int16. ``viewer.js`` undoes it.
    """
    whole = np.clip(np.rint(hu), -32768, 32767).astype(np.int16)
    steps = np.diff(whole, axis=1, prepend=np.int16(0)).astype("<i2")  # wraps as the decoder's sum does
    planes = steps.view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode("ascii")


def decode_hu(text: str, rows: int, columns: int) -> NDArray[np.int16]:
    """The inverse of :func:`encode_hu`."""
    planes = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=np.uint8).reshape(2, -1)
    steps = np.ascontiguousarray(planes.T).view("<i2").reshape(rows, columns)
    return np.cumsum(steps, axis=1, dtype=np.int16)


def encode_mask(mask: Mask) -> str:
    """A mask as base64 of the zlib stream of its packed bits (most significant first)."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 6)).decode("ascii")


def crop_box(hu: Iterable[Image], margin: int = 8) -> tuple[slice, slice]:
    """The rectangle that holds everything denser than −500 HU in any of the images, and a margin.

    The air around is left out of the report: it is half of the bytes.
    """
    dense = np.logical_or.reduce([image > -500 for image in hu])
    rows, columns = np.flatnonzero(dense.mean(axis=1) > 0.01), np.flatnonzero(dense.mean(axis=0) > 0.01)
    if not len(rows) or not len(columns):
        return slice(0, dense.shape[0]), slice(0, dense.shape[1])
    return (
        slice(max(rows[0] - margin, 0), min(rows[-1] + margin + 1, dense.shape[0])),
        slice(max(columns[0] - margin, 0), min(columns[-1] + margin + 1, dense.shape[1])),
    )


def slide(
    label: str, panels: Mapping[str, Image], masks: Mapping[str, Mask], spacing_mm: tuple[float, float]
) -> dict[str, object]:
    """One place for the viewer: the panels in order, regions to draw, and the pixel's shape."""
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
    places: Sequence[Mapping[str, int]],
    *,
    most: int,
    budget: int,
    regions: Sequence[Region] = (),
) -> list[dict[str, object]]:
    """Places for the viewer, spread from end to end, as many as fit.

    Parameters
    ----------
    sources : mapping from title to SliceSource
        The panels in order; the last tells where the slices lie and where regions are.
    places : sequence of mapping from title to int
        The slice of every source at each place.
    most : int
    budget : int
        Bytes for all pictures; the first slice tells what one costs.
    regions : sequence of Region
        Outlined.
    """
    last = list(sources)[-1]
    geometry = sources[last].geometry
    picks = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int))
    cost = len(sources) * len(encode_hu(next(iter(sources.values())).read_hu(next(iter(places[0].values())))))
    fitting = max(1, min(len(picks), budget // cost))
    slides = []
    for pick in picks[np.linspace(0, len(picks) - 1, fitting).round().astype(int)]:
        at = places[pick]
        panels = {title: source.read_hu(at[title]) for title, source in sources.items()}
        found = region_masks(regions, geometry, at[last], panels[last])
        masks = {name: mask for name, mask in found.items() if mask is not None}
        label = f"z = {geometry.offsets_mm[at[last]]:.1f} mm"
        slides.append(slide(label, panels, masks, geometry.pixel_spacing_mm))
    return slides


def png_uri(values: Image, low: float, high: float, colours: str = "gray") -> str:
    """An image as a PNG inside an address (``data:``), for pages that load nothing.

    Parameters
    ----------
    values : ndarray, shape (rows, columns)
    low, high : float
        Values shown as the first and the last colour.
    colours : str
        A colour map of matplotlib.
    """
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, np.asarray(values), vmin=low, vmax=high, cmap=colours, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def save_comparison(path: Path, images: Mapping[str, Image], window: Window) -> None:
    """Draw slices side by side in one window, and below each its difference from the last, as a PNG.

    Parameters
    ----------
    path : Path
        Replaced, whole or not at all.
    images : mapping from title to ndarray, shape (rows, columns)
        HU; the last is what the others should be like.
    window : Window
        The differences are shown at ± a quarter of its width.
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
