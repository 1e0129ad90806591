"""A learned orientation: log-polar patches are turned, so that two views of a point agree better.

ORB's orientation of a point differs between two photos by more than 20 degrees for a fifth of the
points. A small network looks at the patch that was cut at the detector's orientation and says where
it should point instead. Turning a log-polar patch moves its columns, which go round, so that the
patch need not be cut again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .log_polar import DIRECTIONS

# Turns are rounded to such a part of all round, and are so the same everywhere: atan2 may differ in
# its last place between processors.
STEPS = 256
_COLUMN = STEPS // DIRECTIONS  # steps from a column to the next


def halve(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, S, S)`` uint8 patches at half their side, each value a rounded mean of four."""
    half = patches.shape[1] // 2
    total = patches.reshape(-1, half, 2, half, 2).sum((2, 4), dtype=np.uint16)
    return ((total + 2) // 4).astype(np.uint8)


def turn_steps(outputs: NDArray[np.int32]) -> NDArray[np.int32]:
    """How far an orientation network turns patches.

    Args:
        outputs: ``(N, 2 or more)`` int32, below 2^24: the direction's x and y, y down.

    Returns:
        ``(N,)`` int32 from -128 to 128: 256ths of all round, clockwise.
    """
    x, y = outputs[:, 0].astype(np.float64), outputs[:, 1].astype(np.float64)
    return np.rint(np.arctan2(y, x) * (STEPS / (2 * np.pi))).astype(np.int32)


def turned(angle: NDArray[np.float32], steps: NDArray[np.int32]) -> NDArray[np.float32]:
    """The angles, degrees in [0, 360), that keypoints have after a turn; negative ones stay."""
    return np.where(angle < 0, angle, (angle + steps * (360 / STEPS)) % 360).astype(np.float32)


def turn_patches(patches: NDArray[np.uint8], steps: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn log-polar patches; between two columns is their weighted mean.

    Args:
        patches: ``(N, RINGS, DIRECTIONS)`` uint8.
        steps: ``(N,)``, 256ths of all round, clockwise: how far the keypoints turn.

    Returns:
        The patches that the turned keypoints have, the same shape.
    """
    column = np.arange(DIRECTIONS) + (steps // _COLUMN)[:, None]
    part = (steps % _COLUMN)[:, None, None]
    left, right = (
        np.take_along_axis(patches, (index % DIRECTIONS)[:, None], 2).astype(np.int32)
        for index in (column, column + 1)
    )
    total = left * (_COLUMN - part) + right * part + _COLUMN // 2
    return (total // _COLUMN).astype(np.uint8)
