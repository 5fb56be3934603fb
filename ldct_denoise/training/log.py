"""What a training run writes while it goes: figures as CSV, figures and pictures for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ldct_denoise.methods.base import Batch
from ldct_denoise.output import atomic_write
from ldct_denoise.training.step import Run


class TrainingLog:
    """``training.csv`` (one row per figure) and TensorBoard; what lies after the resumed step is dropped.

    Parameters
    ----------
    output : Path
        The run folder.
    step : int
        Where the run goes on from.
    """

    FILE = "training.csv"

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = output / self.FILE
        rows = [("step", "seconds", "name", "value"), *_rows_until(path, step)]
        # Whole, then added to: a run that is killed before its first figure keeps those of before.
        atomic_write(path, lambda part: _write(part, rows))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        # TensorBoard drops what is at or after the step that it is told.
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def scalars(self, run: Run, values: Mapping[str, float]) -> None:
        """Named figures of this step."""
        for name, value in values.items():
            self._csv.writerow([run.step, f"{run.seconds:.2f}", name, f"{value:.6g}"])
            self._board.add_scalar(name, value, run.step)  # type: ignore[no-untyped-call]
        self._file.flush()

    @torch.no_grad()
    def images(self, run: Run, batch: Batch, device: torch.device) -> None:
        """Sample pictures: contrast of the middle of each, as a radiologist would window it."""
        run.method.eval()
        moved = Batch(
            batch.low.to(device), None if batch.normal is None else batch.normal.to(device), None, batch.generator
        )
        for name, picture in run.method.summary_images(moved).items():
            middle = run.method.scale.to_unit(40.0)
            half = 200.0 / run.method.scale.width_hu
            grey = ((picture.float() - middle) / (2 * half) + 0.5).clamp(0, 1)
            self._board.add_images(f"abdomen window/{name}", grey.cpu(), run.step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write out what is left."""
        self._file.close()
        self._board.close()  # type: ignore[no-untyped-call]


def _rows_until(path: Path, step: int) -> list[Sequence[str]]:
    """Rows up to a step; what a killed run left of a row, or blank, is passed over."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file) if len(row) == 4 and row[0].isdigit() and int(row[0]) <= step]


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
