"""Simulate low-dose series: written as files, or cached for training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, PartialError
from ldct_denoise.io.derived.attributes import Derivation
from ldct_denoise.io.find import find_images
from ldct_denoise.io.write_settings import DEFAULT_WRITE_SETTINGS, WriteSettings
from ldct_denoise.io.writer import holds_result, open_writer, output_location, series_subfolders
from ldct_denoise.output import atomic_write
from ldct_denoise.physics.dose import DoseSimulator, require_dose
from ldct_denoise.physics.noise import AIR_HU, NoiseModel
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, Scanner
from ldct_denoise.volume import SeriesView, SliceSource

Progress = Callable[[int, int, str], None]


def _silent(done: int, total: int, name: str) -> None:
    pass


@dataclass(frozen=True)
class Simulation:
    """Settings of a simulated scan.

    Parameters
    ----------
    dose : float
        Fraction of the series' own dose, 0 < dose ≤ 1.
    seed : int
        Another seed gives another noise realisation.
    scanner : Scanner
    model : NoiseModel, optional
        Noise power spectrum of the kernel; by default measured in the series.

    Raises
    ------
    ConfigError
        If the dose is out of range.
    """

    dose: float
    seed: int = 0
    scanner: Scanner = DEFAULT_SCANNER
    model: NoiseModel | None = None

    def __post_init__(self) -> None:
        require_dose(self.dose)

    @property
    def checksum(self) -> str:
        """SHA-256 of everything that determines the noise, apart from the series."""
        nps = None if self.model is None else [self.model.frequencies_per_mm.tolist(), self.model.nps.tolist()]
        facts = json.dumps([VERSION, self.dose, self.seed, asdict(self.scanner), nps], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()

    @property
    def derivation(self) -> Derivation:
        """Description of the simulation for derived images."""
        settings = {name: str(value) for name, value in asdict(self.scanner).items()} | {"seed": str(self.seed)}
        settings["noise_spectrum"] = "measured" if self.model is None else "given"
        return Derivation("dose-simulation", self.checksum, settings=settings, kind="simulated", dose=self.dose)


#: Incremented when the simulated noise changes, so that old caches are not reused.
VERSION = 3


def simulate(
    path: Path,
    output: Path,
    simulation: Simulation,
    settings: WriteSettings = DEFAULT_WRITE_SETTINGS,
    *,
    device: str = "cpu",
    progress: Progress = _silent,
) -> list[Path]:
    """Simulate a lower dose of every CT series under ``path``; one failure does not stop the others.

    With several DICOM series, those that an earlier run wrote with the same simulation are skipped.

    Parameters
    ----------
    path : Path
        A DICOM folder, file or tree, or a volume file.
    output : Path
        Where the result goes. With several series, each gets a subfolder named by its UID.
    simulation : Simulation
    settings : WriteSettings
        How the results are written.
    device : str
        Device of the projections, as torch names it.
    progress : callable
        Called with (slices done, number of slices, name of the series).

    Returns
    -------
    list of Path
        Results that were written or skipped.

    Raises
    ------
    InputError, ConfigError, OutputError
        If nothing was written.
    PartialError
        If some series were not written or lack unreadable slices, and the others were written.
    """
    inventory = find_images(path)
    sources = inventory.series
    if not sources:
        raise InputError(f"{path}: no CT series to simulate a lower dose of")
    if len(sources) == 1:
        location = simulate_series(sources[0], output, simulation, settings, device=device, progress=progress)
        inventory.require_all_slices(location)
        return [location]
    written, failures = [], list(inventory.lost_slices)
    for source, folder in zip(sources, series_subfolders(output, sources, settings), strict=True):
        try:
            if not settings.overwrite and holds_result(source, folder, simulation.derivation, settings):
                written.append(output_location(source, folder, settings))
            else:
                written.append(
                    simulate_series(source, folder, simulation, settings, device=device, progress=progress)
                )
        except LdctDenoiseError as error:
            reason = str(error).removeprefix(f"{source.name}: ")
            failures.append(f"{source.metadata.path or source.name}: {reason}")
    _raise_failures(path, len(sources), written, failures)
    return written


def _raise_failures(path: Path, total: int, written: Sequence[Path], failures: Sequence[str]) -> None:
    if failures and not written:
        error = InputError(f"{path}: a lower dose was simulated of none of {total} series")
        error.failures = tuple(failures)
        raise error
    if failures:
        message = f"{path}: a lower dose was simulated of {len(written)} of {total} series"
        raise PartialError(message, failures, written)


def simulate_series(
    source: SliceSource,
    output: Path,
    simulation: Simulation,
    settings: WriteSettings = DEFAULT_WRITE_SETTINGS,
    *,
    device: str = "cpu",
    progress: Progress = _silent,
) -> Path:
    """Simulate a lower dose of one series and write it, as a derived DICOM series or a volume file.

    Parameters
    ----------
    source : SliceSource
    output : Path
        Folder of the derived DICOM series, or a volume file or its folder.
    simulation : Simulation
    settings : WriteSettings
        How the result is written.
    device : str
        Device of the projections, as torch names it.
    progress : callable
        Called with (slices done, number of slices, name of the series).

    Returns
    -------
    Path
        The folder of the derived series, or the volume file.

    Raises
    ------
    InputError, ConfigError, OutputError
        If nothing was written.
    """
    with open_writer(source, output, simulation.derivation, settings) as writer:
        for index, hu in enumerate(simulated_slices(source, simulation, progress, device)):
            writer.write(index, hu)
    return writer.location


def simulated_slices(
    source: SliceSource, simulation: Simulation, progress: Progress = _silent, device: str = "cpu"
) -> Iterator[NDArray[np.float32]]:
    """Simulate every slice at the lower dose, in order; one is in memory at a time.

    Parameters
    ----------
    source : SliceSource
    simulation : Simulation
    progress : callable
        Called with (slices done, number of slices, name of the series).
    device : str
        Device of the projections, as torch names it.

    Yields
    ------
    ndarray, shape (rows, columns), float32
        HU.
    """
    simulator = DoseSimulator(source, simulation.scanner, simulation.model, device)
    for index in range(len(source)):
        yield simulator.simulate(index, simulation.dose, simulation.seed)
        progress(index + 1, len(source), source.name)


@dataclass(frozen=True)
class SimulatedSeries(SeriesView):
    """A simulated low-dose copy of ``source``, in a cache; slices are read as they are asked for.

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
        Fraction of the original's.
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
        """The source's, and the dose."""
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
) -> list[SimulatedSeries]:
    """A low-dose partner of every normal-dose series, each at one dose drawn (log-uniform) from a range.

    What an earlier call left in ``cache_dir`` is used again. Two seeds give two independent scans, at doses of
    their own unless the range is a single dose.

    Parameters
    ----------
    sources : sequence of SliceSource
    dose_range : tuple of 2 floats
        Lowest and highest fraction of the dose.
    seed : int
    cache_dir : Path

    Raises
    ------
    ConfigError
        If the range is none.
    """
    low, high = dose_range
    if not 0 < low <= high <= 1:
        raise ConfigError(f"simulated_dose {low:g}…{high:g}: give two fractions, 0 < low ≤ high ≤ 1")
    return [_cached(source, dose_range, seed, cache_dir, scanner, progress) for source in sources]


