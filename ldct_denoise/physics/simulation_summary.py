"""Summary of a simulated series: its quanta, and the share of rays for which Gaussian noise is wrong."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ldct_denoise.output import atomic_write
from ldct_denoise.volume import SliceSource

#: A ray with fewer quanta has a skewed and biased line integral, which Gaussian noise does not describe.
MIN_QUANTA = 30
#: Share of the rays through the body, of any slice, above which few quanta are reported.
MAX_LOW_COUNT_SHARE = 0.001
#: Factor between measured and expected quanta above which the series is reported.
MAX_QUANTA_FACTOR = 2.0
#: Factor between the quanta of two series of one scan above which they are reported.
MAX_KERNEL_FACTOR = 1.3


@dataclass(frozen=True)
class SeriesSummary:
    """Quanta of a simulated series.

    Parameters
    ----------
    series_uid, name : str
        Source of the simulation.
    scan : str
        Patient, manufacturer and tube voltage: series with the same have the same quanta per mAs.
    dose : float
        Fraction of the source's dose.
    quanta_per_ma : float
        Quanta per mm, radian and mA, as measured.
    expected_quanta_per_ma : float
        The same, as expected from tube voltage, slice thickness, rotation time and pitch.
    low_count_shares : tuple of float
        Share of the rays through the body with fewer than ``MIN_QUANTA`` quanta, of each slice.
    location : Path, optional
        Folder of the derived series, or the volume file.
    """

    series_uid: str
    name: str
    scan: str
    dose: float
    quanta_per_ma: float
    expected_quanta_per_ma: float
    low_count_shares: tuple[float, ...]
    location: Path | None = None

    @classmethod
    def of(
        cls,
        source: SliceSource,
        dose: float,
        *,
        quanta_per_ma: float,
        expected_quanta_per_ma: float,
        low_count_shares: Sequence[float],
    ) -> SeriesSummary:
        """Summary of a series.

        Parameters
        ----------
        source : SliceSource
            The series whose lower dose was simulated.
        dose : float
            Fraction of the source's dose.
        quanta_per_ma, expected_quanta_per_ma : float
            Quanta per mm, radian and mA, as measured and as expected.
        low_count_shares : sequence of float
            Share of the rays through the body with few quanta, of each slice.

        Returns
        -------
        SeriesSummary
        """
        metadata = source.metadata
        scan = f"{source.patient}, {metadata.manufacturer}, {metadata.kvp or 0:g} kV"
        shares = tuple(round(share, 6) for share in low_count_shares)
        return cls(source.uid, source.name, scan, dose, quanta_per_ma, expected_quanta_per_ma, shares)

    @property
    def quanta_factor(self) -> float:
        """Measured over expected quanta."""
        return self.quanta_per_ma / self.expected_quanta_per_ma

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the series, in words."""
        return tuple(self._warnings())

    def _warnings(self) -> Iterator[str]:
        few = np.array(self.low_count_shares)
        if few.size and few.max() > MAX_LOW_COUNT_SHARE:
            count = int(np.sum(few > MAX_LOW_COUNT_SHARE))
            yield (
                f"in {count} of {len(few)} slices up to {100 * few.max():.2g} % of the rays through the body have "
                f"fewer than {MIN_QUANTA} quanta; in real scans these places have more noise and a higher mean HU"
            )
        if not 1 / MAX_QUANTA_FACTOR <= self.quanta_factor <= MAX_QUANTA_FACTOR:
            yield (
                f"its noise corresponds to {self.quanta_factor:.2g} times the quanta that a scanner emits at "
                "the mAs in the header; the series may be denoised already, or its header may state another tube "
                "current"
            )


def disagreements(summaries: Sequence[SeriesSummary]) -> Iterator[str]:
    """Warnings about series of one scan that do not have the same quanta per mAs.

    Parameters
    ----------
    summaries : sequence of SeriesSummary

    Yields
    ------
    str
    """
    scans = defaultdict(list)
    for summary in summaries:
        scans[summary.scan].append(summary)
    for scan, found in scans.items():
        low, high = (pick(found, key=lambda summary: summary.quanta_factor) for pick in (min, max))
        factor = high.quanta_factor / low.quanta_factor
        if factor > MAX_KERNEL_FACTOR:
            yield (
                f"{scan}: the noise of {high.name} and {low.name} gives quanta per mAs that differ by a factor of "
                f"{factor:.2g}; check the noise level of both"
            )


def write_summaries(path: Path, summaries: Sequence[SeriesSummary]) -> None:
    """Write summaries to a JSON file; those of other series that it has already stay.

    Parameters
    ----------
    path : Path
    summaries : sequence of SeriesSummary
    """
    entries = {}
    if path.is_file():
        try:
            entries = {str(entry["series_uid"]): entry for entry in json.loads(path.read_text(encoding="utf-8"))}
        except (ValueError, KeyError, TypeError):
            entries = {}  # not a file of this function; it is replaced
    for summary in summaries:
        entry = {key: value for key, value in asdict(summary).items() if key != "scan"}
        entry |= {"location": str(summary.location or ""), "warnings": list(summary.warnings)}
        entries[summary.series_uid] = entry
    text = json.dumps(list(entries.values()), indent=1, ensure_ascii=False)
    atomic_write(path, lambda part: part.write_text(text, encoding="utf-8"))
