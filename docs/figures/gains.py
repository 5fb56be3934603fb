"""Print PSNR gain and HU bias of a model, by region, on every pair of a folder (docs/reference/models.md).

python docs/figures/gains.py mayo2016 lir-ct [LOWPASS_SIGMA_MM [LOWPASS_MIN_HU]] [--each] [--times
F]

Another low-frequency passthrough than the model's may be given; 0 is none. --each prints every slice. --times
scales the difference between quarter and full dose.
"""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from ldct_denoise import methods
from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.io.dose_labels import Pair, find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.metrics.fidelity import psnr
from ldct_denoise.models.trained import load_model
from ldct_denoise.regions import body_mask, tissue_masks
from ldct_denoise.volume import Volume

Image = NDArray[np.float32]
FULL = Window("[-1024, 1024]", 0, 2048)


def regions(normal: Image, spacing_mm: tuple[float, float]) -> dict[str, NDArray[np.bool_]]:
    """Body and tissues of full dose as in ``evaluate``; air and edges of full dose smoothed by 2 pixels."""
    body, smooth = body_mask(normal, spacing_mm), ndimage.gaussian_filter(normal, 2.0)
    return {
        "body": body,
        **tissue_masks(normal, ("fat", "soft-tissue", "lung"), spacing_mm, body),
        "air": smooth < -980,
        "edges": body & (smooth > -600) & (ndimage.gaussian_gradient_magnitude(normal, 2.0) > 25),
    }


def measure(pair: Pair, restored: Mapping[int, Image]) -> None:
    """Print means over the slices of a pair; in brackets those of quarter dose."""
    gains, bias, sums, whole = [], [], [], 0.0
    for low_index, normal_index in pair.indices:
        low, normal, out = pair.low.read_hu(low_index), pair.normal.read_hu(normal_index), restored[low_index]
        gains.append([psnr(out, normal, each) - psnr(low, normal, each) for each in (FULL, WINDOWS["abdomen"])])
        masks = regions(normal, pair.low.geometry.pixel_spacing_mm)
        bias.append([[mean_hu(image - normal, mask) for image in (out, low)] for mask in masks.values()])
        sums.append([products(out, low, normal, mask) for mask in masks.values()])
        whole += products(out, low, normal, np.ones_like(masks["body"]))[0]
    (full, abdomen), least = np.mean(gains, axis=0), np.min(gains, axis=0)[1]
    print(f"{pair.patient} {pair.kernel}: {full:+.2f} / {abdomen:+.2f} dB, least {least:+.2f} dB (abdomen)")
    for name, (ours, theirs), (after, before, common, pixels) in zip(
        masks, np.nanmean(bias, axis=0), np.sum(sums, axis=0), strict=True
    ):
        gain_db, kept, noise_hu = 10 * np.log10(before / after), common / before, np.sqrt(before / pixels)
        print(
            f"  {name} {ours:+.2f} HU ({theirs:+.2f}), {gain_db:.2f} dB, {kept:.2f} of {noise_hu:.0f} HU of noise "
            f"kept, {after / whole:.2f} of the squared error left"
        )


def mean_hu(difference: Image, mask: NDArray[np.bool_]) -> float:
    """Mean over a region; NaN if the slice does not hold it."""
    return float(difference[mask].mean()) if mask.any() else float("nan")


def products(out: Image, low: Image, normal: Image, mask: NDArray[np.bool_]) -> tuple[float, ...]:
    """Squared error of output and input in [−1024, 1024], their product, and the number of pixels of a region."""
    truth = FULL.clip(normal)[mask]
    ours, theirs = (FULL.clip(each)[mask] - truth for each in (out, low))
    return float((ours**2).sum()), float((theirs**2).sum()), float((ours * theirs).sum()), float(mask.sum())


def noisier(pair: Pair, times: float) -> Pair:
    """The pair with the difference between quarter and full dose times a factor, clipped like stored values."""
    images = [(pair.low.read_hu(low), pair.normal.read_hu(normal)) for low, normal in pair.indices]
    hu = np.stack([np.maximum(normal + times * (low - normal), FULL.low_hu) for low, normal in images])
    low = Volume(hu, pair.low.geometry.select([index for index, _ in pair.indices]))
    indices = tuple((number, normal) for number, (_, normal) in enumerate(pair.indices))
    return replace(pair, low=low, indices=indices)


def main() -> None:
    """Measure every pair of a folder."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("model")
    parser.add_argument("lowpass", nargs="*", type=float, metavar="LOWPASS")
    parser.add_argument("--each", action="store_true")
    parser.add_argument("--times", type=float, default=1.0)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    if arguments.lowpass:
        sigma_mm, min_hu, *_ = (*arguments.lowpass, None)
        settings = model.method.settings.model_dump() | {"lowpass_sigma_mm": sigma_mm, "lowpass_min_hu": min_hu}
        method = methods.build(model.method_name, settings, model.scale).eval()
        method.load_state_dict(model.method.state_dict())
        model = replace(model, method=method)
    for pair in find_pairs(label_series(find_images(arguments.root).series, arguments.root)):
        seen = pair if arguments.times == 1 else noisier(pair, arguments.times)
        restored = dict(restore_slices(seen.low, model, ApplySettings()))
        for part in [replace(seen, indices=(one,)) for one in seen.indices] if arguments.each else [seen]:
            measure(part, restored)


if __name__ == "__main__":
    main()
