"""Synthetic geometries, volumes, models and program runs that several test files share."""

from __future__ import annotations

import csv
import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ldct_denoise.config import Config, parse_config
from ldct_denoise.intensity import Scale
from ldct_denoise.io.dicom.scan import scan
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.methods import base
from ldct_denoise.methods.base import Method
from ldct_denoise.models.trained import TrainedModel
from ldct_denoise.volume import Geometry, Volume

DEFAULT_SCALE = Scale()


def axial_geometry(
    slices: int,
    rows: int,
    columns: int,
    spacing_mm: tuple[float, float, float] = (3.0, 0.7, 0.7),
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
) -> Geometry:
    """Evenly spaced axial slices; the spacing is (slice, row, column)."""
    positions = np.asarray(origin_mm) + np.arange(slices)[:, None] * [0, 0, spacing_mm[0]]
    return Geometry(positions, (1, 0, 0), (0, 1, 0), spacing_mm[1:], rows, columns)


def random_volume(
    shape: tuple[int, int, int] = (3, 37, 50), low: int = -1024, high: int = 1500, seed: int = 0
) -> Volume:
    """Independent whole HU in [low, high), on non-square pixels away from the origin."""
    hu = np.random.default_rng(seed).integers(low, high, shape).astype(np.float32)
    place = axial_geometry(*shape, spacing_mm=(2.5, 0.8, 0.7), origin_mm=(-20, -30, 100))
    return Volume(hu, place, "1.2.3", "P", "test")


def water_disc(uid: str, noise_hu: float, seed: int = 0, slices: int = 3, side: int = 96) -> Volume:
    """A water disc in air with white noise; the first two letters of ``uid`` are the patient."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:side, :side] - side / 2
    disc = np.where(row**2 + column**2 < (0.42 * side) ** 2, 0.0, -1000.0)
    hu = disc + noise_hu * rng.standard_normal((slices, side, side))
    return Volume(hu, axial_geometry(slices, side, side), uid, uid[:2], uid)


def series_of(path: Path) -> list[Series]:
    """The DICOM series under a path."""
    return [one for one in scan(path).series if isinstance(one, Series)]


class Shift(Method[base.Settings]):
    """Adds a number of HU everywhere: 0 is the identity."""

    Settings = base.Settings

    def __init__(self, shift_hu: float, scale: Scale) -> None:
        super().__init__(base.Settings(), scale)
        self.shift_hu = shift_hu

    def restore(self, image: Tensor, seed: int = 0) -> Tensor:
        return image + self.shift_hu / self.scale.width_hu


def shift_model(shift_hu: float = 0.0, scale: Scale = DEFAULT_SCALE) -> TrainedModel:
    """A model ready for use that adds ``shift_hu``."""
    return TrainedModel("shift", Shift(shift_hu, scale), "shift", scale, {}, "0" * 64)


def tiny_config(**training: object) -> Config:
    """LIR small enough to train for six steps in seconds."""
    settings = {
        "architecture": "unet", "base_channels": 4, "blocks_per_level": 1, "norm": "none", "discriminator_channels": 4, "latent_noise_std": 0.5,
        "loss_weights": {"semantic": 0.0},
    }  # fmt: skip
    base = {"iterations": 6, "batch_size": 4, "ema_decay": 0.9, "validate_every": 3, "checkpoint_every": 2}
    return parse_config({"settings": settings, "data": {"patch_size": 32}, "training": base | training}, "test")


def saved_weights(run: Path) -> dict[str, torch.Tensor]:
    """The weights of the model that a training run left."""
    return load_file(run / "model.safetensors")


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table with a header."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """The command line in this process: exit status, standard output, standard error."""
    main = importlib.import_module("ldct_denoise.cli.main").main
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def run_ranks(*arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Python in two processes with the variables that torchrun sets; both must end well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command, env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    done = []
    for process in processes:
        output, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
        done.append(subprocess.CompletedProcess(command, 0, output, error))
    return done


def run_program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "ldct_denoise.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)
