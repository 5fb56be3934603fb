"""Print the difference between bf16 and fp32 on every low-dose slice of a folder (docs/explanation/speed.md).

python docs/figures/bf16.py mayo2016 lir-ct
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ldct_denoise.inference.settings import ApplySettings
from ldct_denoise.inference.slices import restore_slices
from ldct_denoise.io.dose_labels import find_pairs, label_series
from ldct_denoise.io.find import find_images
from ldct_denoise.models.trained import load_model


def main(root: Path, name: str) -> None:
    """Print the mean absolute difference over all slices of a series, and that of the worst slice."""
    model = load_model(name)
    for pair in find_pairs(label_series(find_images(root).series, root)):
        exact, fast = (
            dict(restore_slices(pair.low, model, ApplySettings(precision=each))) for each in ("fp32", "bf16")
        )
        differences_hu = [float(np.abs(fast[index] - exact[index]).mean()) for index in exact]
        print(
            f"{pair.patient} {pair.kernel}: {np.mean(differences_hu):.2f} HU, worst {max(differences_hu):.2f} HU"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
