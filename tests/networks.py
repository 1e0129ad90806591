"""What models are made of in tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bindesc.models.integer import CODES, ORIENTATION
from bindesc.orientation import halve


def calibration(patches: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    """Of both networks of a model, from ``(N, 32, 32)`` patches."""
    return {CODES: patches, ORIENTATION: halve(patches)}
