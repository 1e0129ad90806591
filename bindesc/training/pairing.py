"""Which keypoints of two views show the same point: by geometry alone, never by their looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# xy (N, 2), side of the patch (N,), pixels, and angle (N,), degrees, of a view's keypoints.
Points = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Carried:
    """Keypoints of one view, carried into another.

    Attributes:
        xy: ``(N, 2)`` their positions there, pixels; NaN where that is not known.
        jacobian: ``(N, 2, 2)`` derivative of the position there by the one here.
    """

    xy: NDArray[np.float64]
    jacobian: NDArray[np.float64]


@dataclass(frozen=True)
class Tolerance:
    """How far two keypoints may differ and still be a pair.

    Attributes:
        offset: largest distance, as a share of the side of the patch at support 1 (2.5 pixels for
            the smallest ORB keypoints).
        scale: largest ratio of the two sizes after the change of view is taken out.
        turn: largest difference of the two angles after the same, degrees.
    """

    offset: float = 0.08
    scale: float = 1.34
    turn: float = 35.0


def carry_by_homography(homography: NDArray[np.float64], xy: NDArray[np.float32]) -> Carried:
    """Carry ``(N, 2)`` keypoints through a ``(3, 3)`` homography."""
    homogeneous = np.column_stack([xy, np.ones(len(xy))]) @ homography.T
    depth = homogeneous[:, 2:]
    mapped = homogeneous[:, :2] / depth
    jacobian = (homography[:2, :2] - mapped[:, :, None] * homography[2, :2]) / depth[:, :, None]
    return Carried(mapped, jacobian)


class Differences(NamedTuple):
    """How the keypoints of one view, carried into another, differ from those found there.

    Attributes:
        offset: ``(N, M)`` distance, as a share of the side of the patch found there; NaN where the
            place is not known.
        ratio: ``(N, M)`` absolute logarithm of the ratio of their sides.
        turn: ``(N, M)`` absolute difference of their angles, degrees.
    """

    offset: NDArray[np.float64]
    ratio: NDArray[np.float64]
    turn: NDArray[np.float64]


def frame_differences(
    first: Sequence[NDArray], second: Sequence[NDArray], carried: Carried
) -> Differences:
    """Compare all keypoints of two views; the arguments are those of :func:`pair_keypoints`."""
    _, side_a, angle_a = first
    xy_b, side_b, angle_b = second
    side_a = side_a * np.sqrt(np.abs(np.linalg.det(carried.jacobian)))
    angle_a = carry_angles(angle_a, carried)
    return Differences(
        np.linalg.norm(carried.xy[:, None] - xy_b, axis=2) / side_b,
        np.abs(np.log(np.maximum(side_a[:, None], 1e-6) / side_b)),
        np.abs(wrap_degrees(angle_a[:, None] - angle_b)),
    )


def carry_angles(angle: NDArray, carried: Carried) -> NDArray[np.float64]:
    """Where ``(N,)`` orientations of one view, degrees, point in the other one, -180 to 180."""
    radians = np.radians(angle)
    direction = np.einsum(
        "nij,nj->ni", carried.jacobian, np.stack([np.cos(radians), np.sin(radians)], 1)
    )
    return np.degrees(np.arctan2(direction[:, 1], direction[:, 0]))


def carry_points(points: Points, carried: Carried, turn: float, rng: np.random.Generator) -> Points:
    """Keypoints as they look in the other view: of another size and angle.

    Args:
        points: of the first view.
        carried: their positions in the second.
        turn: deviation of a normal error of the angle in either view, degrees.
        rng: draws the errors.
    """
    side = points[1] * np.sqrt(np.abs(np.linalg.det(carried.jacobian)))
    error = turn * rng.normal(0, np.sqrt(2), len(side))
    angle = (carry_angles(points[2], carried) + error) % 360
    return carried.xy.astype(np.float32), side.astype(np.float32), angle.astype(np.float32)


def wrap_degrees(angle: NDArray) -> NDArray:
    """The same angles in [-180, 180)."""
    return (angle + 180) % 360 - 180


def pair_keypoints(
    first: Sequence[NDArray],
    second: Sequence[NDArray],
    carried: Carried,
    tolerance: Tolerance,
) -> NDArray[np.intp]:
    """Pair the keypoints of two views.

    Args:
        first: ``xy (N, 2), side (N,), angle (N,)`` of the first view; ``side`` is that of the
            patch, pixels.
        second: the same of the second view.
        carried: the first view's keypoints in the second.
        tolerance: how far a pair may differ.

    Returns:
        ``(K, 2)`` indices of keypoints that are nearest to each other, in place and size together;
        each occurs once at most.
    """
    if not (len(first[0]) and len(second[0])):
        return np.empty((0, 2), np.intp)
    offset, ratio, turn = frame_differences(first, second, carried)
    allowed = (  # nothing compares true with a NaN
        (offset <= tolerance.offset) & (ratio <= np.log(tolerance.scale)) & (turn <= tolerance.turn)
    )
    # ORB finds a corner at several scales, all at about the same place: like belongs to like.
    cost = (offset / tolerance.offset) ** 2 + (ratio / np.log(tolerance.scale)) ** 2
    cost[~allowed] = np.inf
    best_b, best_a = cost.argmin(1), cost.argmin(0)
    index = np.arange(len(first[0]))
    mutual = (best_a[best_b] == index) & allowed[index, best_b]
    return np.stack([index[mutual], best_b[mutual]], axis=1)
