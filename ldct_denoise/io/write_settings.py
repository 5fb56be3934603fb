"""Settings of a written series, shared by the command line, the library and the DICOM node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

Format = Literal["dicom", "nifti"]
#: Lossless transfer syntaxes of derived DICOM images.
Compression = Literal["jpegls", "j2k", "rle"]
PrivateTags = Literal["keep", "remove"]


@dataclass(frozen=True)
class WriteSettings:
    """How a series is written.

    Parameters
    ----------
    format : {"dicom", "nifti"}, optional
        Output format; by default what the output's name says, else the input's own.
    overwrite : bool
        Replace an output that exists.
    compress : {"jpegls", "j2k", "rle"}, optional
        Lossless compression of DICOM pixel data; by default Explicit VR Little Endian without compression.
    private_tags : {"keep", "remove"}
        Whether derived DICOM images keep the private attributes of their source.
    keep_manufacturer : bool
        Keep the scanner in General Equipment, for sites that select images by Manufacturer. This software then
        becomes the contributing equipment.
    convert_enhanced : bool
        Write the frames of Enhanced CT as classic CT images. Legacy Converted Enhanced CT is always converted.
    deidentify : bool
        Remove the patient's identity (PS3.15 E.2, see :mod:`ldct_denoise.io.derived.deidentify`) and all private
        attributes. DICOM input only.
    created : datetime, optional
        Creation time of derived DICOM images; by default now. The DICOM node sets it, so that a repeated job gives
        identical files.
    revision : int
        Another number gives the derived DICOM images other UIDs. The DICOM node sets it where a series is sent
        again with corrected patient data, because archives keep the first image of each UID.
    number : int
        Added to the Series Number of derived DICOM images, where one source series gives several derived ones.
    suffix : str
        ASCII text at the end of their Series Description, for the same purpose.
    """

    format: Format | None = None
    overwrite: bool = False
    compress: Compression | None = None
    private_tags: PrivateTags = "keep"
    keep_manufacturer: bool = False
    convert_enhanced: bool = False
    deidentify: bool = False
    created: datetime | None = None
    revision: int = 0
    number: int = 0
    suffix: str = ""


#: The input's format, uncompressed, existing outputs kept.
DEFAULT_WRITE_SETTINGS = WriteSettings()
