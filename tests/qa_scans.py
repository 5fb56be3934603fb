"""Synthetic scans of quality-assurance phantoms with known HU, blur, noise, position and roll."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.phantoms.qa_phantoms import PhantomInsert, QaPhantom, draw_inserts
from ldct_denoise.volume import Geometry, SeriesMetadata, Volume

SIDE_PX, SPACING_MM, SLICE_MM = 192, 1.2, 4.0
BLUR_MM = 0.7
#: HU of the body around the inserts and of the low-contrast module, and contrast of its largest target.
BODY_HU, CONTRAST_HU = 90.0, 10.0
#: Length of every module; bars fill the gaps between them.
MODULE_MM = 36.0


def scan_phantom(
    phantom: QaPhantom,
    *,
    noise_hu: float = 10.0,
    centre_px: tuple[float, float] = (96.3, 93.6),
    roll_deg: float = 0.0,
    is_mirrored: bool = False,
    current_ma: float = 100.0,
    seed: int = 0,
) -> Volume:
    """A scan of a phantom on a couch, with white noise that was blurred as the image is."""
    drawing = {"spacing_mm": (SPACING_MM,) * 2, "shape": (SIDE_PX,) * 2, "centre_px": centre_px}
    drawing |= {"radius_mm": phantom.radius_mm, "roll_deg": roll_deg, "is_mirrored": is_mirrored}
    modules = {0.0: draw_inserts(phantom.inserts, background_hu=BODY_HU, **drawing)}
    modules[phantom.uniform_module.offset_mm] = draw_inserts((), background_hu=5.0, **drawing)
    target = phantom.low_contrast
    if target is not None:
        disc = PhantomInsert("", target.angle_deg, target.distance_mm, target.radius_mm, BODY_HU + CONTRAST_HU)
        modules[phantom.low_contrast_module.offset_mm] = draw_inserts((disc,), background_hu=BODY_HU, **drawing)
    sign = -1 if is_mirrored else 1
    low, high = (edge(sign * offset for offset in modules) for edge in (min, max))
    offsets = np.arange(low - 24, high + 24, SLICE_MM)
    nearest = [min(modules, key=lambda offset, z=z: abs(sign * offset - z)) for z in offsets]
    imaged = {offset: _imaged(hu) for offset, hu in modules.items()}
    body = imaged[phantom.uniform_module.offset_mm]
    bars = body + 300.0 * (np.arange(SIDE_PX) // 4 % 2) * (body > -500)
    is_inside = [abs(sign * offset - z) <= MODULE_MM / 2 for offset, z in zip(nearest, offsets, strict=True)]
    clean = np.stack([imaged[o] if inside else bars for o, inside in zip(nearest, is_inside, strict=True)])
    rng = np.random.default_rng(seed)
    white = rng.normal(size=clean.shape)
    # Noise of a CT kernel has hardly any power at low frequencies.
    noise = ndimage.gaussian_filter(white, (0, 0.8, 0.8)) - ndimage.gaussian_filter(white, (0, 2, 2))
    clean[:, SIDE_PX - 9 : SIDE_PX - 4, 20:-20] = -100.0  # the couch
    hu = clean + noise * noise_hu / noise.std()
    corner = -(SIDE_PX - 1) / 2 * SPACING_MM
    geometry = Geometry(
        np.array([[corner, corner, z] for z in offsets]), (1, 0, 0), (0, 1, 0), (SPACING_MM,) * 2, SIDE_PX, SIDE_PX
    )
    metadata = SeriesMetadata(tube_current_ma=(current_ma,) * len(hu), mas_per_ma=0.5, slice_thickness_mm=SLICE_MM)
    name = f"{phantom.name} {current_ma:g} mA"
    return Volume(hu, geometry, uid=name, patient="phantom", name=name, metadata=metadata)


def _imaged(hu: NDArray[np.float64]) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(hu, BLUR_MM / SPACING_MM)
