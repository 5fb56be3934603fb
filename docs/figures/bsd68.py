"""Draw bsd68.png: PSNR on BSD68 over training time, as measured for docs/research/experiments.md."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt

#: Checkpoints of each recipe: (steps, seconds of one core, PSNR in dB).
CURVES = {
    "natural-lir now: width 48, Muon": [
        (450, 129, 28.139),
        (13000, 3403, 28.960),
        (36000, 10350, 29.016),
    ],
    "then patches of 128 pixels": [
        (13000, 2802, 28.955),
        (23000, 6542, 29.019),
    ],
    "natural-lir, batch 4": [
        (1000, 123, 27.723),
        (4000, 453, 28.504),
        (8000, 1003, 28.682),
        (14000, 1896, 28.793),
        (21000, 2749, 28.833),
        (45000, 7580, 28.914),
        (64000, 10394, 28.941),
    ],
    "natural-lir, batch 16": [
        (250, 123, 27.287),
        (1000, 483, 28.249),
        (2000, 920, 28.518),
        (3000, 1435, 28.644),
        (5000, 2304, 28.720),
    ],
    "natural-lir-paper, width 16, batch 4": [
        (250, 230, 21.036),
        (500, 453, 20.481),
        (740, 705, 22.144),
        (1000, 983, 20.714),
        (1500, 1620, 22.340),
    ],
    "natural-lir-paper, the longest run": [
        (1000, 794, 20.731),
        (2000, 1599, 20.758),
        (3000, 2535, 23.154),
        (4000, 3302, 22.275),
        (5000, 4112, 22.339),
        (6000, 4879, 22.908),
        (7000, 5638, 22.569),
        (8000, 6428, 22.720),
    ],
}
#: Reference levels: (PSNR in dB, offset of the label).
LEVELS = {"LIR in the paper": (29.02, 0.06), "BM3D here": (28.52, -0.4), "noisy": (20.48, 0.06)}

figure, axes = plt.subplots(figsize=(7.5, 4.2), dpi=110, layout="constrained")
for name, points in CURVES.items():
    steps, seconds, psnr = zip(*points, strict=True)
    (line,) = axes.plot([second / 60 for second in seconds], psnr, "o-", label=name)
    for point in (0, -1):
        axes.annotate(
            f"{steps[point]}",
            (seconds[point] / 60, psnr[point]),
            (-4, 7 if "Muon" in name or "then" in name else -13),
            textcoords="offset points",
            fontsize=7,
            color=line.get_color(),
        )
for name, (level, off) in LEVELS.items():
    axes.axhline(level, color="0.4", linestyle=":", linewidth=1)
    axes.text(90, level + off, f"{name}: {level:.2f}", fontsize=8, color="0.3")
axes.set(
    xlabel="minutes of one CPU core (labels: steps)",
    ylabel="PSNR, dB",
    title="BSD68, Gaussian noise σ = 25 (blind 5–50), seed 0",
    ylim=(19.5, 30),
    xlim=(0, 182),
)
axes.legend(fontsize=8, loc="center right")
figure.savefig(Path(__file__).with_suffix(".png"))
