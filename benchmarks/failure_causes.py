"""Pairs of keypoints that were there to be found in two views, and why a descriptor misses some.

A pair is two keypoints that the true motion brings within 3 pixels of each other. As many
one-to-one pairs are formed as there can be, which is the upper bound of
:mod:`benchmarks.matching_scores`, and among the ways to form so many, those whose positions, sizes
and angles agree best. A pair is found if its first keypoint has a match within 3 pixels of the
truth. Its cause is the first that applies, whether it is found or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bindesc.patches import extract_patches
from bindesc.reference import hamming
from bindesc.runtime import Runtime
from bindesc.training.pairing import Carried, Differences, Tolerance, frame_differences

from .descriptors import (
    Described,
    Descriptor,
    detect,
    detector_points,
    model_angles,
    mutual_matches,
)
from .matching_scores import CORRECT_PIXELS

LIMITS = Tolerance(offset=0.08, scale=1.3, turn=20.0)
ALIKE = 40  # bits of 256: about as near as most pairs that are found
CORRELATED = 0.5

CAUSES = {
    "angle": f"the two angles that the model uses differ by more than {LIMITS.turn:.0f} degrees",
    "scale": f"its two sizes differ by more than {LIMITS.scale:g} times",
    "position": f"its two positions differ by more than {LIMITS.offset:.0%} of the patch",
    "look-alike": f"another place of the same photo has a code within {ALIKE} bits",
    "looks": f"the two patches correlate by less than {CORRELATED:g}: light, blur, depth",
    "none": "none of these; most lose the match to another keypoint of the same place",
}


@dataclass(frozen=True, eq=False)
class Seen:
    """The described keypoints of one image.

    Attributes:
        xy: ``(N, 2)`` float32, pixels.
        side: ``(N,)`` of the detector's patch, pixels.
        angle: ``(N,)`` degrees: the detector's, turned by the model if it does that.
        patches: ``(N, 32, 32)`` uint8, as the model sees them.
        codes: ``(N, B)`` uint8.
    """

    xy: NDArray[np.float32]
    side: NDArray[np.float32]
    angle: NDArray[np.float32]
    patches: NDArray[np.uint8]
    codes: NDArray[np.uint8]

    @cached_property
    def elsewhere(self) -> NDArray[np.int64]:
        """``(N,)`` bits to the nearest code of a keypoint farther away than half the patch."""
        apart = np.linalg.norm(self.xy[:, None] - self.xy, axis=2) > self.side[:, None] / 2
        bits = 8 * self.codes.shape[1] + 1
        return np.where(apart, hamming(self.codes, self.codes), bits).min(axis=1, initial=bits)


@dataclass(frozen=True, eq=False)
class Findable:
    """The pairs of two views; arrays of length P.

    Attributes:
        index: ``(P, 2)`` keypoints of the first and of the second view.
        cause: index into the names of :data:`CAUSES`.
        found: whether the match of the first keypoint is right.
        matched: whether it has any.
        nearest_right: whether the code nearest to its own is at the right place.
        taken: whether it is, and another keypoint of the first view, less than half the patch away,
            is still nearer to it, so that the mutual test loses the pair.
        offset: distance over the patch's side.
        ratio: absolute logarithm of the ratio of the sides.
        turn: absolute difference of the angles, degrees.
    """

    index: NDArray[np.intp]
    cause: NDArray[np.intp]
    found: NDArray[np.bool_]
    matched: NDArray[np.bool_]
    nearest_right: NDArray[np.bool_]
    taken: NDArray[np.bool_]
    offset: NDArray[np.float64]
    ratio: NDArray[np.float64]
    turn: NDArray[np.float64]


def see(gray: NDArray[np.uint8], descriptor: Descriptor, runtime: Runtime) -> Seen:
    """Detect and describe the keypoints of an image.

    Args:
        gray: ``(H, W)`` uint8.
        descriptor: describes them all.
        runtime: the model, which cuts the patches and adapts them.

    Raises:
        ValueError: the image has no keypoints, or the descriptor left some out.
    """
    keypoints = detect(gray)
    if not keypoints:
        raise ValueError("an image without keypoints")
    xy, side, angle = points = detector_points(keypoints)
    angle = model_angles(runtime, gray, points)
    patches, _ = extract_patches(gray, xy, side, angle, scale=runtime.support)
    described = descriptor.describe(gray, keypoints)
    if len(described.index) != len(keypoints):
        raise ValueError(
            f"{descriptor.label}: described {len(described.index)} of {len(keypoints)} keypoints"
        )
    return Seen(xy, side, angle, patches, described.codes[np.argsort(described.index)])


def form_pairs(
    distance: NDArray[np.float64], differences: Differences, radius: float
) -> NDArray[np.intp]:
    """The most one-to-one pairs within a radius, and of those the ones that agree best.

    Args:
        distance: ``(N, M)`` pixels; NaN where it is not known.
        differences: of the same keypoints.
        radius: pixels.

    Returns:
        ``(P, 2)`` indices.
    """
    near = distance <= radius
    cost = (
        differences.offset / LIMITS.offset
        + differences.ratio / np.log(LIMITS.scale)
        + differences.turn / LIMITS.turn
    )
    # One pair more outweighs any disagreement of all others.
    worst = 1 + (min(near.shape) + 1) * cost[near].max(initial=0)
    rows, columns = linear_sum_assignment(np.where(near, cost, worst))
    kept = near[rows, columns]
    return np.stack([rows[kept], columns[kept]], axis=1)


def classify(
    offset: NDArray, ratio: NDArray, turn: NDArray, elsewhere: NDArray, correlation: NDArray
) -> NDArray[np.intp]:
    """The first cause that applies to each pair, as an index into :data:`CAUSES`.

    Args:
        offset: see :class:`Findable`; all have length P.
        ratio: likewise.
        turn: likewise.
        elsewhere: bits to the nearest code of another place, in either image.
        correlation: of the two patches, -1 to 1.
    """
    applies = [
        turn > LIMITS.turn,
        ratio > np.log(LIMITS.scale),
        offset > LIMITS.offset,
        elsewhere <= ALIKE,
        correlation < CORRELATED,
        np.ones(len(offset), bool),
    ]
    return np.argmax(np.stack(applies), axis=0)


def correlation(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Of each patch with its partner, ``(P, 32, 32)`` each; 0 for a flat one."""
    a, b = (p - p.mean(axis=(1, 2), keepdims=True) for p in (first, second))
    norms = np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    return np.divide((a * b).sum((1, 2)), norms, out=np.zeros(len(a)), where=norms > 0)


