"""Simulate low-dose series and write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import InputError, LdctDenoiseError, PartialError
from ldct_denoise.io.derived.derivation import ASSUMED_UNIT, Derivation
from ldct_denoise.io.find import find_images
from ldct_denoise.io.write_settings import DEFAULT_WRITE_SETTINGS, WriteSettings
from ldct_denoise.io.writer import holds_result, open_writer, output_location, series_subfolders
from ldct_denoise.physics.dose import DoseSimulator, require_dose
from ldct_denoise.physics.noise import NoiseModel
from ldct_denoise.physics.scanner import DEFAULT_SCANNER, Scanner
from ldct_denoise.physics.simulation_summary import SeriesSummary, disagreements, write_summaries
from ldct_denoise.volume import SliceSource

Progress = Callable[[int, int, str], None]


Notify = Callable[[str], None]


def _silent(done: int, total: int, name: str) -> None:
    pass


def _ignore(warning: str) -> None:
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
    assume_hu : bool
        Take values for HU where header or values speak against it.

    Raises
    ------
    ConfigError
        If the dose is out of range.
    """

    dose: float
    seed: int = 0
    scanner: Scanner = DEFAULT_SCANNER
    model: NoiseModel | None = None
    assume_hu: bool = False

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
        settings = {name: str(value) for name, value in asdict(self.scanner).items() if value is not None}
        settings["seed"] = str(self.seed)
        settings["noise_spectrum"] = "measured" if self.model is None else "given"
        if self.assume_hu:
            settings["unit"] = ASSUMED_UNIT
        return Derivation("dose-simulation", self.checksum, settings=settings, kind="simulated", dose=self.dose)


#: Incremented when the simulated noise changes, so that old caches are not reused.
VERSION = 5


def simulate(
    path: Path,
    output: Path,
    simulation: Simulation,
    settings: WriteSettings = DEFAULT_WRITE_SETTINGS,
    *,
    device: str = "cpu",
    progress: Progress = _silent,
    notify: Notify = _ignore,
) -> list[Path]:
    """Simulate a lower dose of every CT series under ``path``; one failure does not stop the others.

    With several DICOM series, those that an earlier run wrote with the same simulation are skipped.
    ``<output>-simulation.json`` describes each series: its quanta, and the share of rays with few of them.

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
    notify : callable
        Called with each warning about a series.

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
    inventory = find_images(path, assume_hu=simulation.assume_hu)
    sources = inventory.series
    if not sources:
        reason = f": {inventory.main_exclusion}" if inventory.skipped else ""
        raise InputError(f"{path}: no CT series to simulate a lower dose of{reason}")
    if len(sources) == 1:
        summary = simulate_series(sources[0], output, simulation, settings, device=device, progress=progress)
        _report([summary], output, notify)
        location = output_location(sources[0], output, settings)
        inventory.require_all_slices(location)
        return [location]
    written, failures, summaries = [], list(inventory.lost_slices), []
    for source, folder in zip(sources, series_subfolders(output, sources, settings), strict=True):
        try:
            if not settings.overwrite and holds_result(source, folder, simulation.derivation, settings):
                written.append(output_location(source, folder, settings))
            else:
                summaries.append(
                    simulate_series(source, folder, simulation, settings, device=device, progress=progress)
                )
                written.append(output_location(source, folder, settings))
        except LdctDenoiseError as error:
            reason = str(error).removeprefix(f"{source.name}: ")
            failures.append(f"{source.metadata.path or source.name}: {reason}")
    _report(summaries, output, notify)
    _raise_failures(path, len(sources), written, failures)
    return written


def _report(summaries: Sequence[SeriesSummary], output: Path, notify: Notify) -> None:
    """Write the summaries next to the output, and pass on all warnings."""
    if not summaries:
        return
    write_summaries(output.with_name(f"{output.name}-simulation.json"), summaries)
    for summary in summaries:
        for warning in summary.warnings:
            notify(f"{summary.name}: {warning}")
    for warning in disagreements(summaries):
        notify(warning)


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
) -> SeriesSummary:
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
    SeriesSummary
        Where the result is, and what is known of its quanta.

    Raises
    ------
    InputError, ConfigError, OutputError
        If nothing was written.
    """
    summaries: list[SeriesSummary] = []
    with open_writer(source, output, simulation.derivation, settings) as writer:
        for index, hu in enumerate(simulated_slices(source, simulation, progress, device, summaries.append)):
            writer.write(index, hu)
    return replace(summaries[0], location=writer.location)


def simulated_slices(
    source: SliceSource,
    simulation: Simulation,
    progress: Progress = _silent,
    device: str = "cpu",
    summarize: Callable[[SeriesSummary], None] | None = None,
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
    summarize : callable, optional
        Called with the summary of the series after its last slice.

    Yields
    ------
    ndarray, shape (rows, columns), float32
        HU.
    """
    simulator = DoseSimulator(source, simulation.scanner, simulation.model, device)
    shares = []
    for index in range(len(source)):
        yield simulator.simulate(index, simulation.dose, simulation.seed)
        if summarize is not None:
            shares.append(simulator.low_count_share(index, simulation.dose))
        progress(index + 1, len(source), source.name)
    if summarize is not None:
        summarize(
            SeriesSummary.of(
                source,
                simulation.dose,
                quanta_per_ma=simulator.quanta_per_ma,
                expected_quanta_per_ma=simulator.expected.per_ma,
                low_count_shares=shares,
            )
        )
