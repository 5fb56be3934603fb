"""Write a derived DICOM series: one new image for each source image, all of them or none.

The attributes are set in `ldct_denoise.io.derived.attributes`. ``docs/dicom.md`` gives the reasons and the
clauses of the standard.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian

import ldct_denoise
from ldct_denoise.context_slices import contributing_slices
from ldct_denoise.errors import InputError, LdctDenoiseError, ModelError, OutputError
from ldct_denoise.io.derived.attributes import (
    Derivation,
    assign_uids,
    series_number,
    set_derivation_attributes,
    set_lossy_compression,
    set_source_images,
)
from ldct_denoise.io.derived.compress import compress_pixels, transfer_syntax
from ldct_denoise.io.derived.deidentify import public_uid, remove_identity
from ldct_denoise.io.derived.enhanced import (
    FrameStack,
    classic_header,
    is_enhanced,
    one_frame,
    set_frame_attributes,
)
from ldct_denoise.io.derived.pixel_values import (
    PixelFormat,
    merge_unused_bits,
    native_cells,
    set_pixel_statistics,
    sign_extended,
)
from ldct_denoise.io.derived.transcode import explicit_little_endian, finalize
from ldct_denoise.io.dicom.uids import IMPLEMENTATION_CLASS_UID
from ldct_denoise.io.dicom.values import several
from ldct_denoise.io.staging import StagedFolder

if TYPE_CHECKING:
    from ldct_denoise.io.dicom.series import Series


#: Creation time of de-identified images: the profile leaves no true date in.
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


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
    private_tags : {"keep", "remove"}
        What becomes of private attributes.
    keep_manufacturer : bool
        Leave the scanner in General Equipment, for sites whose viewers select by Manufacturer; we are then
        the contributing equipment.
    series_number : int, optional
        Instead of source's × 100 + 1.
    created : datetime, optional
        Time of creation; now without.
    convert_enhanced : bool
        Take multi-frame images apart into classic CT images; else Enhanced CT stays Enhanced. (Legacy
        Converted Enhanced CT always becomes classic.)
    deidentify : bool
        Take the patient out (PS3.15 E.2, see :mod:`ldct_denoise.io.derived.deidentify`); drops private attributes.

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
        private_tags: Literal["keep", "remove"] = "keep",
        keep_manufacturer: bool = False,
        series_number: int | None = None,
        created: datetime | None = None,
        convert_enhanced: bool = False,
        deidentify: bool = False,
    ) -> None:
        transfer_syntax(compress)
        self._compress = compress
        self._series = series
        self._derivation = derivation
        self._convert_enhanced = convert_enhanced
        self._keep_private = private_tags == "keep"
        self._keep_scanner = keep_manufacturer
        self._number = series_number
        self._deidentify = deidentify
        self._created = created or (NO_TIME if deidentify else datetime.now().astimezone())
        self._written: set[int] = set()
        self._stacks: dict[Path, FrameStack] = {}
        inputs = (Path(slice_.path) for slice_ in series.slices)
        self._folder = StagedFolder(output, overwrite=overwrite, inputs=inputs)

    def __enter__(self) -> DerivedWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._require_all()
                for number, (path, stack) in enumerate(self._stacks.items(), start=1):
                    with _naming(path):
                        self._write_stack(path, stack, number)
                self._folder.publish()
        finally:
            self._folder.discard()

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
            If the source image cannot be derived from, or its pixels not compressed without loss.
        OutputError
            If the file cannot be written.
        """
        with _naming(self._series.slices[index].path):
            self._write(index, hu)
        self._written.add(index)

    def _write(self, index: int, hu: NDArray[np.floating]) -> None:
        source = self._series.slices[index]
        path = Path(source.path)
        header = self._stacks[path].header if path in self._stacks else self._header(index)
        _check(hu, self._series.geometry.shape[1:], path)
        if "LOCALIZER" in several(header.get("ImageType")):
            raise InputError(f"{path}: is a localizer, not an axial image; leave it out")
        cells = self._cells(index, header, hu)
        if source.frame is not None and not self._convert_enhanced and is_enhanced(header):
            self._stack(path, header, cells).put(source.frame, cells)
        else:
            self._write_image(index, header, cells)

    def _header(self, index: int) -> Dataset:
        """The source's header, without the patient on request."""
        header = self._series.header(index)
        if not self._deidentify:
            return header
        public = explicit_little_endian(header, keep_private=False)
        public.file_meta = header.file_meta
        remove_identity(public)
        return public

    def _require_all(self) -> None:
        missing = len(self._series) - len(self._written)
        if missing:
            raise OutputError(
                f"{self._folder.target}: {missing} of {len(self._series)} slices were not written; nothing is kept"
            )

    def _cells(self, index: int, header: Dataset, hu: NDArray[np.floating]) -> NDArray[np.integer]:
        """The new pixel cells: the source's where nothing changed, else the nearest stored value."""
        source = self._series.slices[index]
        form = PixelFormat.of(header, source.slope, source.intercept)
        cells = native_cells(Path(source.path), header, form) if source.frame is None else None
        if cells is None:
            cells = self._series.read_stored(index).astype(form.dtype)
        unchanged = self._series.padding(index) | (hu == self._series.read_hu(index))
        stored = merge_unused_bits(form.to_stored(hu), cells, form)
        cells = np.where(unchanged, cells, stored)
        if self._compress not in ("jpegls", "j2k"):
            return cells
        values = sign_extended(cells, form)
        if not form.signed and not np.array_equal(values, cells):
            raise InputError(
                f"{source.path}: an overlay lies in the unused bits, which {self._compress} cannot keep;"
                " choose rle or no compression"
            )
        return values

    def _write_image(self, index: int, header: Dataset, cells: NDArray[np.integer]) -> None:
        """One classic CT image."""
        source = self._series.slices[index]
        own = header if source.frame is None else one_frame(header, source.frame)
        image = explicit_little_endian(own, keep_private=self._keep_private)
        if source.frame is not None:
            image = classic_header(image, source.frame)
        sources = self._sources(index)
        self._describe(image, "+".join(uid if frame is None else f"{uid}/{frame}" for uid, frame in sources))
        kind = several(image.get("ImageType"))
        image.ImageType = ["DERIVED", "SECONDARY", *(kind[2:] or ["AXIAL"])]
        set_source_images(image, header.SOPClassUID, sources)
        if "RescaleType" not in image:
            image.RescaleType = "HU"
        set_lossy_compression(
            image, header.file_meta.TransferSyntaxUID, _compression_ratio(Path(source.path), cells)
        )
        self._save(image, cells, f"{index + 1:04d}.dcm")

    def _sources(self, index: int) -> list[tuple[str, int | None]]:
        """The images that a slice comes of, each with its frame: its own, then those beside it."""
        places = contributing_slices(self._series.geometry, index, self._derivation.neighbours)
        found = (self._series.slices[place] for place in places)
        return [(public_uid(one.sop_uid) if self._deidentify else one.sop_uid, one.frame) for one in found]

    def _stack(self, path: Path, header: Dataset, cells: NDArray[np.integer]) -> FrameStack:
        """The frames of a multi-frame file, opened at its first frame."""
        if path not in self._stacks:
            frames = [s.frame for s in self._series.slices if Path(s.path) == path and s.frame is not None]
            scratch = self._folder.path / f".frames-{len(self._stacks)}"
            with self._on_disk():
                self._stacks[path] = FrameStack(header, frames, scratch, cells)
        return self._stacks[path]

    def _write_stack(self, path: Path, stack: FrameStack, number: int) -> None:
        """One Enhanced CT image with all the frames that derive from one source file."""
        image = explicit_little_endian(stack.header, keep_private=self._keep_private)
        self._describe(image, stack.identity)
        set_frame_attributes(image, stack.header, stack.frames, self._derivation, self._frame_sources(path))
        self._save(image, stack.cells, f"{number:04d}.dcm")
        stack.close()

    def _frame_sources(self, path: Path) -> dict[int, list[int]]:
        """For each frame of a multi-frame file the frames of that file that it comes of, its own first."""
        here = {
            index: slice_.frame for index, slice_ in enumerate(self._series.slices) if Path(slice_.path) == path
        }
        reach, geometry = self._derivation.neighbours, self._series.geometry
        return {
            frame: [
                of for place in contributing_slices(geometry, index, reach) if (of := here.get(place)) is not None
            ]
            for index, frame in here.items()
            if frame is not None
        }

    def _describe(self, image: Dataset, source_identity: str) -> None:
        set_derivation_attributes(image, self._derivation, self._created, keep_manufacturer=self._keep_scanner)
        number = series_number(image.get("SeriesNumber")) if self._number is None else self._number
        series_identity = _series_identity(self._series, self._convert_enhanced, self._deidentify)
        assign_uids(image, self._derivation, source_identity, series_identity, number)

    def _save(self, image: Dataset, cells: NDArray[np.integer], name: str) -> None:
        set_pixel_statistics(image, cells)
        image.file_meta = _file_meta()
        if self._compress is not None:
            compress_pixels(image, cells, self._compress)
        else:
            image.PixelData = cells.tobytes() + b"\0" * (cells.nbytes % 2)
            image["PixelData"].VR = "OW"
        finalize(image)
        with self._on_disk(), (self._folder.path / name).open("wb") as file:
            image.save_as(file, enforce_file_format=True)

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """What the operating system refuses concerns the output; other errors, pydicom's too, the source."""
        try:
            yield
        except OSError as error:
            reason = _system_reason(error)
            if reason is None:
                raise
            raise OutputError(
                f"{self._folder.target}: cannot be written ({reason}); make room or choose another place"
            ) from None


