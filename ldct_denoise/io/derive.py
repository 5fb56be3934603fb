"""Write a derived DICOM series: one new image for each source image, all of them or none.

What the images say about themselves is in :mod:`ldct_denoise.io.describe`; the reasons and the clauses of the
standard are in ``docs/dicom.md``.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

import ldct_denoise
from ldct_denoise.errors import InputError, ModelError, OutputError
from ldct_denoise.io.compress import compress_pixels, transfer_syntax
from ldct_denoise.io.describe import (
    Derivation,
    describe,
    note_lossy,
    refer_to_source,
    series_description,
    series_number,
)
from ldct_denoise.io.staging import StagedFolder
from ldct_denoise.io.stored import PixelFormat, merge_unused_bits, sign_extended
from ldct_denoise.io.transcode import explicit_little_endian, seal
from ldct_denoise.io.uids import IMPLEMENTATION_CLASS_UID, derived_uid

if TYPE_CHECKING:
    from ldct_denoise.io.dicom import Series, SliceRef

__all__ = ["Derivation", "DerivedWriter"]


class DerivedWriter:
    """Writes the derived series; a context manager.

    All files appear under ``output`` when the block ends without an error and every slice was written; else
    none does. The same source, derivation and settings give the same UIDs.

    Parameters
    ----------
    series : Series
        The source images.
    output : Path
        Folder of the new series.
    derivation : Derivation
        How the new pixels came about.
    overwrite : bool
        Whether a folder of DICOM files may be replaced.
    compress : {"jpegls", "j2k", "rle"}, optional
        Lossless compression; Explicit VR Little Endian without.
    private : {"keep", "drop"}
        What becomes of private attributes.
    keep_scanner_equipment : bool
        Leave the scanner in General Equipment, for sites whose viewers select by Manufacturer; we are then
        the contributing equipment.
    series_number : int, optional
        Instead of source's × 100 + 1.
    created : datetime, optional
        Time of creation; now without.

    Raises
    ------
    OutputError, ConfigError
        If the place cannot be used, or a setting is impossible.
    """

    def __init__(
        self,
        series: Series,
        output: Path,
        derivation: Derivation,
        *,
        overwrite: bool = False,
        compress: str | None = None,
        private: Literal["keep", "drop"] = "keep",
        keep_scanner_equipment: bool = False,
        series_number: int | None = None,
        created: datetime | None = None,
    ) -> None:
        self._syntax = transfer_syntax(compress) or ExplicitVRLittleEndian
        self._compress = compress
        self._series = series
        self._derivation = derivation
        self._keep_private = private == "keep"
        self._keep_scanner = keep_scanner_equipment
        self._number = series_number
        self._created = created or datetime.now().astimezone()
        self._written: set[int] = set()
        inputs = (Path(slice_.path) for slice_ in series.slices)
        self._folder = StagedFolder(output, overwrite=overwrite, inputs=inputs)

    def __enter__(self) -> DerivedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._folder.discard()
            return
        missing = len(self._series) - len(self._written)
        if missing:
            self._folder.discard()
            raise OutputError(
                f"{self._folder.target}: {missing} of {len(self._series)} slices were not written; nothing is kept"
            )
        self._folder.publish()

    def write(self, index: int, hu: NDArray[np.floating]) -> None:
        """Write the image that derives from slice ``index``; in any order.

        Parameters
        ----------
        index : int
            Which slice of the series.
        hu : ndarray, shape (rows, columns)
            Computed HU. Where they equal the source's, and in padding, the stored values stay as they are;
            elsewhere they are rounded to the nearest stored value and clipped to what the bits hold.

        Raises
        ------
        ModelError
            If ``hu`` has another shape, or values that are no numbers.
        InputError
            If the source image cannot be derived from.
        """
        source = self._series.slices[index]
        header = self._series.header(index)
        _check(hu, self._series.geometry.shape[1:], Path(source.path))
        if "LOCALIZER" in (header.get("ImageType") or []):
            raise InputError(f"{source.path}: is a localizer, not an axial image; leave it out")
        cells = self._cells(index, header, hu)
        image = self._image(header, _instance_uid(source, header))
        _set_pixel_statistics(image, cells)
        note_lossy(image, header.file_meta.TransferSyntaxUID, _compression_ratio(Path(source.path), cells))
        self._set_pixels(image, cells)
        seal(image)
        image.save_as(self._folder.path / f"{index + 1:04d}.dcm", enforce_file_format=True)
        self._written.add(index)

    def _cells(self, index: int, header: Dataset, hu: NDArray[np.floating]) -> NDArray[np.integer]:
        """The new pixel cells: the source's where nothing changed, else the nearest stored value."""
        source = self._series.slices[index]
        form = PixelFormat.of(header, source.slope, source.intercept)
        cells = _native_cells(Path(source.path), header, form) if source.frame is None else None
        if cells is None:
            cells = self._series.read_stored(index).astype(form.dtype)
        unchanged = self._series.padding(index) | (hu == self._series.read_hu(index))
        stored = merge_unused_bits(form.to_stored(hu), cells, form)
        cells = np.where(unchanged, cells, stored)
        if self._compress in ("jpegls", "j2k"):
            values = sign_extended(cells, form)
            if not form.signed and not np.array_equal(values, cells):
                raise OutputError(
                    f"{source.path}: an overlay lies in the unused bits, which {self._compress} cannot keep;"
                    " choose rle or no compression"
                )
            return values
        return cells

    def _image(self, header: Dataset, source_uid: str) -> Dataset:
        """The derived image without its pixels."""
        image = explicit_little_endian(header, keep_private=self._keep_private)
        describe(image, self._derivation, self._created, keep_scanner_equipment=self._keep_scanner)
        kind = list(header.get("ImageType") or [])
        image.ImageType = ["DERIVED", "SECONDARY", *(kind[2:] or ["AXIAL"])]
        if not image.get("SOPClassUID"):
            _repair(image)
        refer_to_source(image, source_uid)
        image.SOPInstanceUID = self._derivation.uid(source_uid)
        image.SeriesInstanceUID = self._derivation.uid(self._series.uid)
        image.SeriesNumber = self._series_number(header)
        image.SeriesDescription = series_description(
            str(header.get("SeriesDescription") or ""), self._derivation.label
        )
        if "RescaleType" not in image:
            image.RescaleType = "HU"
        image.file_meta = _file_meta()
        return image

    def _series_number(self, header: Dataset) -> int:
        return series_number(header.get("SeriesNumber")) if self._number is None else self._number

    def _set_pixels(self, image: Dataset, cells: NDArray[np.integer]) -> None:
        if self._compress is not None:
            compress_pixels(image, cells, self._compress)
            return
        image.PixelData = cells.tobytes() + b"\0" * (cells.nbytes % 2)
        image["PixelData"].VR = "OW"


