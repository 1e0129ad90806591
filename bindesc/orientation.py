"""A learned frame: keypoints are turned and stretched, so that two views of a point agree better.

ORB's orientation of a point differs between two photos by more than 20 degrees for a fifth of the
points, and its round area is another part of a surface that is seen from the side. Then few
descriptors match. A small network looks at the patch and corrects both.

A frame ``(2, 2)`` takes a patch's coordinates, from its centre, to those of the patch that the
detector's keypoint has, in the same unit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .models.integer import ORIENTATION_OUTPUTS, ORIENTATION_SIDE, STRETCH
from .patches import PatchCutter

# Turns and stretches are rounded to such a part of all round and of 1, and are so the same
# everywhere: atan2 may differ in its last place between processors.
STEPS = 256
STRETCH_STEPS = 64

Network = Callable[[NDArray[np.uint8]], NDArray[np.int32]]


def turns(outputs: NDArray[np.int32]) -> NDArray[np.float64]:
    """How far the network turns keypoints.

    Args:
        outputs: ``(N, 2 or more)`` int32, below 2^24: the direction's x and y, y down.

    Returns:
        ``(N,)`` float64, degrees in [-180, 180], multiples of 360 / 256, clockwise.
    """
    x, y = outputs[:, 0].astype(np.float64), outputs[:, 1].astype(np.float64)
    steps = np.rint(np.arctan2(y, x) * (STEPS / (2 * np.pi)))
    return steps * (360 / STEPS)


def frames(outputs: NDArray[np.int32]) -> NDArray[np.float64]:
    """The network's outputs as frames: first turned, then stretched along the patch's own axes.

    Args:
        outputs: ``(N, 4 or more)`` int32, below 2^24, see
            :class:`bindesc.models.orientation.OrientationNet`.

    Returns:
        ``(N, 2, 2)`` float64, of determinant 1.
    """
    values = outputs[:, :ORIENTATION_OUTPUTS].astype(np.float64)
    length = np.sqrt(np.maximum((values * values).sum(1), 1))
    p, q = np.rint(values[:, 2:].T * (STRETCH * STRETCH_STEPS) / length) / STRETCH_STEPS
    scale = 1 / np.sqrt(1 - p * p - q * q)
    angle = np.radians(turns(outputs))
    cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
    result = np.empty((len(outputs), 2, 2))
    result[:, 0, 0] = (1 + p) * cosine + q * sine
    result[:, 0, 1] = q * cosine - (1 + p) * sine
    result[:, 1, 0] = q * cosine + (1 - p) * sine
    result[:, 1, 1] = (1 - p) * cosine - q * sine
    return result


def turned(angle: NDArray[np.float32], adapted: NDArray[np.float64]) -> NDArray[np.float32]:
    """The angles, degrees in [0, 360), that keypoints have in their frames; negative ones stay."""
    turn = np.arctan2(adapted[:, 1, 0] - adapted[:, 0, 1], adapted[:, 0, 0] + adapted[:, 1, 1])
    return np.where(angle < 0, angle, (angle + np.degrees(turn)) % 360).astype(np.float32)


class Orienter:
    """An orientation network, ready to run.

    Args:
        network: ``(N, 16, 16)`` uint8 to ``(N, 4 or more)`` int32, see :func:`frames`.
        reach: side of the described patch over that of the patch it sees.
    """

    def __init__(self, network: Network, reach: float = 1.0):
        self._network, self._reach = network, reach

    def adapt(
        self,
        cutter: PatchCutter,
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        scale: float,
    ) -> NDArray[np.float64]:
        """Frames for keypoints, from the arguments with which they are described.

        Returns:
            ``(N, 2, 2)`` float64; negative angles, which mean upright, are left alone.
        """
        seen = scale / self._reach
        patches, _ = cutter.cut(xy, size, angle, scale=seen, side=ORIENTATION_SIDE)
        adapted = frames(self._network(patches))
        adapted[angle < 0] = np.eye(2)
        return adapted
