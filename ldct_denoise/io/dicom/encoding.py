"""Encoding of an image's pixel data, and the largest image accepted."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from ldct_denoise.errors import InputError
from ldct_denoise.io.dicom.padding import padding_range

#: Largest number of rows or columns of a slice, and of frames of a file; more is a damaged or hostile file.
MAX_SIDE = 8192
MAX_FRAMES = 65536


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the frames of a file are stored. Equal for most files of a series, which share one object.

    Parameters
    ----------
    syntax : str
        Transfer Syntax UID.
    rows, columns : int
        Size of a frame.
    frames : int
        Number of frames of the file.
    bits_allocated, bits_stored, high_bit, pixel_representation : int
        Attributes of the Image Pixel module (PS3.3 C.7.6.3).
    photometric : str
        Photometric Interpretation.
    padding : tuple of 2 int, optional
        Lowest and highest stored value that are padding.
    """

    syntax: str
    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    pixel_representation: int
    photometric: str
    padding: tuple[int, int] | None

    @property
    def frame_bytes(self) -> int:
        """Size of one uncompressed frame, bytes."""
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def is_compressed(self) -> bool:
        """Whether frames are encapsulated."""
        return bool(UID(self.syntax).is_compressed)

    @classmethod
    def of(cls, header: Dataset) -> Encoding:
        """Encoding that a header states.

        Raises
        ------
        InputError
            If no CT image is stored like this. The message is the reason alone, without the file.
        """
        rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
        if not (0 < rows <= MAX_SIDE and 0 < columns <= MAX_SIDE):
            raise InputError(f"impossible size of {rows}×{columns} pixels")
        frames = int(header.get("NumberOfFrames") or 1)
        if not 0 < frames <= MAX_FRAMES:
            raise InputError(f"impossible number of {frames} frames")
        allocated, representation = int(header.BitsAllocated), int(header.get("PixelRepresentation") or 0)
        stored = int(header.get("BitsStored") or allocated)
        high_bit = header.get("HighBit")
        high = stored - 1 if high_bit is None else int(high_bit)
        if allocated not in (8, 16, 32) or not 0 < stored <= high + 1 <= allocated or representation not in (0, 1):
            raise InputError(f"impossible pixels of {stored} bits in {allocated}")
        if high != stored - 1:  # PS3.5 8.1.1; programs read such files differently
            raise InputError(f"values that are not in the low bits (Bits Stored {stored}, High Bit {high})")
        syntax, photometric = header.file_meta.TransferSyntaxUID, header.get("PhotometricInterpretation")
        return cls(
            str(syntax), rows, columns, frames, allocated, stored, high, representation,
            str(photometric or "MONOCHROME2"), padding_range(header),
        )  # fmt: skip

    @property
    def attributes(self) -> dict[str, int | str]:
        """Attributes of the Image Pixel module, by keyword."""
        return {
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": self.photometric,
            "Rows": self.rows,
            "Columns": self.columns,
            "BitsAllocated": self.bits_allocated,
            "BitsStored": self.bits_stored,
            "HighBit": self.high_bit,
            "PixelRepresentation": self.pixel_representation,
        }

    def image(self, pixel_data: bytes) -> Dataset:
        """Data set with the attributes that pydicom needs to decode a single frame."""
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = UID(self.syntax)
        for keyword, value in self.attributes.items():
            setattr(image, keyword, value)
        image.NumberOfFrames, image.PixelData = 1, pixel_data
        return image


@dataclass(frozen=True)
class PixelDataLocation:
    """Where the Pixel Data element lies in a file.

    Parameters
    ----------
    tag_offset, value_offset : int
        Positions of the tag and of the value, bytes.
    length : int
        Length that the element states, bytes.
    available : int
        Bytes from the value to the end of the file.
    """

    tag_offset: int
    value_offset: int
    length: int
    available: int
