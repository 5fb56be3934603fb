"""Recognise a derived series that an earlier run wrote, by its deterministic UIDs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian

from ldct_denoise.io.derived.compress import transfer_syntax
from ldct_denoise.io.derived.deidentify import public_uid
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.enhanced import is_enhanced
from ldct_denoise.io.write_settings import WriteSettings

if TYPE_CHECKING:
    from ldct_denoise.io.dicom.series import Series


def holds_derived(output: Path, series: Series, derivation: Derivation, settings: WriteSettings) -> bool:
    """Whether ``output`` holds the complete series that ``DerivedWriter`` would write.

    Source, derivation and settings determine the Series Instance UID; only headers are read. The UID does not
    depend on how private attributes and equipment are treated.

    Parameters
    ----------
    output : Path
        Folder of the derived series.
    series : Series
        The source.
    derivation : Derivation
    settings : WriteSettings

    Returns
    -------
    bool
    """
    uid = derivation.uid(series_identity(series, settings))
    syntax = transfer_syntax(settings.compress) or ExplicitVRLittleEndian
    files = sorted(output.glob("*.dcm")) if output.is_dir() else []
    if not files or len(files) != _file_count(series, settings.convert_enhanced):
        return False
    try:
        headers = [dcmread(file, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True) for file in files]
    except (OSError, InvalidDicomError):
        return False
    return all(h.get("SeriesInstanceUID") == uid and h.file_meta.TransferSyntaxUID == syntax for h in headers)


def series_identity(series: Series, settings: WriteSettings) -> str:
    """The part of the derived Series Instance UID that the source and the settings determine."""
    uid = public_uid(series.uid) if settings.deidentify else series.uid
    return f"{uid}/classic" if settings.convert_enhanced else uid


def _file_count(series: Series, convert_enhanced: bool) -> int:
    """Number of derived files: one for each slice, or for each multi-frame file that stays multi-frame."""
    if convert_enhanced or all(slice_.frame is None for slice_ in series.slices):
        return len(series)
    first_slices = {slice_.path: index for index, slice_ in reversed(list(enumerate(series.slices)))}
    multiframe = {path for path, index in first_slices.items() if is_enhanced(series.header(index))}
    return len(multiframe) + sum(slice_.path not in multiframe for slice_ in series.slices)