def _cached(
    source: SliceSource,
    dose_range: tuple[float, float],
    seed: int,
    cache_dir: Path,
    scanner: Scanner,
    progress: Progress,
) -> SimulatedSeries:
    drawn = np.random.default_rng([19, seed, *hashlib.sha256(source.uid.encode()).digest()[:8]])
    dose = float(np.exp(drawn.uniform(*np.log(dose_range))))
    # A seed of its own for every series: the same noise in several would be learned by heart.
    simulation = Simulation(round(dose, 4), int(drawn.integers(2**31)), scanner)
    key = hashlib.sha256(f"{source.uid}/{len(source)}/{simulation.checksum}".encode()).hexdigest()[:32]
    path = cache_dir / f"simulated-{key}.npy"
    if not path.is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(path, lambda part: _write_tenths(part, source, simulation, progress))
    return SimulatedSeries(source, path, key, simulation.derivation.label, simulation.dose)


def _write_tenths(path: Path, source: SliceSource, simulation: Simulation, progress: Progress) -> None:
    tenths = np.lib.format.open_memmap(path, "w+", np.int16, source.geometry.shape)
    for index, hu in enumerate(simulated_slices(source, simulation, progress)):
        tenths[index] = np.clip(np.rint(np.nan_to_num(hu, nan=AIR_HU) * 10), -32768, 32767)
    tenths.flush()
