"""float32 to bfloat16 without torch: numpy has no such type, so it travels as uint16 bit patterns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_QUIET_NAN = np.uint16(0x7FC0)


def to_bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Round to nearest, ties to even, as torch does; infinity stays infinity, NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    # Adding half a unit of the kept part, less one where that part is even, carries exactly when it must round up.
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")
    return np.where(np.isnan(values), _QUIET_NAN, rounded)
