"""The header of a volume file, independent of its format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.io.volumes.stored_type import StoredType
from ldct_denoise.io.volumes.voxels import VoxelLayout

#: Marks a file that was denoised: NIfTI in its description field, NRRD and MHA under :data:`MARK_KEY`.
DENOISED_MARK = "denoised by ldct-denoise"
MARK_KEY = "Description"
#: Both NIfTI codes of coordinates in the scanner's frame.
SCANNER_CODES = (1, 1)


@dataclass(frozen=True)
class VolumeHeader:
    """Header of a volume file.

    Parameters
    ----------
    affine : ndarray, shape (4, 4)
        From (slice, row, column) index to LPS mm; the file's slowest axis is the slice axis.
    layout : VoxelLayout
        Where the voxels are stored.
    stored_type : StoredType
        Type and scale of the stored values.
    is_labels : bool
        Whether the header states that the values are labels.
    mark : str
        Description, which begins with :data:`DENOISED_MARK` in a file that was denoised.
    nifti_codes : tuple of (int, int)
        qform_code and sform_code; those of other formats are :data:`SCANNER_CODES`.
    problems : tuple of str
        Contradictions in the header that do not prevent reading.
    """

    affine: NDArray[np.float64]
    layout: VoxelLayout
    stored_type: StoredType
    is_labels: bool = False
    mark: str = ""
    nifti_codes: tuple[int, int] = SCANNER_CODES
    problems: tuple[str, ...] = ()

    @property
    def is_denoised(self) -> bool:
        """Whether the file is marked as denoised by this package."""
        return self.mark.startswith(DENOISED_MARK)


def last_line(error: Exception) -> str:
    """Last line of an error's message, or its type's name where there is no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
