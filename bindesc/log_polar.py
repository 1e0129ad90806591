"""Log-polar patches: rings of samples around a keypoint, fine in the centre and coarse far out.

A row is a ring, from the inmost to the outmost, and a column a direction, from the left over the
top and the right round to the left again. A ring's radius is a fixed multiple of that of the ring
inside it. So an error of a keypoint's angle moves its patch along the columns, which go round, and
one of its size along the rows: a network is far less sensitive to either than with square patches
(Ebel et al., "Beyond Cartesian representations for local descriptors", ICCV 2019).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RINGS, DIRECTIONS = 32, 32
INNER_RADIUS = 0.05  # of the first ring, over that of the last
REACH = 1.5  # diameter of the last ring, over the side of what an orientation network sees
RING_RATIO = INNER_RADIUS ** (-1 / (RINGS - 1))  # of a ring's radius to that of the one inside it


def ring_radii() -> NDArray[np.float64]:
    """``(RINGS,)``, over that of the last one."""
    return np.geomspace(INNER_RADIUS, 1, RINGS)


def ring_spacing() -> NDArray[np.float64]:
    """``(RINGS,)`` how far apart samples lie, the mean along and across, over the last radius."""
    return ring_radii() * np.sqrt(2 * np.pi / DIRECTIONS * math.log(RING_RATIO))


def directions() -> NDArray[np.float64]:
    """``(2, DIRECTIONS)`` x and y, y down, of the columns' directions, of length 1."""
    angle = (np.arange(DIRECTIONS) + 0.5) * (2 * np.pi / DIRECTIONS) - np.pi
    return np.stack([np.cos(angle), np.sin(angle)])


def places() -> NDArray[np.float64]:
    """``(2, RINGS, DIRECTIONS)`` x and y, y down, of the samples, where the last radius is 1."""
    return ring_radii()[:, None] * directions()[:, None]
