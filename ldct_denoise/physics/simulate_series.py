"""Simulated low-dose series: written for people, or kept in a cache for training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, InputError, LdctDenoiseError, PartialError
from ldct_denoise.io.derived.attributes import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter, holds_derived
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.find import find_images
from ldct_denoise.io.volume_files import FileSeries, require_folder, volume_place, write_volume
from ldct_denoise.output import atomic_write, series_subfolders
from ldct_denoise.physics.dose import DoseSimulator, require_dose
from ldct_denoise.physics.noise import AIR_HU, NoiseModel
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, Scanner
from ldct_denoise.volume import SeriesView, SliceSource

Progress = Callable[[int, int, str], None]


def _silent(done: int, total: int, name: str) -> None:
    pass


@dataclass(frozen=True)
class Simulation:
    """What is simulated.

    Parameters
    ----------
    dose : float
        Fraction of the series' own dose, 0 < dose ≤ 1.
    seed : int
        Another seed is another scan.
    scanner : Scanner
    model : NoiseModel, optional
        The kernel's noise spectrum; measured in the series without.

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
        """SHA-256 of everything that decides the noise, the series aside."""
        nps = None if self.model is None else [self.model.frequencies_per_mm.tolist(), self.model.nps.tolist()]
        told = json.dumps([VERSION, self.dose, self.seed, asdict(self.scanner), nps], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def derivation(self) -> Derivation:
        """What the derived series says of how it was made."""
        settings = {name: str(value) for name, value in asdict(self.scanner).items()} | {"seed": str(self.seed)}
        settings["noise_spectrum"] = "measured" if self.model is None else "given"
        return Derivation("dose-simulation", self.checksum, settings=settings, kind="simulated", dose=self.dose)


#: Counts changes of the simulation that change its noise: old caches are then not used again.
VERSION = 3


def simulate(
    path: Path,
    output: Path,
    simulation: Simulation,
    *,
    format: Literal["dicom", "nifti"] | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
    device: str = "cpu",
) -> list[Path]:
    """Simulate a lower dose of every CT series under ``path``; what fails of several does not stop the others.

    Of several DICOM series, those that an earlier run wrote with the same simulation are left as they are.

    Parameters
    ----------
    path : Path
        A DICOM folder, file or tree, or a volume file.
    output : Path
        Where the series goes; with several, each gets a subfolder named by its UID.
    format : {"dicom", "nifti"}, optional
        By default the input's own.
    device : str
        Of the projections, as torch names it.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError, ConfigError, OutputError
        If nothing was written.
    PartialError
        If some series were not written, or lack slices that cannot be read; the others are written.
    """
    inventory = find_images(path)
    series = inventory.series
    if not series:
        raise InputError(f"{path}: no CT series to simulate a lower dose of")
    require_folder(output, len(series))

    def write(source: SliceSource, place: Path) -> Path:
        if len(series) > 1 and not overwrite and _is_done(source, place, simulation, format):
            return place
        return simulate_series(
            source, place, simulation, format=format, overwrite=overwrite, progress=progress, device=device
        )

    if len(series) > 1:
        return _write_each(path, series, output, write, inventory.lost_slices)
    written = write(series[0], output)
    inventory.require_all_slices(written)
    return [written]


def _is_done(source: SliceSource, place: Path, simulation: Simulation, format: str | None) -> bool:
    if not isinstance(source, Series) or format == "nifti":
        return False
    return holds_derived(place, source, simulation.derivation)


def _write_each(
    path: Path,
    series: Sequence[SliceSource],
    output: Path,
    write: Callable[[SliceSource, Path], Path],
    lost: Sequence[str],
) -> list[Path]:
    """Every series in a subfolder; raises at the end what failed, and the slices that were lost on reading."""
    written, failures = [], list(lost)
    for source, place in zip(series, series_subfolders(output, (source.uid for source in series)), strict=True):
        try:
            written.append(write(source, place))
        except LdctDenoiseError as error:
            known_as = source.path if isinstance(source, FileSeries) else source.name  # files share names
            failures.append(f"{known_as}: {str(error).removeprefix(f'{source.name}: ')}")
    if failures and not written:
        nothing = InputError(f"{path}: a lower dose was simulated of none of {len(series)} series")
        nothing.failures = tuple(failures)
        raise nothing
    if failures:
        told = f"{path}: a lower dose was simulated of {len(written)} of {len(series)} series"
        raise PartialError(told, failures, written)
    return written


def simulate_series(
    source: SliceSource,
    output: Path,
    simulation: Simulation,
    *,
    format: Literal["dicom", "nifti"] | None = None,
    overwrite: bool = False,
    progress: Progress = _silent,
    device: str = "cpu",
) -> Path:
    """Simulate a lower dose of one series and write it: a derived, labelled DICOM series, or a volume."""
    if isinstance(source, Series) and format != "nifti":
        with DerivedWriter(source, output, simulation.derivation, overwrite=overwrite) as writer:
            for index, hu in enumerate(simulated_slices(source, simulation, progress, device)):
                writer.write(index, hu)
        return output
    if format == "dicom":
        raise ConfigError(f"{source.name}: not DICOM, so no DICOM series derives from it; leave out --format")
    place = volume_place(source, output)
    like = source.path if isinstance(source, FileSeries) else None
    slices = simulated_slices(source, simulation, progress, device)
    write_volume(place, slices, source.geometry, like=like, overwrite=overwrite)
    return place


def simulated_slices(
    source: SliceSource, simulation: Simulation, progress: Progress = _silent, device: str = "cpu"
) -> Iterator[NDArray[np.float32]]:
    """Every slice at the lower dose, in order, HU; one is held at a time."""
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
