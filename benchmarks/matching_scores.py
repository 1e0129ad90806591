"""What matching scores on a pair of images whose homography is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from bindesc.detectors import KeyPoints

from .datasets import Scene
from .descriptors import Descriptor, detect, mutual_matches

CORRECT_PIXELS = 3.0
EXACT_PIXELS = 1.0
BOUND = "upper bound"


@dataclass(frozen=True)
class PairScore:
    """What one row scores on one pair of images.

    Attributes:
        putative: number of matches.
        correct: number of correct ones.
        exact: number of those within ``EXACT_PIXELS``.
        homography: whether the matches give the right homography.
        undescribed: keypoints of both images that the descriptor dropped.
    """

    putative: int
    correct: int
    exact: int
    homography: bool
    undescribed: int


def project(xy: NDArray[np.float64], homography: NDArray[np.float64]) -> NDArray[np.float64]:
    """Carry points ``(N, 2)`` by a homography ``(3, 3)``."""
    carried = xy @ homography[:, :2].T + homography[:, 2]
    return carried[:, :2] / carried[:, 2:]


def one_to_one(xy: NDArray[np.float64], other: NDArray[np.float64], radius: float) -> int:
    """The most disjoint pairs that points ``(N, 2)`` and ``(M, 2)`` form within a radius."""
    if not len(xy) or not len(other):
        return 0
    near = np.linalg.norm(xy[:, None] - other, axis=2) <= radius
    return int((maximum_bipartite_matching(csr_array(near), perm_type="column") >= 0).sum())


def homography_is_right(
    xy: NDArray[np.float64],
    other: NDArray[np.float64],
    shape: tuple[int, ...],
    truth: NDArray[np.float64],
) -> bool:
    """Whether matched points, both ``(M, 2)``, give the homography of an image of ``shape``."""
    if len(xy) < 4:
        return False
    cv2.setRNGSeed(0)
    estimate, _ = cv2.findHomography(
        xy, other, cv2.USAC_MAGSAC, CORRECT_PIXELS, maxIters=10_000, confidence=0.999
    )
    if estimate is None:
        return False
    height, width = shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    error = np.linalg.norm(project(corners, estimate) - project(corners, truth), axis=1)
    return bool(error.mean() < CORRECT_PIXELS)


def score_scene(
    scene: Scene,
    descriptors: Sequence[Descriptor],
    *,
    bound: bool,
    detect: Callable[[NDArray[np.uint8]], KeyPoints] = detect,
) -> dict[str, list[PairScore]]:
    """Score every descriptor, and the upper bound if asked, on each pair of a scene, by label."""
    scores: dict[str, list[PairScore]] = {BOUND: []} if bound else {}
    keypoints = detect(scene.reference)
    xy = _positions(keypoints)
    described = [descriptor.describe(scene.reference, keypoints) for descriptor in descriptors]
    for view in scene.views:
        view_keypoints = detect(view.gray)
        view_xy = _positions(view_keypoints)
        target = project(xy, view.homography)
        if bound:
            count, exact = (
                one_to_one(target, view_xy, pixels) for pixels in (CORRECT_PIXELS, EXACT_PIXELS)
            )
            scores[BOUND].append(PairScore(count, count, exact, True, 0))
        for descriptor, first in zip(descriptors, described, strict=True):
            second = descriptor.describe(view.gray, view_keypoints)
            a, b = mutual_matches(first, second).T
            distance = np.linalg.norm(target[a] - view_xy[b], axis=1)
            scores.setdefault(descriptor.label, []).append(
                PairScore(
                    putative=len(a),
                    correct=int((distance <= CORRECT_PIXELS).sum()),
                    exact=int((distance <= EXACT_PIXELS).sum()),
                    homography=homography_is_right(
                        xy[a], view_xy[b], scene.reference.shape, view.homography
                    ),
                    undescribed=len(xy) - len(first.index) + len(view_xy) - len(second.index),
                )
            )
    return scores


def _positions(keypoints: Sequence[cv2.KeyPoint]) -> NDArray[np.float64]:
    return np.array([keypoint.pt for keypoint in keypoints], np.float64).reshape(-1, 2)
