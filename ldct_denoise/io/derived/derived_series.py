"""Write a derived DICOM series: one new image for each source image, all or none.

The attributes are set in `ldct_denoise.io.derived.attributes`. ``docs/reference/derived-series.md`` gives
the reasons and the clauses of the standard.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ldct_denoise.context_slices import contributing_slices
from ldct_denoise.errors import InputError, LdctDenoiseError, ModelError, OutputError
from ldct_denoise.io.derived.attributes import (
    assign_uids,
    set_derivation_attributes,
    set_lossy_compression,
    set_source_images,
)
from ldct_denoise.io.derived.compress import compress_pixels, transfer_syntax
from ldct_denoise.io.derived.deidentify import public_uid, remove_identity
from ldct_denoise.io.derived.derivation import Derivation
from ldct_denoise.io.derived.enhanced import (
    FrameStack,
    classic_header,
    is_enhanced,
    one_frame,
    set_frame_attributes,
)
from ldct_denoise.io.derived.existing import series_identity
from ldct_denoise.io.derived.pixel_values import (
    PixelFormat,
    merge_unused_bits,
    native_cells,
    set_pixel_statistics,
    sign_extended,
)
from ldct_denoise.io.derived.transcode import explicit_little_endian, finalize, new_file_meta
from ldct_denoise.io.dicom.values import as_list
from ldct_denoise.io.staging import StagedFolder
from ldct_denoise.io.write_settings import DEFAULT_WRITE_SETTINGS, WriteSettings

if TYPE_CHECKING:
    from ldct_denoise.io.dicom.series import Series, SliceRef


#: Creation time of de-identified images: the profile forbids real dates.
NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)


class DerivedWriter:
    """Writes a derived DICOM series; a context manager (see :class:`ldct_denoise.io.writer.SeriesWriter`).

    All files appear in ``location`` when the block ends without an error and every slice was written; otherwise
    none does. The same source, derivation and settings give the same UIDs.

    Parameters
    ----------
    series : Series
        The source images.
    location : Path
        Folder of the new series.
    derivation : Derivation
        How the new pixels came about.
    settings : WriteSettings

    Raises
    ------
    OutputError
        If the folder cannot be written or must not be replaced.
    ConfigError
        If a setting is impossible.
    """

    def __init__(
        self,
        series: Series,
        location: Path,
        derivation: Derivation,
        settings: WriteSettings = DEFAULT_WRITE_SETTINGS,
    ) -> None:
        transfer_syntax(settings.compress)
        self.location = location
        self._series, self._settings = series, settings
        self._derivation = replace(derivation, revision=settings.revision)
        self._created = settings.created or (NO_TIME if settings.deidentify else datetime.now().astimezone())
        self._written: set[int] = set()
        self._stacks: dict[Path, FrameStack] = {}
        inputs = (Path(slice_.path) for slice_ in series.slices)
        self._folder = StagedFolder(location, overwrite=settings.overwrite, inputs=inputs)

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

    def write(self, index: int, hu: NDArray[np.floating]) -> Path | None:
        """Write the image that derives from slice ``index``; the order is free.

        Parameters
        ----------
        index : int
            Index of the slice in the series.
        hu : ndarray, shape (rows, columns)
            Computed HU. Stored values stay unchanged in padding and where ``hu`` equals the source; elsewhere
            ``hu`` is rounded to the nearest stored value and clipped to the range of the stored bits.

        Returns
        -------
        Path or None
            The image, complete but not yet in ``location``; None for a frame of a multi-frame image.

        Raises
        ------
        ModelError
            If ``hu`` has another shape, or values that are not finite.
        InputError
            If no image can be derived from the source image, or its pixels cannot be compressed without loss.
        OutputError
            If the file cannot be written.
        """
        with _naming(self._series.slices[index].path):
            image = self._write(index, hu)
        self._written.add(index)
        return image

    def _write(self, index: int, hu: NDArray[np.floating]) -> Path | None:
        source = self._series.slices[index]
        path = Path(source.path)
        header = self._stacks[path].header if path in self._stacks else self._header(index)
        _check(hu, self._series.geometry.shape[1:], path)
        if "LOCALIZER" in as_list(header.get("ImageType")):
            raise InputError(f"{path}: is a localizer, not an axial image; leave it out")
        cells = self._cells(index, header, hu)
        if source.frame is not None and not self._settings.convert_enhanced and is_enhanced(header):
            self._stack(path, header, cells).put(source.frame, cells)
            return None
        return self._write_image(index, header, cells)

    def _header(self, index: int) -> Dataset:
        """The source's header, de-identified on request."""
        header = self._series.header(index)
        if not self._settings.deidentify:
            return header
        public = explicit_little_endian(header, keep_private=False)
        public.file_meta = header.file_meta
        remove_identity(public)
        return public

    def _require_all(self) -> None:
        missing = len(self._series) - len(self._written)
        if missing:
            raise OutputError(
                f"{self._folder.target}: {missing} of {len(self._series)} slices were not written; no file is kept"
            )

    def _cells(self, index: int, header: Dataset, hu: NDArray[np.floating]) -> NDArray[np.integer]:
        """New pixel cells: the source's where nothing changed, elsewhere the nearest stored value."""
        source = self._series.slices[index]
        form = PixelFormat.of(header, source.slope, source.intercept)
        cells = native_cells(Path(source.path), header, form) if source.frame is None else None
        if cells is None:
            cells = self._series.read_stored(index).astype(form.dtype)
        unchanged = self._series.padding(index) | (hu == self._series.read_hu(index))
        stored = merge_unused_bits(form.to_stored(hu), cells, form)
        cells = np.where(unchanged, cells, stored)
        if self._settings.compress not in ("jpegls", "j2k"):
            return cells
        values = sign_extended(cells, form)
        if not form.signed and not np.array_equal(values, cells):
            raise InputError(
                f"{source.path}: an overlay lies in the unused bits, which {self._settings.compress} cannot keep;"
                " choose rle or no compression"
            )
        return values

    def _write_image(self, index: int, header: Dataset, cells: NDArray[np.integer]) -> Path:
        """Write one classic CT image."""
        source = self._series.slices[index]
        single = header if source.frame is None else one_frame(header, source.frame)
        image = explicit_little_endian(single, keep_private=self._settings.private_tags == "keep")
        if source.frame is not None:
            image = classic_header(image, source.frame)
        sources = self._sources(index)
        self._describe(image, self._source_identity(index))
        kind = as_list(image.get("ImageType"))
        image.ImageType = ["DERIVED", "SECONDARY", *(kind[2:] or ["AXIAL"])]
        set_source_images(image, header.SOPClassUID, sources)
        if "RescaleType" not in image:
            image.RescaleType = "HU"
        set_lossy_compression(
            image, header.file_meta.TransferSyntaxUID, _compression_ratio(Path(source.path), cells)
        )
        return self._save(image, cells, f"{index + 1:04d}.dcm")

    def _sources(self, index: int) -> list[tuple[str, int | None]]:
        """Source images of a slice as (SOP Instance UID, frame): its own image, then its context slices."""
        return [(self._uid(slice_), slice_.frame) for slice_ in self._contributing(index)]

    def _source_identity(self, index: int) -> str:
        """Identity of the source images of a slice, as input of its UID; different images have different ones."""
        uids = [(self._uid(slice_) + _copy_suffix(slice_), slice_.frame) for slice_ in self._contributing(index)]
        return "+".join(uid if frame is None else f"{uid}/{frame}" for uid, frame in uids)

    def _contributing(self, index: int) -> list[SliceRef]:
        indices = contributing_slices(self._series.geometry, index, self._derivation.context_slices)
        return [self._series.slices[i] for i in indices]

    def _uid(self, source: SliceRef) -> str:
        return public_uid(source.sop_uid) if self._settings.deidentify else source.sop_uid

    def _stack(self, path: Path, header: Dataset, cells: NDArray[np.integer]) -> FrameStack:
        """The frames of a multi-frame file, collected since its first frame was written."""
        if path not in self._stacks:
            frames = [s.frame for s in self._series.slices if Path(s.path) == path and s.frame is not None]
            scratch = self._folder.path / f".frames-{len(self._stacks)}"
            with self._on_disk():
                self._stacks[path] = FrameStack(header, frames, scratch, cells)
        return self._stacks[path]

    def _write_stack(self, path: Path, stack: FrameStack, number: int) -> None:
        """Write one Enhanced CT image with all frames that derive from one source file."""
        image = explicit_little_endian(stack.header, keep_private=self._settings.private_tags == "keep")
        copy = next(_copy_suffix(slice_) for slice_ in self._series.slices if Path(slice_.path) == path)
        self._describe(image, stack.identity + copy)
        set_frame_attributes(image, stack.header, stack.frames, self._derivation, self._frame_sources(path))
        self._save(image, stack.cells, f"{number:04d}.dcm")
        stack.close()

    def _frame_sources(self, path: Path) -> dict[int, list[int]]:
        """For each frame of a multi-frame file, the frames of that file that contribute to it, its own first."""
        here = {
            index: slice_.frame for index, slice_ in enumerate(self._series.slices) if Path(slice_.path) == path
        }
        reach, geometry = self._derivation.context_slices, self._series.geometry
        return {
            frame: [of for i in contributing_slices(geometry, index, reach) if (of := here.get(i)) is not None]
            for index, frame in here.items()
            if frame is not None
        }

    def _describe(self, image: Dataset, source_identity: str) -> None:
        settings, derivation = self._settings, self._derivation
        set_derivation_attributes(image, derivation, self._created, keep_manufacturer=settings.keep_manufacturer)
        assign_uids(
            image,
            derivation,
            source_identity,
            series_identity(self._series, settings),
            number=settings.number,
            suffix=settings.suffix,
        )

    def _save(self, image: Dataset, cells: NDArray[np.integer], name: str) -> Path:
        set_pixel_statistics(image, cells)
        image.file_meta = new_file_meta()
        if self._settings.compress is not None:
            compress_pixels(image, cells, self._settings.compress)
        else:
            image.PixelData = cells.tobytes() + b"\0" * (cells.nbytes % 2)
            image["PixelData"].VR = "OW"
        finalize(image)
        with self._on_disk(), (self._folder.path / name).open("wb") as file:
            image.save_as(file, enforce_file_format=True)
        return self._folder.path / name

    @contextmanager
    def _on_disk(self) -> Iterator[None]:
        """Report errors of the operating system as output errors; others, pydicom's too, concern the source."""
        try:
            yield
        except OSError as error:
            reason = _system_reason(error)
            if reason is None:
                raise
            raise OutputError(
                f"{self._folder.target}: cannot be written ({reason}); free disk space, or choose another folder"
            ) from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in errors: a broken header can fail anywhere inside pydicom. Warnings are suppressed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except LdctDenoiseError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: no image can be derived from it ({reason}); leave it out") from error


def _copy_suffix(source: SliceRef) -> str:
    """Text that separates images with the same SOP Instance UID; empty where the UID is unique."""
    return f"#{source.copy_id}" if source.copy_id else ""


def _system_reason(error: BaseException | None) -> str | None:
    """The operating system's message, or None; pydicom wraps the error in an OSError without a number."""
    while isinstance(error, OSError):
        if error.strerror:
            return error.strerror
        error = error.__cause__
    return None


def _check(hu: NDArray[np.floating], shape: tuple[int, ...], path: Path) -> None:
    if hu.shape != shape:
        raise ModelError(f"{path.name}: computed image is {hu.shape}, the source {shape}")
    if not np.isfinite(hu).all():
        raise ModelError(f"{path.name}: computed image has values that are not finite")


def _compression_ratio(path: Path, cells: NDArray[np.integer]) -> float:
    """Size of the uncompressed pixels relative to the source file."""
    return cells.nbytes / path.stat().st_size if path.is_file() else 1.0
