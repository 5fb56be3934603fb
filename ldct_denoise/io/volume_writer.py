"""Write a volume file slice by slice, in a type and scale that hold its values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ModelError, OutputError
from ldct_denoise.io.volume_files import VolumeFile, is_volume_file, open_volume_file
from ldct_denoise.io.volumes.header import DENOISED_MARK, SCANNER_CODES, VolumeHeader, last_line
from ldct_denoise.io.volumes.itk import ITK_SUFFIXES, save_itk
from ldct_denoise.io.volumes.nifti import NIFTI_SUFFIXES, is_nifti, save_nifti
from ldct_denoise.io.volumes.stored_type import StoredType, choose_type, preferred_type
from ldct_denoise.io.volumes.voxels import VoxelLayout
from ldct_denoise.output import atomic_write, check_writable
from ldct_denoise.volume import Geometry, Volume

#: ``.mhd`` and ``.nhdr`` are read but not written: they are two files, which cannot appear at once.
WRITTEN_SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha")
#: Length of NIfTI's description field, without the final zero byte.
MAX_MARK_LENGTH = 79
#: Largest deviation of a slice from an even spacing in a volume file, as a fraction of the spacing.
MAX_UNEVENNESS = 0.1


class VolumeWriter:
    """Writes one volume file slice by slice; a context manager (see :class:`ldct_denoise.io.writer.SeriesWriter`).

    The file appears when the block ends without an error and every slice was written; otherwise nothing appears.
    The suffix of ``location`` selects the format.

    Parameters
    ----------
    location : Path
        ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``.
    geometry : Geometry
    like : Path, optional
        The input file, which is never overwritten. Its type and scale are kept where they hold every value to
        within half a HU; else wider integers of the same scale, else float32. Voxels that have the input's HU keep
        its stored values. The coordinate codes of a NIfTI input are kept.
    labels : bool
        Whether the values are labels rather than HU, which a NIfTI file then states.
    denoised_by : str, optional
        Name of the model, stored in the file so that it is not denoised again.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputError
        If the file is the input, exists and ``overwrite`` is not given, or cannot be written; if its suffix is not
        one that is written; or if the slices are unevenly spaced, which these formats cannot store.
    """

    def __init__(
        self,
        location: Path,
        geometry: Geometry,
        *,
        like: Path | None = None,
        labels: bool = False,
        denoised_by: str | None = None,
        overwrite: bool = False,
    ) -> None:
        _check_location(location, like, overwrite)
        if geometry.unevenness_mm > MAX_UNEVENNESS * geometry.slice_spacing_mm:
            raise OutputError(
                f"{location}: slices deviate up to {geometry.unevenness_mm:.1f} mm from an even spacing, which a "
                "volume file cannot store; give a series without gaps, or write DICOM"
            )
        mark = "" if denoised_by is None else f"{DENOISED_MARK}: {denoised_by}"
        self.location = location
        self._source = _open_input(like)
        self._geometry, self._labels = geometry, labels
        self._mark = mark.encode("ascii", "replace")[:MAX_MARK_LENGTH].decode()
        stored = self._source.header.stored_type if self._source else None
        self._preferred = preferred_type(stored, can_scale=is_nifti(location))
        self._slices: dict[int, NDArray[np.float32]] = {}
        self._low, self._high, self._rounding_error = np.inf, -np.inf, 0.0

    def __enter__(self) -> VolumeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._save()

    def write(self, index: int, hu: NDArray[np.floating[Any]]) -> None:  # no file is complete before the end
        """Write slice ``index``; the order is free.

        Parameters
        ----------
        index : int
            Index of the slice.
        hu : ndarray, shape (rows, columns)
            Values of the slice.

        Raises
        ------
        ModelError
            If ``hu`` has another shape than the slices of the geometry.
        """
        shape = self._geometry.shape[1:]
        if hu.shape != shape:
            raise ModelError(f"{self.location}: computed image is {hu.shape}, a slice {shape}")
        self._slices[index] = np.array(hu, dtype=np.float32)
        finite = hu[np.isfinite(hu)]
        self._low = min(self._low, float(finite.min(initial=np.inf)))
        self._high = max(self._high, float(finite.max(initial=-np.inf)))
        self._rounding_error = max(self._rounding_error, self._preferred.rounding_error_hu(hu))

    def _save(self) -> None:
        total = self._geometry.shape[0]
        if len(self._slices) < total:
            missing = f"{total - len(self._slices)} of {total} slices were not written"
            raise OutputError(f"{self.location}: {missing}; no file is kept")
        stored = choose_type(self._preferred, self._low, self._high, self._rounding_error)
        voxels = self._stored_voxels(stored)
        header = VolumeHeader(
            affine=self._geometry.affine,
            layout=VoxelLayout(self.location, self._geometry.shape, voxels.dtype),
            stored_type=stored,
            is_labels=self._labels,
            mark=self._mark,
            nifti_codes=self._source.header.nifti_codes if self._source else SCANNER_CODES,
        )
        save = save_nifti if is_nifti(self.location) else save_itk
        try:
            atomic_write(self.location, lambda part: save(part, voxels, header))
        except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
            reason = getattr(error, "strerror", None) or last_line(error)
            raise OutputError(
                f"{self.location}: cannot be written ({reason}); free disk space, or choose another location"
            ) from None

    def _stored_voxels(self, stored: StoredType) -> NDArray[Any]:
        """Stored values of all slices; each slice in HU is released once it is converted."""
        voxels = np.empty(self._geometry.shape, dtype=stored.dtype)
        source = self._source if self._source and _keeps_scale(self._source, stored) else None
        for index in sorted(self._slices):
            hu = self._slices.pop(index)
            voxels[index] = stored.from_hu(hu)
            if source is not None and not stored.is_exact:
                values = source.read_stored(index)
                unchanged = source.header.stored_type.to_hu(values) == hu
                voxels[index][unchanged] = values[unchanged]
        return voxels


def _open_input(like: Path | None) -> VolumeFile | None:
    return open_volume_file(like) if like is not None and like.is_file() and is_volume_file(like) else None


def _keeps_scale(source: VolumeFile, stored: StoredType) -> bool:
    """Whether stored values of the source can be copied into ``stored``."""
    given = source.header.stored_type
    same_scale = (given.slope, given.intercept) == (stored.slope, stored.intercept)
    return same_scale and (given.dtype == stored.dtype or (given.is_integer and stored.is_integer))


def write_volume(
    path: Path,
    slices: Volume | Iterable[NDArray[np.floating[Any]]],
    geometry: Geometry,
    *,
    like: Path | None = None,
    labels: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a volume, whole or not at all.

    Parameters
    ----------
    path : Path
        ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``; the suffix selects the format.
    slices : Volume or iterable of ndarray, shape (rows, columns)
        HU, slice by slice.
    geometry : Geometry
    like : Path, optional
        File whose voxel type is kept, as in :class:`VolumeWriter`.
    labels : bool
        Whether the values are labels rather than HU.
    overwrite : bool
        Replace a file that exists.

    Raises
    ------
    OutputError
        As :class:`VolumeWriter`.
    """
    images = slices.hu if isinstance(slices, Volume) else slices
    with VolumeWriter(path, geometry, like=like, labels=labels, overwrite=overwrite) as writer:
        for index, hu in enumerate(images):
            writer.write(index, hu)


def _check_location(location: Path, like: Path | None, overwrite: bool) -> None:
    """Refuse a file name that must not be written, before anything is computed."""
    name = str(location).lower()
    if not name.endswith(WRITTEN_SUFFIXES):
        reason = "is written as two files" if name.endswith(ITK_SUFFIXES) else "no volume format"
        raise OutputError(f"{location}: {reason}; name it {', '.join(reversed(WRITTEN_SUFFIXES))}")
    if like is not None and location.exists() and like.exists() and location.samefile(like):
        raise OutputError(f"{location}: is the input, which is never changed; give another name")
    check_writable(location, overwrite)
