"""Prints how well the score that needs no pairs orders the validations of runs, beside the gain on held-out pairs.

python docs/figures/agreement.py RUN [RUN ...]
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from scipy.stats import spearmanr

SCORE, GAINS = "validation/score", ("validation/psnr_gain_db", "validation/psnr_gain_abdomen_db")


def validations(run: Path) -> list[tuple[float, ...]]:
    """Step, score and the gains of every validation that has them all."""
    told: dict[int, dict[str, float]] = {}
    with (run / "training.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            told.setdefault(int(row["step"]), {})[row["name"]] = float(row["value"])
    wanted = (SCORE, *GAINS)
    return [(step, *(of[name] for name in wanted)) for step, of in told.items() if of.keys() >= set(wanted)]


def line(rows: list[tuple[float, ...]]) -> str:
    """Spearman's ρ of the score with each gain (−1 where they agree: low scores are good), and what it chooses."""
    _, scores, *gains = zip(*rows, strict=True)
    rho = " / ".join(f"{spearmanr(scores, each).statistic:+.2f}" for each in gains)
    picked = {
        "chosen": min(rows, key=lambda row: row[1]),
        "best": max(rows, key=lambda row: row[2]),
        "last": rows[-1],
    }
    told = [f"{what}: step {row[0]:.0f}, {row[2]:+.2f} / {row[3]:+.2f} dB" for what, row in picked.items()]
    return "; ".join([f"{len(rows)} validations, rho {rho}", *told])


if __name__ == "__main__":
    runs = {Path(name): validations(Path(name)) for name in sys.argv[1:]}
    if without := [run.name for run, rows in runs.items() if not rows]:
        sys.exit(f"{', '.join(without)}: no validation with both a score and held-out pairs")
    for run, rows in runs.items():
        print(f"{run.name}: {line(rows)}")
    if len(runs) > 1:
        print(f"all: {line([row for rows in runs.values() for row in rows])}")
