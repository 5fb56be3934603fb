"""Prints how well what needs no pairs orders the validations of adversarial runs by their gain on held-out pairs.

python docs/figures/agreement.py RUN [RUN ...]
"""

from __future__ import annotations

import csv
import math
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from ldct_denoise.training.validation import ValidationMetrics

#: What may choose → the evidence that it looks at.
RULES = {
    "noise of the output alone": lambda found: replace(found, synthetic_pair_rmse_hu=math.nan).score,
    "synthetic pairs alone": lambda found: replace(found, targets_noise_texture=False).score,
    "both": lambda found: replace(found, targets_noise_texture=True).score,
}


@dataclass(frozen=True)
class Validation:
    """A row of training.csv."""

    step: int
    found: ValidationMetrics


def validations(run: Path) -> list[Validation]:
    """Those with synthetic pairs and validation pairs, in order."""
    told: dict[int, dict[str, float]] = {}
    with (run / "training.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            section, _, name = row["name"].rpartition("/")
            if section == "validation":
                told.setdefault(int(row["step"]), {})[name] = float(row["value"])
    names = [
        item.name for item in fields(ValidationMetrics) if item.name not in ("hu_bias", "targets_noise_texture")
    ]
    rows = []
    for step, of in told.items():
        bias = {name.removeprefix("hu_bias_"): value for name, value in of.items() if name.startswith("hu_bias_")}
        found = ValidationMetrics(hu_bias=bias, **{name: of.get(name, math.nan) for name in names})
        if not math.isnan(found.synthetic_pair_rmse_hu + found.psnr_gain_db):
            rows.append(Validation(step, found))
    return rows


def main(runs: list[Path]) -> None:
    """Spearman's rho (-1 where they agree: low scores are good), and what the choice costs, in [-1024, 1024]."""
    rows = {run.name: validations(run) for run in runs}
    if without := [name for name, found in rows.items() if not found]:
        sys.exit(f"{', '.join(without)}: no validation with both synthetic pairs and validation pairs")
    gains = {name: [row.found.psnr_gain_db for row in found] for name, found in rows.items()}
    for rule, score in RULES.items():
        rho, costs = [], []
        for name, found in rows.items():
            scores = [score(row.found) for row in found]
            rho.append(spearmanr(scores, gains[name]).statistic)
            costs.append(max(gains[name]) - gains[name][int(np.argmin(scores))])
            at = found[int(np.argmin(scores))].step
            print(f"{name}, {rule}: rho {rho[-1]:+.2f}, step {at} is {costs[-1]:.2f} dB below the best")
        print(f"{rule}: rho {np.mean(rho):+.2f}, worst {max(rho):+.2f}; {told_costs(costs)}")
    last = [max(gain) - gain[-1] for gain in gains.values()]
    print(f"the last step: {told_costs(last)}")


def told_costs(costs: list[float]) -> str:
    """How far below the best step, over the runs."""
    return f"{np.mean(costs):.2f} dB, at most {max(costs):.2f}"


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
