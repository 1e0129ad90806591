"""A robust homography or fundamental matrix from matched points (OpenCV's USAC)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Kind = Literal["H", "F"]

MIN_MATCHES: dict[Kind, int] = {"H": 4, "F": 8}
"""The fewest matches, and the fewest inliers, that a model may rest on."""

_MAX_ITERATIONS = 10_000
_CONFIDENCE = 0.9999
# Smallest over largest singular value of the centred inliers below which they lie on a line.
_MIN_SPREAD = 1e-3


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the points of two images agree on.

    Attributes:
        model: ``(3, 3)`` float64, or None where no model is supported. A homography H takes a
            point of the first image to the second, ``x1 ~ H x0``, with H[2, 2] = 1; a fundamental
            matrix F has ``x1^T F x0 = 0``.
        inliers: ``(K,)`` bool, the matches that agree with the model; all False without one.
    """

    model: NDArray[np.float64] | None
    inliers: NDArray[np.bool_]


def check_seed(seed: int) -> None:
    """Find out whether :func:`estimate` takes a seed.

    Raises:
        ValueError: it is out of range.
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed: expected 0 to 2**31 - 1, got {seed}")


def estimate(
    xy0: NDArray[np.float32],
    xy1: NDArray[np.float32],
    kind: Kind = "H",
    threshold: float = 3.0,
    seed: int = 0,
) -> Geometry:
    """Fit a homography or a fundamental matrix that most matches agree on.

    MAGSAC++ scoring with local optimisation (Barath et al., CVPR 2020), at most 10,000 samples.
    The same input and seed give the same result. Inliers are decided here, from the model that is
    returned: a match is one if its transfer error in the second image (H) or its Sampson distance
    (F; Hartley and Zisserman 2003, equation 11.9) is at most ``threshold``.

    Args:
        xy0: ``(K, 2)`` points of the first image, pixels.
        xy1: ``(K, 2)`` their partners in the second image, pixels.
        kind: ``"H"`` for a plane or a rotating camera, ``"F"`` for a scene with depth.
        threshold: largest error of an inlier, pixels, above 0.
        seed: of the random sampling, 0 to 2**31 - 1.

    Returns:
        The model and its inliers. Too few matches, points on a line or no agreement give no model;
        they are no error.

    Raises:
        ValueError: the arrays are not ``(K, 2)`` finite numbers of the same length, ``kind`` is
            unknown, or ``threshold`` or ``seed`` is out of range.
    """
    if kind not in MIN_MATCHES:
        raise ValueError(f"kind: expected 'H' or 'F', got {kind!r}")
    if not (threshold > 0 and np.isfinite(threshold)):
        raise ValueError(f"threshold: expected a number above 0, got {threshold}")
    check_seed(seed)
    points0, points1 = _as_points(xy0, "xy0"), _as_points(xy1, "xy1")
    if len(points0) != len(points1):
        raise ValueError(f"xy1: expected {len(points0)} points as in xy0, got {len(points1)}")
    nothing = Geometry(None, np.zeros(len(points0), np.bool_))
    if len(points0) < MIN_MATCHES[kind]:
        return nothing
    find = cv2.findHomography if kind == "H" else cv2.findFundamentalMat
    try:
        model, _ = find(points0, points1, _parameters(threshold, seed))
    except cv2.error:  # a degenerate sample that USAC does not catch itself
        return nothing
    if model is None or model.shape != (3, 3) or not np.isfinite(model).all():
        return nothing
    error = _transfer_error if kind == "H" else _sampson_error
    inliers = error(model, points0, points1) <= threshold
    if inliers.sum() < MIN_MATCHES[kind] or _on_a_line(points0[inliers], points1[inliers]):
        return nothing
    return Geometry(model, inliers)


def enough_inliers(kind: Kind, inliers: int, matches: int) -> bool:
    """Whether a model has more inliers than unrelated photos give it.

    The bounds, 10 + 2 % of the matches for H and 15 + 15 % for F, were measured on the 66 pairs of
    photos of 12 different places, 1000 keypoints each, about 280 mutual matches, at 3 pixels: H got
    at most 11 inliers, F at most 57 and 15 + 13.2 %.
    """
    return inliers >= (10 + 0.02 * matches if kind == "H" else 15 + 0.15 * matches)


def _as_points(xy: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    points = np.asarray(xy, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"{name}: expected shape (K, 2), got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: has NaN or infinite coordinates")
    return points


def _parameters(threshold: float, seed: int) -> cv2.UsacParams:
    parameters = cv2.UsacParams()
    parameters.threshold = threshold
    parameters.confidence = _CONFIDENCE
    parameters.maxIterations = _MAX_ITERATIONS
    parameters.randomGeneratorState = seed
    parameters.score = cv2.SCORE_METHOD_MAGSAC
    parameters.loMethod = cv2.LOCAL_OPTIM_SIGMA
    parameters.loIterations = 20
    parameters.loSampleSize = 200
    return parameters


def _transfer_error(
    model: NDArray[np.float64], xy0: NDArray[np.float64], xy1: NDArray[np.float64]
) -> NDArray[np.float64]:
    projected = _homogeneous(xy0) @ model.T
    with np.errstate(divide="ignore", invalid="ignore"):  # a point at infinity is no inlier
        return np.linalg.norm(projected[:, :2] / projected[:, 2:] - xy1, axis=1)


def _sampson_error(
    model: NDArray[np.float64], xy0: NDArray[np.float64], xy1: NDArray[np.float64]
) -> NDArray[np.float64]:
    points0, points1 = _homogeneous(xy0), _homogeneous(xy1)
    lines1, lines0 = points0 @ model.T, points1 @ model
    residual = np.abs((points1 * lines1).sum(1))
    gradient = np.sqrt((lines1[:, :2] ** 2).sum(1) + (lines0[:, :2] ** 2).sum(1))
    return residual / np.maximum(gradient, np.finfo(np.float64).tiny)


def _homogeneous(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack([xy, np.ones(len(xy))])


def _on_a_line(*point_sets: NDArray[np.float64]) -> bool:
    for points in point_sets:
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if spread[1] <= _MIN_SPREAD * spread[0]:
            return True
    return False
