"""Prints what a model gains and where it shifts HU, whole and by region, on every pair of a root (docs/models.md).

python docs/figures/gains.py ../shared/data/mayo2016 lir-ct [HOLD_SIGMA_PX [HOLD_ABOVE_HU]] [--each] [--times F]

Another hold than the model's own may be given; 0 is none. With --each slice by slice; with --times at so many
times the noise that quarter dose has more than full dose.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.models.trained import load_model
from ldct_denoise.networks.low_pass import Hold
from ldct_denoise.regions.body import body_mask
from ldct_denoise.volume import Volume

Image = NDArray[np.float32]
FULL = Window("[-1024, 1024]", 0, 2048)


def regions(normal: Image, spacing_mm: tuple[float, float]) -> dict[str, NDArray[np.bool_]]:
    """Told from full dose smoothed by 2 pixels."""
    body, smooth = body_mask(normal, spacing_mm), ndimage.gaussian_filter(normal, 2.0)
    return {
        "body": body,
        "fat": body & (smooth > -140) & (smooth < -50),
        "soft tissue": body & (smooth > 0) & (smooth < 120),
        "lung": body & (smooth > -950) & (smooth < -600),
        "air": smooth < -980,
        "edges": body & (smooth > -600) & (ndimage.gaussian_gradient_magnitude(normal, 2.0) > 25),
    }


def measure(pair: Pair, restored: Mapping[int, Image]) -> None:
    """Means over the slices of a pair; in brackets quarter dose."""
    gains, bias, sums, whole = [], [], [], 0.0
    for low_at, normal_at in pair.indices:
        low, normal, out = pair.low.read_hu(low_at), pair.normal.read_hu(normal_at), restored[low_at]
        gains.append([psnr(out, normal, each) - psnr(low, normal, each) for each in (FULL, WINDOWS["abdomen"])])
        where = regions(normal, pair.low.geometry.pixel_spacing_mm)
        bias.append([[float((image - normal)[mask].mean()) for image in (out, low)] for mask in where.values()])
        sums.append([products(out, low, normal, mask) for mask in where.values()])
        whole += products(out, low, normal, np.ones_like(where["body"]))[0]
    (full, abdomen), least = np.mean(gains, axis=0), np.min(gains, axis=0)[1]
    print(f"{pair.patient} {pair.kernel}: {full:+.2f} / {abdomen:+.2f} dB, least {least:+.2f} dB (abdomen)")
    for name, (ours, theirs), (left, there, common, pixels) in zip(
        where, np.mean(bias, axis=0), np.sum(sums, axis=0), strict=True
    ):
        gain_db, kept, noise_hu = 10 * np.log10(there / left), common / there, np.sqrt(there / pixels)
        print(
            f"  {name} {ours:+.2f} HU ({theirs:+.2f}), {gain_db:.2f} dB, {kept:.2f} of {noise_hu:.0f} HU of noise "
            f"kept, {left / whole:.2f} of the squared error left"
        )


def products(out: Image, low: Image, normal: Image, mask: NDArray[np.bool_]) -> tuple[float, ...]:
    """Squared error of the output and of the input, their product, and the pixels of a region in [−1024, 1024]."""
    truth = FULL.clip(normal)[mask]
    ours, theirs = (FULL.clip(each)[mask] - truth for each in (out, low))
    return float((ours**2).sum()), float((theirs**2).sum()), float((ours * theirs).sum()), float(mask.sum())


def noisier(pair: Pair, times: float) -> Pair:
    """The pair with quarter dose's difference from full dose times a factor, cut off where stored values are."""
    images = [(pair.low.read_hu(low_at), pair.normal.read_hu(normal_at)) for low_at, normal_at in pair.indices]
    hu = np.stack([np.maximum(normal + times * (low - normal), FULL.low_hu) for low, normal in images])
    positions_mm = pair.low.geometry.positions_mm[[low_at for low_at, _ in pair.indices]]
    low = Volume(hu, replace(pair.low.geometry, positions_mm=positions_mm))
    return replace(pair, low=low, indices=tuple((place, at) for place, (_, at) in enumerate(pair.indices)))


def main() -> None:
    """Every pair of a root."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("model")
    parser.add_argument("hold", nargs="*", type=float, metavar="HOLD")
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--times", type=float, default=1.0)
    asked = parser.parse_args()
    model = load_model(asked.model)
    method: Any = model.method
    if asked.hold:
        sigma_px, above_hu, *_ = (*asked.hold, None)
        method._hold = Hold(sigma_px, above_hu, model.scale) if sigma_px else None
    for pair in find_pairs(label_series(find_images(asked.root).series, asked.root)):
        seen = pair if asked.times == 1 else noisier(pair, asked.times)
        restored = dict(restore_slices(seen.low, model, ApplySettings()))
        for part in [replace(seen, indices=(one,)) for one in seen.indices] if asked.each else [seen]:
            measure(part, restored)


if __name__ == "__main__":
    main()
