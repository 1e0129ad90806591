"""A learned orientation: keypoints are turned further, so that two views of a point agree better.

ORB's orientation of a point differs between two photos by more than 20 degrees for a fifth of the
points, and then few descriptors match. A small network looks at the patch and corrects it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .models.integer import ORIENTATION_SIDE
from .patches import PatchCutter

STEPS = 256  # directions that a keypoint can be turned to: rounded, angles are the same everywhere

Network = Callable[[NDArray[np.uint8]], NDArray[np.int32]]


def turns(directions: NDArray[np.int32]) -> NDArray[np.float32]:
    """Directions as the network has them to angles.

    Args:
        directions: ``(N, 2 or more)`` int32, below 2^24: x and y, y down.

    Returns:
        ``(N,)`` float32, degrees in [-180, 180], multiples of 360 / 256, clockwise.
    """
    x, y = directions[:, 0].astype(np.float64), directions[:, 1].astype(np.float64)
    # atan2 may differ in its last place between processors, but whole numbers of this size never
    # come that near to where rounding changes.
    steps = np.rint(np.arctan2(y, x) * (STEPS / (2 * np.pi)))
    return (steps * (360 / STEPS)).astype(np.float32)


def extract_oriented(
    orienter: Orienter | None,
    gray: NDArray[np.uint8],
    xy: NDArray[np.float32],
    size: NDArray[np.float32],
    angle: NDArray[np.float32],
    *,
    scale: float = 1.0,
    border: Literal["pad", "drop"] = "pad",
) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
    """:func:`bindesc.patches.extract_patches`, of keypoints that ``orienter`` turns first."""
    cutter = PatchCutter(gray)
    if orienter is not None:
        angle = orienter.turn(cutter, xy, size, angle, scale)
    return cutter.cut(xy, size, angle, scale=scale, border=border)


class Orienter:
    """An orientation network, ready to run.

    Args:
        network: ``(N, 16, 16)`` uint8 to ``(N, 2 or more)`` int32, see :func:`turns`.
    """

    def __init__(self, network: Network):
        self._network = network

    def turn(
        self,
        cutter: PatchCutter,
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        scale: float,
    ) -> NDArray[np.float32]:
        """Better angles of keypoints; the arguments are those of :meth:`PatchCutter.cut`.

        Returns:
            ``(N,)`` float32, degrees in [0, 360); negative angles, which mean upright, stay.
        """
        patches, _ = cutter.cut(xy, size, angle, scale=scale, side=ORIENTATION_SIDE)
        turned = (angle + turns(self._network(patches))) % np.float32(360)
        turned[turned >= 360] = 0
        return np.where(angle < 0, angle, turned)