def find_pairs(first: Seen, second: Seen, carried: Carried) -> Findable:
    """Form the pairs of two views and see which are found by mutual nearest neighbours.

    Args:
        first: one view.
        second: the other.
        carried: the keypoints of ``first`` in ``second``.
    """
    distance = np.linalg.norm(carried.xy[:, None] - second.xy, axis=2)
    differences = frame_differences(
        (first.xy, first.side, first.angle), (second.xy, second.side, second.angle), carried
    )
    index = form_pairs(distance, differences, CORRECT_PIXELS)
    a, b = index.T
    offset, ratio, turn = (values[a, b] for values in differences)
    everything = (Described(np.arange(len(seen.codes)), seen.codes) for seen in (first, second))
    match = np.full(len(first.codes), -1)
    query, train = mutual_matches(*everything).T
    match[query] = train
    nearest = hamming(first.codes[a], second.codes).argmin(axis=1)
    cause = classify(
        offset,
        ratio,
        turn,
        np.minimum(first.elsewhere[a], second.elsewhere[b]),
        correlation(first.patches[a], second.patches[b]),
    )
    matched = match[a] >= 0
    nearest_right = distance[a, nearest] <= CORRECT_PIXELS
    taker = hamming(second.codes[nearest], first.codes).argmin(axis=1)
    close = np.linalg.norm(first.xy[taker] - first.xy[a], axis=1) <= first.side[a] / 2
    return Findable(
        index=index,
        cause=cause,
        found=matched & (distance[a, match[a]] <= CORRECT_PIXELS),
        matched=matched,
        nearest_right=nearest_right,
        taken=nearest_right & (taker != a) & close,
        offset=offset,
        ratio=ratio,
        turn=turn,
    )
