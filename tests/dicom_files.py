"""Small CT images for tests of reading, made by the test itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian

from ldct_denoise.io.dicom.uids import derived_uid

ROWS, COLUMNS = 6, 8


def cells(seed: object = 0) -> np.ndarray:
    """Stored values: air to bone with an intercept of −1024."""
    rng = np.random.default_rng(abs(hash(str(seed))) % 2**32 if not isinstance(seed, int) else seed)
    return rng.integers(0, 2500, (ROWS, COLUMNS)).astype(np.uint16)


def ct_image(number: int = 0, **attributes: object) -> Dataset:
    """A classic CT image at z = 3 mm × number; ``attributes`` are set, or left out where None."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = CTImageStorage
    image.SOPInstanceUID = derived_uid("instance", number, sorted(map(str, attributes.items())))
    image.SeriesInstanceUID, image.StudyInstanceUID = derived_uid("series"), derived_uid("study")
    image.Modality, image.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.PatientID, image.PatientName = "P1", "A^B"
    image.SeriesDescription, image.Manufacturer, image.ConvolutionKernel = "abdomen", "SCANNERS Inc", "B30f"
    image.KVP, image.XRayTubeCurrent, image.InstanceNumber, image.AcquisitionNumber = 120, 200, number + 1, 1
    image.ImagePositionPatient, image.ImageOrientationPatient = [-10, -20, 3 * number], [1, 0, 0, 0, 1, 0]
    image.PixelSpacing, image.SliceThickness = [0.7, 0.8], 3
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows, image.Columns = ROWS, COLUMNS
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.RescaleSlope, image.RescaleIntercept, image.RescaleType = 1, -1024, "HU"
    image.PixelData = cells(number).tobytes()
    image["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


def write_ct(path: Path, number: int = 0, **attributes: object) -> Path:
    """Write :func:`ct_image`."""
    image = ct_image(number, **attributes)
    path.parent.mkdir(parents=True, exist_ok=True)
    if image.file_meta.TransferSyntaxUID == UID("1.2.840.10008.1.2.2"):
        image.PixelData = np.frombuffer(image.PixelData, "<u2").byteswap().tobytes()
    image.save_as(path, enforce_file_format=True)
    return path
