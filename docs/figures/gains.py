"""Prints what a model gains and where it shifts HU, on every pair of a root: the tables of docs/models.md.

python docs/figures/gains.py ../shared/data/mayo2016 lir-ct [HOLD_SIGMA_PX [HOLD_ABOVE_HU]]

Another hold than the model's own may be given; 0 is none.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.apply import ApplySettings, restore_slices
from ldct_denoise.checkpoint import TrainedModel, load_model
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.find import find_images
from ldct_denoise.io.mayo import Pair, find_pairs, label_series
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.networks.hold import Hold
from ldct_denoise.regions import body_mask

FULL = Window("[-1024, 1024]", 0, 2048)


def regions(normal: NDArray[np.float32], spacing_mm: tuple[float, float]) -> dict[str, NDArray[np.bool_]]:
    """Told from full dose smoothed by 2 pixels."""
    body, smooth = body_mask(normal, spacing_mm), ndimage.gaussian_filter(normal, 2.0)
    return {
        "body": body,
        "fat": body & (smooth > -140) & (smooth < -50),
        "soft tissue": body & (smooth > 0) & (smooth < 120),
        "lung": body & (smooth > -950) & (smooth < -600),
        "air": smooth < -980,
    }


def measure(pair: Pair, model: TrainedModel) -> None:
    """Means over the slices of a pair; in brackets quarter dose."""
    restored, gains, bias = dict(restore_slices(pair.low, model, ApplySettings())), [], []
    for low_at, normal_at in pair.indices:
        low, normal, out = pair.low.read_hu(low_at), pair.normal.read_hu(normal_at), restored[low_at]
        gains.append([psnr(out, normal, each) - psnr(low, normal, each) for each in (FULL, WINDOWS["abdomen"])])
        where = regions(normal, pair.low.geometry.pixel_spacing_mm)
        bias.append([[float((image - normal)[mask].mean()) for image in (out, low)] for mask in where.values()])
    (full, abdomen), least = np.mean(gains, axis=0), np.min(gains, axis=0)[1]
    print(f"{pair.patient} {pair.kernel}: {full:+.2f} / {abdomen:+.2f} dB, least {least:+.2f} dB (abdomen)")
    for name, (ours, theirs) in zip(where, np.mean(bias, axis=0), strict=True):
        print(f"  {name} {ours:+.2f} HU ({theirs:+.2f})")


def main(root: Path, name: str, *hold: str) -> None:
    """Every pair of a root."""
    model = load_model(name)
    if hold:
        sigma_px, above_hu = float(hold[0]), float(hold[1]) if hold[1:] else None
        model.method._hold = Hold(sigma_px, above_hu, model.scale) if sigma_px else None
    for pair in find_pairs(label_series(find_images(root).series, root)):
        measure(pair, model)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
