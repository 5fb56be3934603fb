"""Write a series slice by slice, as derived DICOM images or as a volume file.

:func:`open_writer` decides which of the two is written; nothing else in the package asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ConfigError, OutputError
from ldct_denoise.io.derived.deidentify import check_burned_in, public_uid
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.derived_series import DerivedWriter
from ldct_denoise.io.derived.existing import holds_derived
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.volume_files import VolumeFile, is_volume_file
from ldct_denoise.io.volume_writer import VolumeWriter
from ldct_denoise.io.write_settings import DEFAULT_WRITE_SETTINGS, WriteSettings
from ldct_denoise.volume import SliceSource


class SeriesWriter(Protocol):
    """Writes one series slice by slice; a context manager.

    The constructor refuses what cannot be written, before anything is computed. The output appears when the block
    ends without an error and every slice was written; otherwise nothing appears.
    """

    @property
    def location(self) -> Path:
        """Folder of the derived DICOM series, or the volume file."""
        ...

    def write(self, index: int, hu: NDArray[np.floating]) -> Path | None:
        """Write slice ``index``, in HU, shape (rows, columns); the order is free.

        Returns
        -------
        Path or None
            The file of this slice alone, where there is one; it is complete, but not yet in :attr:`location`.
        """
        ...

    def __enter__(self) -> SeriesWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_writer(
    source: SliceSource, output: Path, derivation: Derivation, settings: WriteSettings = DEFAULT_WRITE_SETTINGS
) -> SeriesWriter:
    """Open the writer of a series that derives from ``source``.

    Parameters
    ----------
    source : SliceSource
        The series whose slices were processed.
    output : Path
        Where the result goes; see :func:`output_location`.
    derivation : Derivation
        How the new pixels came about.
    settings : WriteSettings
        Those that only DICOM has are ignored for a volume file; see :func:`check_dicom_settings`.

    Returns
    -------
    SeriesWriter

    Raises
    ------
    ConfigError
        If a setting is impossible, or asks for DICOM or de-identification of a source that is not DICOM.
    InputError
        If a series to be de-identified has burned-in annotation.
    OutputError
        If the output cannot be written or must not be overwritten.
    """
    if _writes_dicom(source, output, settings):
        return DerivedWriter(source, output, derivation, settings)
    _check_volume(source, settings)
    return VolumeWriter(
        output_location(source, output, settings),
        source.geometry,
        like=source.path if isinstance(source, VolumeFile) else None,
        denoised_by=derivation.model_name if derivation.kind == "denoised" else None,
        overwrite=settings.overwrite,
    )


def output_location(source: SliceSource, output: Path, settings: WriteSettings = DEFAULT_WRITE_SETTINGS) -> Path:
    """Path of the result of :func:`open_writer`.

    Parameters
    ----------
    source : SliceSource
    output : Path
    settings : WriteSettings

    Returns
    -------
    Path
        ``output`` itself for a derived DICOM series, and where it names a volume file; otherwise a volume file in
        the folder ``output``, named after the input.
    """
    if _writes_dicom(source, output, settings) or is_volume_file(output):
        return output
    if not isinstance(source, VolumeFile):
        return output / f"{output_uid(source, settings)}.nii.gz"
    suffix = {".mhd": ".mha", ".nhdr": ".nrrd"}.get(source.path.suffix.lower())
    return output / (source.path.stem + suffix if suffix else source.path.name)


def output_uid(source: SliceSource, settings: WriteSettings) -> str:
    """UID that names a series' files, folders and ledger entries; without identity when it is de-identified."""
    return public_uid(source.uid) if settings.deidentify else source.uid


def series_subfolders(output: Path, sources: Sequence[SliceSource], settings: WriteSettings) -> list[Path]:
    """Give each of several series a subfolder named by its UID; further stacks with the same UID are numbered.

    Parameters
    ----------
    output : Path
    sources : sequence of SliceSource
    settings : WriteSettings

    Returns
    -------
    list of Path
        One for each source.

    Raises
    ------
    OutputError
        If ``output`` names one volume file, but there are several series.
    """
    if len(sources) > 1 and is_volume_file(output):
        raise OutputError(f"{output}: names one file, but there are {len(sources)} series; give a folder")
    return [output / name for name in _distinct(output_uid(source, settings) for source in sources)]


def check_dicom_settings(name: str, jobs: Iterable[tuple[SliceSource, Path]], settings: WriteSettings) -> None:
    """Refuse settings of DICOM output where none of the series becomes DICOM.

    Parameters
    ----------
    name : str
        The input, for the message.
    jobs : iterable of (SliceSource, Path)
        Every series with its output.
    settings : WriteSettings

    Raises
    ------
    ConfigError
    """
    given = {
        "--compress": settings.compress is not None,
        "--private-tags remove": settings.private_tags == "remove",
        "--keep-manufacturer": settings.keep_manufacturer,
        "--convert-enhanced": settings.convert_enhanced,
    }
    unused = [option for option, is_given in given.items() if is_given]
    if settings.format == "dicom" or not unused:  # with the former, every volume is refused anyway
        return
    if not any(_writes_dicom(source, output, settings) for source, output in jobs):
        raise ConfigError(f"{name}: {', '.join(unused)}: for DICOM output only; leave it out")


def holds_result(
    source: SliceSource, output: Path, derivation: Derivation, settings: WriteSettings = DEFAULT_WRITE_SETTINGS
) -> bool:
    """Whether ``output`` already holds the complete result of :func:`open_writer` with the same arguments.

    Only derived DICOM series can be recognised, by their deterministic UIDs. UIDs do not depend on how private
    attributes and equipment are treated, so nothing is recognised where these settings differ from the defaults.

    Parameters
    ----------
    source : SliceSource
    output : Path
    derivation : Derivation
    settings : WriteSettings

    Returns
    -------
    bool
    """
    if settings.private_tags != "keep" or settings.keep_manufacturer:
        return False
    return _writes_dicom(source, output, settings) and holds_derived(output, source, derivation, settings)


def _writes_dicom(source: SliceSource, output: Path, settings: WriteSettings) -> TypeGuard[Series]:
    """Whether the result is a derived DICOM series."""
    if not isinstance(source, Series) or settings.format == "nifti":
        return False
    return settings.format == "dicom" or not is_volume_file(output)


def _check_volume(source: SliceSource, settings: WriteSettings) -> None:
    """Refuse settings that cannot be applied to a volume file; ignoring them would mislead the user."""
    if isinstance(source, Series):
        if settings.deidentify:  # the volume's writer sees no header
            for index in range(len(source)):
                check_burned_in(source.header(index))
        return
    if settings.format == "dicom":
        raise ConfigError(
            f"{source.name}: not DICOM, so no DICOM series can be derived from it; leave out --format"
        )
    if settings.deidentify:
        raise ConfigError(
            f"{source.name}: not DICOM, so --deidentify cannot know what identifies the patient; leave it out"
        )


def _distinct(names: Iterable[str]) -> Iterator[str]:
    """Number the second and later occurrences of a name."""
    seen: dict[str, int] = {}
    for name in names:
        count = seen[name] = seen.get(name, 0) + 1
        yield name if count == 1 else f"{name}-{count}"
