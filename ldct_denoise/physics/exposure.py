"""Tube current of a series, and the quanta that a scanner emits at it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ldct_denoise.physics.kernel_fit import ExpectedQuanta
from ldct_denoise.volume import SliceSource, slice_thickness_mm

#: Quanta emitted towards the isocenter at 120 kV, per mm, radian, mm of slice thickness and effective mAs. Of 13
#: series of nine scanner models all have 0.7 to 1.7 times as many. They rise with the square of the tube voltage.
QUANTA_PER_MAS = 6.0e5
KVP, KVP_RANGE = 120.0, (60.0, 160.0)
#: Standard deviation of the logarithm of that number, with mAs in the header and without.
LOG_ERROR, LOG_ERROR_WITHOUT_MAS = 0.25, 0.6
#: Effective mAs per mA where the header does not state them: half a second of rotation at pitch 1.
MAS_PER_MA = 0.5


def tube_current_ma(source: SliceSource) -> NDArray[np.float64] | None:
    """Tube current of every slice, mA; None if the header of a slice does not state it."""
    current_ma = source.metadata.tube_current_ma
    if not current_ma or any(not current for current in current_ma):
        return None
    return np.asarray(current_ma, float)


def expected_quanta(source: SliceSource) -> ExpectedQuanta:
    """Quanta per mm, radian and mA that a scan with this tube voltage, thickness, rotation time and pitch has."""
    metadata, current_ma = source.metadata, tube_current_ma(source)
    seconds = metadata.mas_per_ma if current_ma is not None else None
    thickness_mm = slice_thickness_mm(source) or 1.0
    voltage = (min(max(metadata.kvp or KVP, KVP_RANGE[0]), KVP_RANGE[1]) / KVP) ** 2
    per_ma = QUANTA_PER_MAS * voltage * thickness_mm * (seconds or MAS_PER_MA)
    return ExpectedQuanta(per_ma, LOG_ERROR if seconds else LOG_ERROR_WITHOUT_MAS)
