"""Write a volume file slice by slice: NIfTI through nibabel, NRRD and MHA through SimpleITK."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.errors import ModelError, OutputError
from ldct_denoise.io.volume_files import (
    DENOISED_MARK,
    ITK_SUFFIXES,
    MARK_KEY,
    NIFTI_SUFFIXES,
    RAS_TO_LPS,
    last_line,
    open_nifti,
)
from ldct_denoise.output import atomic_write, check_writable
from ldct_denoise.volume import Geometry, Volume

#: ``.mhd`` is read but not written: it is two files, which cannot appear at once.
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
        The input file. Where it holds unscaled integers, its voxel type is kept: values are rounded and clipped to
        it. The input itself is never overwritten.
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
        self._geometry, self._labels = geometry, labels
        self._mark = mark.encode("ascii", "replace")[:MAX_MARK_LENGTH].decode()
        self._integers = _integer_type(like)
        self._voxels = np.empty(geometry.shape, dtype=self._integers or np.float32)
        self._missing = set(range(len(self._voxels)))

    def __enter__(self) -> VolumeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._save()

    def write(self, index: int, hu: NDArray[np.floating[Any]]) -> None:
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
        if hu.shape != self._voxels.shape[1:]:
            raise ModelError(f"{self.location}: computed image is {hu.shape}, a slice {self._voxels.shape[1:]}")
        self._voxels[index] = hu if self._integers is None else _rounded(hu, self._integers)
        self._missing.discard(index)

    def _save(self) -> None:
        if self._missing:
            missing = f"{len(self._missing)} of {len(self._voxels)} slices were not written"
            raise OutputError(f"{self.location}: {missing}; no file is kept")
        is_nifti = self.location.name.lower().endswith(NIFTI_SUFFIXES)
        save = partial(_save_nifti, labels=self._labels) if is_nifti else partial(_save_itk)
        try:
            atomic_write(self.location, lambda part: save(part, self._voxels, self._geometry, self._mark))
        except (OSError, RuntimeError) as error:  # SimpleITK raises RuntimeError
            reason = getattr(error, "strerror", None) or last_line(error)
            raise OutputError(
                f"{self.location}: cannot be written ({reason}); free disk space, or choose another location"
            ) from None


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


def _rounded(values: NDArray[np.floating[Any]], dtype: np.dtype[Any]) -> NDArray[np.floating[Any]]:
    """Round and clip to integers that ``dtype`` holds, in float64: float32 cannot hold the largest int32."""
    low, high = (float(limit) for limit in (np.iinfo(dtype).min, np.iinfo(dtype).max))
    if high > np.iinfo(dtype).max:  # nor can float64 hold the largest int64
        high = float(np.nextafter(high, 0))
    return np.clip(np.rint(values.astype(np.float64)), low, high)


def _integer_type(like: Path | None) -> np.dtype[Any] | None:
    """The voxel type of ``like`` where its values are integers without a scale."""
    if like is None or not like.is_file():
        return None
    if like.name.lower().endswith(NIFTI_SUFFIXES):
        header = open_nifti(like).header
        slope, intercept = header.get_slope_inter()
        unscaled = slope in (None, 1.0) and intercept in (None, 0.0)
        dtype = np.dtype(header.get_data_dtype()).newbyteorder("=")
    else:
        import SimpleITK as sitk

        unscaled, dtype = True, sitk.GetArrayFromImage(sitk.ReadImage(str(like))[:1, :1, :1]).dtype
    return dtype if unscaled and dtype.kind in "iu" else None


def _save_nifti(path: Path, voxels: NDArray[Any], geometry: Geometry, mark: str, *, labels: bool) -> None:
    import nibabel

    affine = RAS_TO_LPS @ geometry.affine[:, [2, 1, 0, 3]]
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    # A qform cannot store the shear of a gantry tilt, and ITK would prefer a slightly wrong qform to the sform.
    image.set_qform(affine, code="unknown" if _is_sheared(affine) else "scanner")
    if labels:
        image.header.set_intent("label")
    image.header["descrip"] = mark
    nibabel.save(image, path)


def _is_sheared(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-6)


def _save_itk(path: Path, voxels: NDArray[Any], geometry: Geometry, mark: str) -> None:
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    columns = geometry.affine[:3, [2, 1, 0]]
    lengths = np.linalg.norm(columns, axis=0)
    image.SetSpacing([float(length) for length in lengths])
    image.SetDirection([float(value) for value in (columns / lengths).ravel()])
    image.SetOrigin([float(value) for value in geometry.affine[:3, 3]])
    if mark:
        image.SetMetaData(MARK_KEY, mark)
    sitk.WriteImage(image, str(path), useCompression=True)
