"""Types and scales in which HU are stored, and the choice of one that holds the values of a result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Largest rounding error of a stored value, HU.
MAX_ROUNDING_HU = 0.5
#: Integers that replace an input's integers which do not hold a result.
WIDER_INTEGERS = tuple(np.dtype(name) for name in ("int16", "int32"))
#: float32 represents whole numbers up to 2²⁴; half of that leaves room for the rounding of a scale.
EXACT_IN_FLOAT32 = 2**22


@dataclass(frozen=True)
class StoredType:
    """HU = stored value × slope + intercept.

    Parameters
    ----------
    dtype : numpy.dtype
        Integer or floating type, in native byte order.
    slope, intercept : float
        The slope is not 0.
    """

    dtype: np.dtype[Any]
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_scaled(self) -> bool:
        """Whether stored values differ from HU."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def is_integer(self) -> bool:
        """Whether stored values are integers."""
        return self.dtype.kind in "iu"

    @property
    def is_exact(self) -> bool:
        """Whether float32 HU determine the stored value, so that they can be converted back without loss."""
        return self.is_integer and self.dtype.itemsize <= 2 and abs(self.intercept / self.slope) < EXACT_IN_FLOAT32

    @property
    def limits_hu(self) -> tuple[float, float]:
        """Smallest and largest HU of an integer type."""
        info = np.iinfo(self.dtype)
        low, high = sorted(float(end) * self.slope + self.intercept for end in (info.min, info.max))
        return low, high

    def to_hu(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Convert stored values to HU; NaN stays."""
        if self.is_scaled:
            stored = stored.astype(np.float64) * self.slope + self.intercept
        return stored.astype(np.float32)

    def from_hu(self, hu: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Convert HU to the closest stored values."""
        values = hu.astype(np.float64)
        if self.is_scaled:
            values = (values - self.intercept) / self.slope
        if not self.is_integer:
            return values.astype(self.dtype)
        low, high = float(np.iinfo(self.dtype).min), float(np.iinfo(self.dtype).max)
        if high > np.iinfo(self.dtype).max:  # float64 does not hold the largest int64
            high = float(np.nextafter(high, 0))
        return np.clip(np.rint(values), low, high).astype(self.dtype)

    def rounding_error_hu(self, hu: NDArray[np.floating[Any]]) -> float:
        """Largest rounding error of the values, HU; 0 where it cannot exceed :data:`MAX_ROUNDING_HU`."""
        if not self.is_integer or abs(self.slope) <= 1 or not hu.size:
            return 0.0
        steps = (hu.astype(np.float64) - self.intercept) / self.slope
        return float(np.abs(steps - np.rint(steps)).max() * abs(self.slope))

    def holds(self, low_hu: float, high_hu: float, rounding_error_hu: float) -> bool:
        """Whether values can be stored to within half a HU.

        Parameters
        ----------
        low_hu, high_hu : float
            Range of the values.
        rounding_error_hu : float
            Largest result of :meth:`rounding_error_hu`.
        """
        if not self.is_integer:
            return True
        low, high = (float(np.float32(limit)) for limit in self.limits_hu)  # the values are float32
        tolerance = MAX_ROUNDING_HU * min(1.0, abs(self.slope))
        in_range = low - tolerance <= low_hu and high_hu <= high + tolerance
        return in_range and rounding_error_hu <= MAX_ROUNDING_HU


#: HU as they are, for results of DICOM series.
FLOAT_HU = StoredType(np.dtype(np.float32))


def preferred_type(stored: StoredType | None, can_scale: bool) -> StoredType:
    """Type in which a result is stored if it holds the values.

    Parameters
    ----------
    stored : StoredType, optional
        Type of the input.
    can_scale : bool
        Whether the output format has a scale.

    Returns
    -------
    StoredType
        The input's, where the format can express it.
    """
    if stored is None:
        return FLOAT_HU
    if can_scale or not stored.is_scaled:
        return stored
    is_whole = stored.is_integer and abs(stored.slope) == 1 and stored.intercept.is_integer()
    return StoredType(WIDER_INTEGERS[0]) if is_whole else FLOAT_HU


def choose_type(preferred: StoredType, low_hu: float, high_hu: float, rounding_error_hu: float) -> StoredType:
    """First of the preferred type, wider integers of the same scale, and float32 that holds the values.

    Parameters
    ----------
    preferred : StoredType
        See :func:`preferred_type`.
    low_hu, high_hu : float
        Range of the values.
    rounding_error_hu : float
        Largest rounding error in the preferred type.

    Returns
    -------
    StoredType
    """
    candidates = _candidates(preferred)
    return next((one for one in candidates if one.holds(low_hu, high_hu, rounding_error_hu)), FLOAT_HU)


def _candidates(preferred: StoredType) -> Iterator[StoredType]:
    yield preferred
    if preferred.is_integer:
        yield from (replace(preferred, dtype=dtype) for dtype in WIDER_INTEGERS)
