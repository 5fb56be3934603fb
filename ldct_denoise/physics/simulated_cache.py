"""Simulated low-dose series for training, cached as files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError
from ldct_denoise.output import atomic_write
from ldct_denoise.physics.noise import AIR_HU
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, Scanner
from ldct_denoise.physics.simulate_series import Notify, Progress, Simulation, simulated_slices
from ldct_denoise.physics.simulation_summary import SeriesSummary, disagreements
from ldct_denoise.volume import SeriesView, SliceSource


def _silent(done: int, total: int, name: str) -> None:
    pass


def _ignore(warning: str) -> None:
    pass


@dataclass(frozen=True)
class SimulatedSeries(SeriesView):
    """A simulated low-dose copy of ``source``, read from the cache on demand.

    Parameters
    ----------
    source : SliceSource
        The original.
    path : Path
        ``.npy`` of int16 tenths of HU, shape (slices, rows, columns).
    key : str
        Digest of the source and of the simulation's settings.
    label : str
        The dose, for people.
    dose : float
        Dose as a fraction of the original's.
    """

    path: Path
    key: str
    label: str
    dose: float

    @property
    def uid(self) -> str:
        """Unique for the source and the simulation's settings."""
        return f"{self.source.uid}/simulated/{self.key}"

    @property
    def name(self) -> str:
        """Name of the source, and the dose."""
        return f"{self.source.name}, {self.label}"

    @cached_property
    def _tenths(self) -> NDArray[np.int16]:
        return np.load(self.path, mmap_mode="r")

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key != "_tenths"}

    def read_hu(self, index: int) -> NDArray[np.float32]:
        """One slice in HU, shape (rows, columns)."""
        return np.asarray(self._tenths[index], np.float32) / np.float32(10)


def simulated_pool(
    sources: Sequence[SliceSource],
    dose_range: tuple[float, float],
    seed: int,
    cache_dir: Path,
    *,
    scanner: Scanner = DEFAULT_SCANNER,
    progress: Progress = _silent,
    notify: Notify = _ignore,
) -> list[SimulatedSeries]:
    """Simulate a low-dose copy of every normal-dose series, each at a dose drawn log-uniformly from a range.

    Results of earlier calls in ``cache_dir`` are reused. Two seeds give two independent scans, at different doses
    unless the range is a single dose.

    Parameters
    ----------
    sources : sequence of SliceSource
        The normal-dose series.
    dose_range : tuple of 2 floats
        Lowest and highest fraction of the dose.
    seed : int
        Seed of doses and noise.
    cache_dir : Path
        Folder of the cache; created where it does not exist.
    scanner : Scanner
    progress : callable
        Called with (slices done, number of slices, name of the series).
    notify : callable
        Called with each warning about a series that is simulated now.

    Returns
    -------
    list of SimulatedSeries
        In the order of ``sources``.

    Raises
    ------
    ConfigError
        If the range is not 0 < low ≤ high ≤ 1.
    """
    low, high = dose_range
    if not 0 < low <= high <= 1:
        raise ConfigError(f"simulated_dose {low:g}…{high:g}: give two fractions, 0 < low ≤ high ≤ 1")
    summaries: list[SeriesSummary] = []
    found = [
        _cached(source, dose_range, seed, cache_dir, scanner, progress, summaries.append) for source in sources
    ]
    for summary in summaries:
        for warning in summary.warnings:
            notify(f"{summary.name}: {warning}")
    for warning in disagreements(summaries):
        notify(warning)
    return found


def _cached(
    source: SliceSource,
    dose_range: tuple[float, float],
    seed: int,
    cache_dir: Path,
    scanner: Scanner,
    progress: Progress,
    summarize: Callable[[SeriesSummary], None],
) -> SimulatedSeries:
    rng = np.random.default_rng([19, seed, *hashlib.sha256(source.uid.encode()).digest()[:8]])
    dose = float(np.exp(rng.uniform(*np.log(dose_range))))
    # Every series has its own seed: a network would memorise noise that is the same in several.
    simulation = Simulation(round(dose, 4), int(rng.integers(2**31)), scanner)
    key = hashlib.sha256(f"{source.uid}/{len(source)}/{simulation.checksum}".encode()).hexdigest()[:32]
    path = cache_dir / f"simulated-{key}.npy"
    if not path.is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda part: _write_tenths(part, source, simulation, progress, summarize))
    return SimulatedSeries(source, path, key, simulation.derivation.label, simulation.dose)


def _write_tenths(
    path: Path,
    source: SliceSource,
    simulation: Simulation,
    progress: Progress,
    summarize: Callable[[SeriesSummary], None],
) -> None:
    tenths = np.lib.format.open_memmap(path, "w+", np.int16, source.geometry.shape)
    for index, hu in enumerate(simulated_slices(source, simulation, progress, summarize=summarize)):
        tenths[index] = np.clip(np.rint(np.nan_to_num(hu, nan=AIR_HU) * 10), -32768, 32767)
    tenths.flush()