def holds_derived(
    output: Path,
    series: Series,
    derivation: Derivation,
    *,
    compress: str | None = None,
    convert_enhanced: bool = False,
    deidentify: bool = False,
) -> bool:
    """Whether ``output`` holds the whole series that :class:`DerivedWriter` would write with these settings.

    The deterministic Series Instance UID tells source, model and settings; only headers are read. Differences of
    what is kept of the header (private attributes, equipment) are not told.
    """
    uid = derivation.uid(_series_identity(series, convert_enhanced, deidentify))
    syntax = transfer_syntax(compress) or ExplicitVRLittleEndian
    files = sorted(output.glob("*.dcm")) if output.is_dir() else []
    if not files or len(files) != _file_count(series, convert_enhanced):
        return False
    try:
        headers = [dcmread(file, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True) for file in files]
    except (OSError, InvalidDicomError):
        return False
    return all(h.get("SeriesInstanceUID") == uid and h.file_meta.TransferSyntaxUID == syntax for h in headers)


def _series_identity(series: Series, convert_enhanced: bool, deidentify: bool) -> str:
    """What the new Series Instance UID is made from, besides the derivation."""
    uid = public_uid(series.uid) if deidentify else series.uid
    return f"{uid}/classic" if convert_enhanced else uid


def _file_count(series: Series, convert_enhanced: bool) -> int:
    """Files of the derived series: one for each slice, or for each multi-frame file that stays one."""
    firsts = {slice_.path: index for index, slice_ in reversed(list(enumerate(series.slices)))}
    if convert_enhanced or all(slice_.frame is None for slice_ in series.slices):
        return len(series)
    stays = {path for path, index in firsts.items() if is_enhanced(series.header(index))}
    return len(stays) + sum(slice_.path not in stays for slice_ in series.slices)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A broken header can fail anywhere inside pydicom; the error names the file. No remarks of pydicom's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LdctDenoiseError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: cannot be derived from ({reason}); leave it out") from error


def _system_reason(error: BaseException | None) -> str | None:
    """What the operating system said, or None; pydicom wraps its error in one of its kind that lost the number."""
    while isinstance(error, OSError):
        if error.strerror:
            return error.strerror
        error = error.__cause__
    return None


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


def _compression_ratio(path: Path, cells: NDArray[np.integer]) -> float:
    """How much smaller than its pixels the source file is."""
    return cells.nbytes / path.stat().st_size if path.is_file() else 1.0
