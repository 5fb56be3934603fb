"""Log of a training run: scalars as CSV, scalars and images for TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ldct_denoise.config import Config
from ldct_denoise.data.validation_set import ValidationSet, ValidationSlice
from ldct_denoise.intensity import WINDOWS, Window
from ldct_denoise.methods.base import Batch
from ldct_denoise.output import atomic_write
from ldct_denoise.training.state import RunState
from ldct_denoise.training.validation import restore_hu


class TrainingLog:
    """``training.csv`` (step, seconds, name, value) and TensorBoard events; also a context manager.

    Entries after the step from which a run resumes are removed.

    Parameters
    ----------
    output : Path
        Run folder.
    step : int
        Step from which the run starts or resumes.
    """

    FILE = "training.csv"

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = output / self.FILE
        rows = [("step", "seconds", "name", "value"), *_rows_until(path, step)]
        # Replaced atomically, then appended to: a run that is killed here keeps the earlier rows.
        atomic_write(path, lambda part: _write(part, rows))
        self._file = path.open("a", newline="", encoding="utf-8")
        self._csv = csv.writer(self._file)
        # TensorBoard drops events at or after the given step.
        self._board = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
        self._board.close()  # type: ignore[no-untyped-call]

    def scalars(self, run: RunState, values: Mapping[str, float], section: str = "") -> None:
        """Log values of the current step.

        Parameters
        ----------
        run : RunState
            Step and training time.
        values : mapping of str to float
            Values by name.
        section : str
            Prefix of the names (``validation/``), which TensorBoard groups by.
        """
        for name, value in values.items():
            self._csv.writerow([run.step, f"{run.seconds:.2f}", f"{section}{name}", f"{value:.6g}"])
            self._board.add_scalar(f"{section}{name}", value, run.step)  # type: ignore[no-untyped-call]
        self._file.flush()

    def settings(self, config: Config) -> None:
        """Log the settings of the run, as YAML, for TensorBoard."""
        text = "".join(f"    {line}\n" for line in config.to_yaml().splitlines())
        self._board.add_text("settings", text, 0)  # type: ignore[no-untyped-call]

    def learning_rates(self, run: RunState) -> None:
        """Log the learning rate of each phase in the current step."""
        self.scalars(
            run, {phase.name: phase.optimizer.param_groups[0]["lr"] for phase in run.phases}, "learning_rate/"
        )

    def validation_slice(self, run: RunState, images: ValidationSet, device: torch.device) -> None:
        """Log a whole validation slice for TensorBoard: input, output and, of a pair, its reference, side by side.

        CT is shown in the abdomen window, photographs in grey values from 0 to 255.

        Parameters
        ----------
        run : RunState
            The method, on ``device``; it is left in evaluation mode.
        images : ValidationSet
            The middle one of its pairs, otherwise of its low-dose slices, is shown.
        device : torch.device
        """
        shown: Sequence[ValidationSlice] = ()
        if images.pairs:
            shown = images.pairs[len(images.pairs) // 2]
        elif images.low:
            shown = (images.low[len(images.low) // 2],)
        if not shown:
            return
        run.method.eval()
        noisy, *reference = shown
        method = run.method.for_spacing(noisy.pixel_spacing_mm)
        restored = restore_hu(method, images.scale, noisy.hu, device, images.guard_range)
        window = WINDOWS["abdomen"] if images.guard_range else Window("grey", 127.5, 255)
        row = np.hstack(
            [window.to_grey(hu) for hu in (noisy.center, restored, *(one.center for one in reference))]
        )
        names = ", ".join(["input", "output", *(["reference"] if reference else [])])
        self._board.add_image(f"validation slice/{names}", row[None], run.step)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def images(self, run: RunState, batch: Batch, progress: float, device: torch.device) -> None:
        """Log what the method makes of a batch of patches, in the abdomen window.

        Parameters
        ----------
        run : RunState
            The method, on ``device``; it is left in evaluation mode.
        batch : Batch
            Patches on the CPU.
        progress : float
            Completed fraction of the run: a method shows no picture of a network that is not trained yet.
        device : torch.device
        """
        run.method.eval()
        normal = None if batch.normal is None else batch.normal.to(device)
        moved = Batch(batch.low.to(device), normal, None, batch.generator, progress)
        window, scale = WINDOWS["abdomen"], run.method.scale
        lowest, highest = scale.to_unit(window.low_hu), scale.to_unit(window.high_hu)
        for name, image in run.method.summary_images(moved).items():
            grey = ((image.float() - lowest) / (highest - lowest)).clamp(0, 1)
            self._board.add_images(f"abdomen window/{name}", grey.cpu(), run.step)  # type: ignore[no-untyped-call]


def _rows_until(path: Path, step: int) -> list[Sequence[str]]:
    """Rows up to a step, without the incomplete rows of a killed run."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file) if len(row) == 4 and row[0].isdigit() and int(row[0]) <= step]


def _write(path: Path, rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
