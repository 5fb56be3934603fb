"""Write a CT series that is created rather than acquired (phantoms, test images) as CT Image Storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage
from pydicom.valuerep import format_number_as_ds

import ldct_denoise
from ldct_denoise.errors import OutputError
from ldct_denoise.io.derived.transcode import new_file_meta
from ldct_denoise.io.dicom.uids import derived_uid
from ldct_denoise.volume import SliceSource

#: Stored values are HU + 1024 in 16 signed bits, as on most scanners.
RESCALE_INTERCEPT_HU = -1024
EXPOSURE_TIME_MS = 500


@dataclass(frozen=True)
class SeriesAttributes:
    """Attributes of a CT series that is created rather than acquired.

    Parameters
    ----------
    patient_id : str
        Patient ID; like all texts here plain ASCII of at most 64 characters.
    study_uid : str
        Study Instance UID. The series of a study share one frame of reference.
    series_number : int
        Series Number.
    description : str
        Series Description.
    series_uid : str, optional
        Series Instance UID; by default derived from study, patient, number and description.
    kernel : str
        Convolution Kernel, at most 16 characters.
    kvp : float
        Tube voltage, kV.
    tube_current_ma : sequence of float, optional
        Tube current of each slice, mA; the exposure (mAs) follows from a rotation of 0.5 s.
    synthetic : bool
        Whether Synthetic Data (0008,001C) is YES.
    """

    patient_id: str
    study_uid: str
    series_number: int
    description: str
    series_uid: str | None = None
    kernel: str = ""
    kvp: float = 120.0
    tube_current_ma: Sequence[float] | None = None
    synthetic: bool = True


def write_series(source: SliceSource, folder: Path, attributes: SeriesAttributes) -> Path:
    """Write ``source`` as a new CT series, rounded to whole HU; the same arguments give the same files.

    Parameters
    ----------
    source : SliceSource
        Geometry and HU.
    folder : Path
        Folder of the files; created where it does not exist.
    attributes : SeriesAttributes

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    OutputError
        If ``folder`` cannot be written, or contains a file of the same name.
    """
    common = _common_header(attributes)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(len(source)):
            image = _image(common, source, index)
            if attributes.tube_current_ma is not None:
                _set_exposure(image, attributes.tube_current_ma[index])
            image.save_as(folder / f"1-{index + 1:03d}.dcm", enforce_file_format=True, overwrite=False)
    except FileExistsError as error:
        raise OutputError(f"{error.filename or folder}: already exists; choose an empty folder") from None
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    return folder


def _common_header(attributes: SeriesAttributes) -> Dataset:
    """Attributes that all images of the series share."""
    a, common = attributes, Dataset()
    _set_patient(common, a.patient_id, a.study_uid)
    common.FrameOfReferenceUID = derived_uid("frame of reference", a.study_uid)
    common.SeriesInstanceUID = a.series_uid or derived_uid(
        "series", a.study_uid, a.patient_id, a.series_number, a.description
    )
    common.SeriesNumber = a.series_number
    common.SeriesDescription = a.description[:64]
    common.ConvolutionKernel = a.kernel
    common.KVP = _decimal(a.kvp)
    if a.synthetic:
        common.SyntheticData = "YES"
    return common


def _set_patient(dataset: Dataset, patient_id: str, study_uid: str) -> None:
    """Set patient, study and equipment; unknown attributes of Type 2 stay empty (PS3.3 A.3)."""
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.PatientID = patient_id
    dataset.PatientName = f"Synthetic^{patient_id}"
    dataset.StudyInstanceUID = study_uid
    dataset.StudyID = "1"
    for keyword in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(dataset, keyword, "")
    dataset.ReferringPhysicianName = ""
    dataset.PositionReferenceIndicator = ""
    dataset.PatientPosition = "HFS"
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.Manufacturer = "ldct-denoise"
    dataset.ManufacturerModelName = "simulated CT"
    dataset.SoftwareVersions = ldct_denoise.__version__
    dataset.ContentQualification = "RESEARCH"


def _image(common: Dataset, source: SliceSource, index: int) -> Dataset:
    geometry = source.geometry
    image = Dataset()
    image.update(common)
    image.SOPInstanceUID = derived_uid("image", common.SeriesInstanceUID, index)
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.AcquisitionNumber = 1
    image.InstanceNumber = index + 1
    image.ImagePositionPatient = [_decimal(value) for value in geometry.positions_mm[index]]
    directions = (*geometry.row_direction, *geometry.column_direction)
    image.ImageOrientationPatient = [_decimal(value) for value in directions]
    image.PixelSpacing = [_decimal(value) for value in geometry.pixel_spacing_mm]
    image.SliceThickness = _decimal(geometry.slice_spacing_mm)
    image.SliceLocation = _decimal(geometry.offsets_mm[index])
    _set_pixels(image, source.read_hu(index))
    image.file_meta = new_file_meta()
    return image


def _set_pixels(image: Dataset, hu: NDArray[np.float32]) -> None:
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME2"
    image.Rows, image.Columns = hu.shape
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.RescaleIntercept, image.RescaleSlope, image.RescaleType = RESCALE_INTERCEPT_HU, 1, "HU"
    image.WindowCenter, image.WindowWidth = 40, 400
    stored = np.clip(np.rint(hu.astype(np.float64) - RESCALE_INTERCEPT_HU), -32768, 32767)
    image.PixelData = stored.astype("<i2").tobytes()


def _set_exposure(image: Dataset, current_ma: float) -> None:
    image.XRayTubeCurrent = round(current_ma)
    image.ExposureTime = EXPOSURE_TIME_MS
    image.Exposure = round(current_ma * EXPOSURE_TIME_MS / 1000)


def _decimal(value: float) -> str:
    """A Decimal String (at most 16 characters, PS3.5 6.2)."""
    return str(format_number_as_ds(float(value)))