def _instance_uid(source: SliceRef, header: Dataset) -> str:
    """The source image's UID; from File Meta Information where the data set's is empty."""
    return str(source.sop_uid or header.file_meta.get("MediaStorageSOPInstanceUID") or "")


def _repair(image: Dataset) -> None:
    """Fill in what an anonymiser emptied although no image is valid without it."""
    image.SOPClassUID = CTImageStorage
    if not image.get("StudyInstanceUID"):
        study = (image.get(keyword) for keyword in ("PatientID", "StudyDate", "StudyTime", "FrameOfReferenceUID"))
        image.StudyInstanceUID = derived_uid("study", *study)
    if "Laterality" not in image:
        image.Laterality = ""


def _file_meta() -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = f"LDCTDENOISE{ldct_denoise.__version__}"[:16]
    return meta


def _check(hu: NDArray[np.floating], shape: tuple[int, ...], path: Path) -> None:
    if hu.shape != shape:
        raise ModelError(f"{path.name}: computed image is {hu.shape}, the source {shape}")
    if not np.isfinite(hu).all():
        raise ModelError(f"{path.name}: computed image has values that are no numbers")


def _native_cells(path: Path, header: Dataset, form: PixelFormat) -> NDArray[np.integer] | None:
    """The cells as they are in an uncompressed file, with the bits above the stored ones; else None."""
    syntax = header.file_meta.TransferSyntaxUID
    plain = not syntax.is_compressed and header.HighBit == form.bits_stored - 1 and path.is_file()
    if form.bits_stored == form.bits_allocated or not plain:
        return None
    values = dcmread(path, force=True, specific_tags=["PixelData"]).PixelData
    shape = (int(header.Rows), int(header.Columns))
    dtype = form.dtype if syntax.is_little_endian else form.dtype.newbyteorder(">")
    return np.frombuffer(values, dtype, shape[0] * shape[1]).reshape(shape).astype(form.dtype)


def _set_pixel_statistics(image: Dataset, cells: NDArray[np.integer]) -> None:
    """Smallest and largest value of the image proper, where the source told them.

    Padding lies outside the range between them (PS3.3 C.7.5.1.1.2 Note 2).
    """
    form = PixelFormat.of(image, 1.0, 0.0)
    values = sign_extended(cells, form)
    if form.padding is not None:
        first, last = form.padding
        native = values[(values < first) | (values > last)]
        values = native if native.size else values
    value_type = "SS" if form.signed else "US"
    for keyword, value in (
        ("SmallestImagePixelValue", values.min()),
        ("LargestImagePixelValue", values.max()),
    ):
        if keyword in image:
            image.add_new(keyword, value_type, int(value))


def _compression_ratio(path: Path, cells: NDArray[np.integer]) -> float:
    """How much smaller than its pixels the source file is."""
    return cells.nbytes / path.stat().st_size if path.is_file() else 1.0
