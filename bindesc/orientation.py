"""Learned frames: log-polar patches are turned and stretched, so that views of a point agree.

ORB's orientation of a point differs between two photos by more than 20 degrees for a fifth of the
points, and its round area is another part of a surface that is seen from the side. A small network
looks at the patch that was cut at the detector's orientation and corrects both. The patch need not
be cut again: a turn moves its columns, which go round, and a stretch moves each column along the
row and its samples along the column.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from .log_polar import DIRECTIONS, RING_RATIO, RINGS
from .models.integer import MOST_STRETCH, ORIENTATION_OUTPUTS

# What the network says is rounded to such parts of all round, of a stretch of 1 and of the way from
# a ring to the next, and is so the same everywhere: atan2 may differ in its last place between
# processors.
STEPS = 256
STRETCH_STEPS = 64
RING_STEPS = 8
_COLUMN = STEPS // DIRECTIONS  # steps from a column to the next


def halve(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``(N, S, S)`` uint8 patches at half their side, each value a rounded mean of four."""
    half = patches.shape[1] // 2
    total = patches.reshape(-1, half, 2, half, 2).sum((2, 4), dtype=np.uint16)
    return ((total + 2) // 4).astype(np.uint8)


def adaptation_steps(outputs: NDArray[np.int32]) -> NDArray[np.int32]:
    """How an orientation network adapts patches.

    Args:
        outputs: ``(N, 4 or more)`` int32, below 2^24, see
            :class:`bindesc.models.orientation.OrientationNet`.

    Returns:
        ``(N, 3)`` int32: the turn, clockwise, -128 to 128 256ths of all round; after that, the
        direction of a stretch in the patch as it was, -64 to 64 of the same; and how strong it is,
        0 to 32 64ths, r in :func:`bindesc.models.orientation.frames`: (p, q) is r long.
    """
    x, y, z, w = outputs[:, :ORIENTATION_OUTPUTS].astype(np.float64).T
    turn = np.rint(np.arctan2(y, x) * (STEPS / (2 * np.pi)))
    axis = np.rint(np.arctan2(w, z) * (STEPS / (4 * np.pi)))
    length = np.sqrt(np.maximum(x * x + y * y + z * z + w * w, 1))
    strength = np.rint(MOST_STRETCH * STRETCH_STEPS * np.sqrt(z * z + w * w) / length)
    return np.stack([turn, axis, strength], 1).astype(np.int32)


def turned(angle: NDArray[np.float32], steps: NDArray[np.int32]) -> NDArray[np.float32]:
    """The angles, degrees in [0, 360), that keypoints have when adapted; negative ones stay.

    Args:
        angle: ``(N,)``, of the detector.
        steps: ``(N, 3)``, see :func:`adaptation_steps`.
    """
    return np.where(angle < 0, angle, (angle + steps[:, 0] * (360 / STEPS)) % 360).astype(
        np.float32
    )


@functools.cache
def _bends() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Where a stretch takes directions, by its strength and by their angle to it: ``(33, 128)``.

    Their new angle, steps, and how much farther out points on them come, in 8ths of a ring. What
    lies half a turn on goes half a turn on.
    """
    strength = np.arange(int(MOST_STRETCH * STRETCH_STEPS) + 1)[:, None] / STRETCH_STEPS
    angle = np.arange(STEPS // 2) * (2 * np.pi / STEPS)
    along, across = (1 + strength) * np.cos(angle), (1 - strength) * np.sin(angle)
    bent = np.rint(np.arctan2(across, along) * (STEPS / (2 * np.pi)))
    farther = np.log((along * along + across * across) / (1 - strength * strength)) / 2
    rings = np.rint(farther / np.log(RING_RATIO) * RING_STEPS)
    return bent.astype(np.int32), rings.astype(np.int32)


def adapt_patches(patches: NDArray[np.uint8], steps: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Turn and stretch log-polar patches; between four samples is their weighted mean.

    Args:
        patches: ``(N, RINGS, DIRECTIONS)`` uint8.
        steps: ``(N, 3)``, see :func:`adaptation_steps`.

    Returns:
        The patches that the adapted keypoints have, the same shape.
    """
    turn, axis, strength = steps.T[:, :, None]
    angle = np.arange(DIRECTIONS) * _COLUMN + _COLUMN // 2 + turn - axis
    half = angle % (STEPS // 2)
    bent, rings = (table[strength, half] for table in _bends())
    column, part = np.divmod(bent + angle - half + axis - _COLUMN // 2, _COLUMN)
    ring, ring_part = np.divmod(rings, RING_STEPS)

    def row(offset: int) -> NDArray[np.int32]:
        at = np.arange(RINGS)[:, None] + ring[:, None] + offset

        def sample(column: NDArray[np.int32]) -> NDArray[np.int32]:
            index = at.clip(0, RINGS - 1) * DIRECTIONS + (column % DIRECTIONS)[:, None]
            flat = patches.reshape(-1, RINGS * DIRECTIONS)
            found = np.take_along_axis(flat, index.reshape(-1, RINGS * DIRECTIONS), 1)
            return found.reshape(index.shape).astype(np.int32)

        return sample(column) * (_COLUMN - part)[:, None] + sample(column + 1) * part[:, None]

    total = row(0) * (RING_STEPS - ring_part)[:, None] + row(1) * ring_part[:, None]
    whole = _COLUMN * RING_STEPS
    return ((total + whole // 2) // whole).astype(np.uint8)
