"""Benchmark: training patches per second of one loader process."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch

from ldct_denoise.benchmark.results import Result, timed
from ldct_denoise.benchmark.synthetic import patient, write_patient
from ldct_denoise.config import Config, load_config
from ldct_denoise.data.noise import noise_of_pool
from ldct_denoise.data.patches import PatchDataset, PatchSources, batches
from ldct_denoise.data.slices import pool_slices
from ldct_denoise.io.dicom.series import Series

BATCH_SIZE = 16
#: The fastest of these rounds counts.
ROUNDS = 3


def loading_results(
    slices: int = 24, patches: int = 512, workers: int = 0, recipe: str = "lir-quick"
) -> list[Result]:
    """Measure patches per second: decoded from DICOM each time, from the cache on disk, and from memory.

    A patch of a recipe with ``noise_model`` also costs the drawing of its noise, which is measured separately.

    Parameters
    ----------
    slices : int
        Number of slices of each series.
    patches : int
        Number of timed patches.
    workers : int
        Number of loader processes; 0: this process.
    recipe : str
        Recipe whose noise is drawn.

    Returns
    -------
    list of Result
        Patches per second, both pools together.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        low, normal = (
            write_patient(root, patient(slices, dose), number) for number, dose in ((1, 0.25), (2, 1.0))
        )
        plain = {
            "from DICOM": _config("lir-paper", 1, workers),
            "from the cache": _config("lir-paper", 1, workers, cache=root / "cache"),
            "from memory": _config("lir-paper", slices, workers),
            f"with the noise of {recipe}": _config(recipe, slices, workers),
        }
        rates = {name: _patch_rate(low, normal, patches, config) for name, config in plain.items()}
    note = f"64×64, uncompressed {slices}-slice series, {max(1, workers)} process"
    return [Result(f"patches {name}", rate, "patches/s", note) for name, rate in rates.items()]


def _config(recipe: str, memory: int, workers: int, cache: Path | None = None) -> Config:
    settings = {"cache_num": memory, "cache_dir": cache or "null", "num_workers": workers}
    return load_config(recipe, [f"data.{key}={value}" for key, value in settings.items()])


def _patch_rate(low: Series, normal: Series, patches: int, config: Config) -> float:
    noise = None if config.data.noise_model == "none" else noise_of_pool([low], [normal], config.data)
    dataset = PatchDataset(PatchSources(pool_slices([low]), pool_slices([normal]), noise=noise), config)

    def read(steps: range) -> None:
        for _ in batches(dataset, steps, BATCH_SIZE, num_workers=config.data.num_workers):
            pass

    steps = max(1, patches // (2 * BATCH_SIZE))
    read(range(steps))  # fills the cache and memory
    starts = range(steps, (1 + ROUNDS) * steps, steps)
    seconds = min(timed(partial(read, range(start, start + steps)), torch.device("cpu")) for start in starts)
    return 2 * BATCH_SIZE * steps / seconds
