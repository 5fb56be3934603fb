"""Prints how far soft tissue is off full dose, by which image says where soft tissue is: see docs/models.md.

python docs/figures/tissue_bias.py ../shared/data/mayo2016 lir-ct
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from scipy import ndimage

from ldct_denoise.apply import ApplySettings, restore_slices
from ldct_denoise.checkpoint import load_model
from ldct_denoise.io.find import find_images
from ldct_denoise.io.mayo import find_pairs, label_series
from ldct_denoise.regions import body_mask, tissue_mask

INSIDE = 4  # pixels from the border of the region of full dose


def main(root: Path, name: str) -> None:
    """Means over the slices of each series: the model's bias, and in brackets that of quarter dose."""
    model = load_model(name)
    for pair in find_pairs(label_series(find_images(root).series, root)):
        spacing = pair.low.geometry.pixel_spacing_mm
        restored = dict(restore_slices(pair.low, model, ApplySettings()))
        bias: dict[str, list[tuple[float, float]]] = {}
        for low_at, normal_at in pair.indices:
            low, normal, out = pair.low.read_hu(low_at), pair.normal.read_hu(normal_at), restored[low_at]
            body = body_mask(normal, spacing)
            where = {
                key: tissue_mask(image, "soft-tissue", spacing, body)
                for key, image in {"full dose": normal, "the output": out, "quarter dose": low}.items()
            }
            where[f"full dose, {INSIDE} pixels inside"] = ndimage.binary_erosion(
                where["full dose"], iterations=INSIDE
            )
            for key, mask in where.items():
                bias.setdefault(key, []).append(
                    (float((out - normal)[mask].mean()), float((low - normal)[mask].mean()))
                )
        print(pair.patient, pair.kernel)
        for key, rows in bias.items():
            ours, theirs = np.mean(rows, axis=0)
            print(f"  where {key} is soft tissue: {ours:+.2f} HU ({theirs:+.2f})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
