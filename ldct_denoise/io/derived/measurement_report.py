"""Measurements of regions as a DICOM Structured Report (TID 1500, PS3.16), written by the optional highdicom.

A group for every region and slice (TID 1410) holds its outline, as a reference to the image, mean and standard
deviation of HU, and area.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

import ldct_denoise
from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.series import Series
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.io.dicom.values import PRODUCT, text
from ldct_denoise.io.quiet import short_message, suppress_warnings
from ldct_denoise.output import atomic_write

#: Codes of SNOMED CT, DICOM (PS3.16) and UCUM.
CT_PROCEDURE = Code("77477000", "SCT", "Computed tomography")
ATTENUATION = Code("112031", "DCM", "Attenuation Coefficient")
MEAN = Code("373098007", "SCT", "Mean")
STANDARD_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
AREA = Code("42798000", "SCT", "Area")
HU = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
SQUARE_MM = Code("mm2", "UCUM", "square millimeter")
#: Attributes of patient and study that a report takes over; empty where the image has none (Type 2).
INHERITED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
REFERENCED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
SERIES_NUMBER = 900
#: Specific Character Set (PS3.3 C.12.1.1.2): names of patients and regions may have any characters.
UTF_8 = "ISO_IR 192"
#: Digits after the point of the values.
DECIMALS = 3


@dataclass(frozen=True)
class RegionMeasurement:
    """A region in one slice of a series.

    Parameters
    ----------
    name : str
        Of the region.
    index : int
        Slice of the series.
    outline_px : ndarray, shape (points, 2)
        Column and row of the corners, as :func:`~ldct_denoise.regions.outline.pixel_outline` gives them.
    mean_hu, std_hu, area_mm2 : float
    """

    name: str
    index: int
    outline_px: NDArray[np.float64]
    mean_hu: float
    std_hu: float
    area_mm2: float


def write_measurement_report(
    series: Series, measurements: Sequence[RegionMeasurement], path: Path, description: str
) -> None:
    """Write a Comprehensive SR of the measurements in one series.

    Patient and study are those of the series; the report is complete and not verified.

    Parameters
    ----------
    series : Series
        The images that were measured.
    measurements : sequence of RegionMeasurement
        At least one.
    path : Path
        Replaced atomically.
    description : str
        Series Description.

    Raises
    ------
    InputError
        If highdicom is not installed, or a value of the images' headers cannot be written.
    """
    sr = import_sr()
    created = datetime.now().isoformat()
    uids = [derived_uid(kind, series.uid, description, created) for kind in ("SR series", "SR")]
    try:
        with suppress_warnings():
            document = sr.ComprehensiveSR(
                evidence=_evidence(series, measurements),
                content=_content(sr, series, measurements),
                series_instance_uid=uids[0],
                series_number=SERIES_NUMBER,
                sop_instance_uid=uids[1],
                instance_number=1,
                manufacturer=PRODUCT,
                manufacturer_model_name=PRODUCT,
                software_versions=ldct_denoise.__version__,
                device_serial_number="none",
                series_description=description[:64],
                is_complete=True,
            )
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{series.slices[0].path}: no DICOM SR of this series ({short_message(error)}); correct its header"
        ) from None
    atomic_write(path, lambda part: document.save_as(part, enforce_file_format=True))


def import_sr() -> Any:
    """The part of highdicom that writes structured reports.

    Raises
    ------
    InputError
        If highdicom is not installed.
    """
    try:
        from highdicom import sr
    except ImportError:
        raise InputError("DICOM SR needs highdicom; pip install 'ldct-denoise[seg]'") from None
    return sr


def _evidence(series: Series, measurements: Sequence[RegionMeasurement]) -> list[Dataset]:
    """What identifies each measured file, with its patient and study."""
    files: dict[str, Dataset] = {}
    for index in dict.fromkeys(measurement.index for measurement in measurements):
        header = series.header(index)
        known = Dataset()
        for keyword in REFERENCED:
            setattr(known, keyword, text(header, keyword))
        for keyword in INHERITED:
            setattr(known, keyword, text(header, keyword))
        texts = [str(known.get(keyword)) for keyword in INHERITED] + [one.name for one in measurements]
        if not "".join(texts).isascii():
            known.SpecificCharacterSet = UTF_8
        files[known.SOPInstanceUID] = known
    return list(files.values())


def _content(sr: Any, series: Series, measurements: Sequence[RegionMeasurement]) -> Any:
    """The content tree: Imaging Measurement Report."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", PRODUCT, ldct_denoise.__version__),
        name=PRODUCT,
        manufacturer_name=PRODUCT,
        model_name=f"{PRODUCT} {ldct_denoise.__version__}",
    )
    observer = sr.ObserverContext(
        observer_type=Code("121007", "DCM", "Device"), observer_identifying_attributes=device
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CT_PROCEDURE,
        imaging_measurements=[_group(sr, series, measurement) for measurement in measurements],
    )


def _group(sr: Any, series: Series, measurement: RegionMeasurement) -> Any:
    """Planar ROI measurements (TID 1410) of one region in one slice."""
    ref = series.slices[measurement.index]
    source = sr.SourceImageForRegion(
        text(series.header(measurement.index), "SOPClassUID"),
        ref.sop_uid,
        None if ref.frame is None else [ref.frame + 1],
    )
    region = sr.ImageRegion(sr.GraphicTypeValues.POLYLINE, measurement.outline_px, source)
    values = (
        (ATTENUATION, measurement.mean_hu, HU, MEAN),
        (ATTENUATION, measurement.std_hu, HU, STANDARD_DEVIATION),
        (AREA, measurement.area_mm2, SQUARE_MM, None),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        sr.TrackingIdentifier(derived_uid("region", series.uid, measurement.name), measurement.name),
        region,
        measurements=[
            sr.Measurement(name, round(value, DECIMALS), unit, derivation=derivation)
            for name, value, unit, derivation in values
        ],
    )
