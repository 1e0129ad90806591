"""Keypoints: the OpenCV detectors by name, their patch scale, orientation and even distribution."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from . import _cpu
from .corners import intensity_centroid
from .orb import detect_orb, place_subpixel, positions

# The side of the described patch over KeyPoint.size, for what each detector reports as size.
SCALE_FACTORS = {
    "orb": 1.0,
    "fast": 5.0,
    "agast": 5.0,
    "akaze": 5.0,
    "kaze": 5.0,
    "brisk": 5.0,
    "sift": 6.75,
}

# Detectors of corners at whole pixels that leave KeyPoint.angle at -1. Where bindesc made one of
# them, it orients the corners as ORB does.
WITHOUT_ANGLE = ("fast", "agast")

_EVEN_CANDIDATES = 4

KeyPoints = tuple[cv2.KeyPoint, ...]


def create_detector(name: str, nfeatures: int, *, even: bool = False) -> Any:
    """The OpenCV detector called ``name``, asked for ``nfeatures`` where it has such a setting.

    With ``even`` it is asked for four times as many, for :func:`detect` to choose from.

    Raises:
        ValueError: the name is unknown, or this OpenCV was built without that detector.
    """
    if name not in SCALE_FACTORS:
        raise ValueError(f"detector: {name!r} is none of {', '.join(SCALE_FACTORS)}")
    if even:
        nfeatures *= _EVEN_CANDIDATES
    if name == "orb":
        return cv2.ORB.create(nfeatures=nfeatures)
    if name == "sift":
        # Without it all positions are a quarter of a pixel too far right and down.
        return cv2.SIFT.create(nfeatures=nfeatures, enable_precise_upscale=True)
    if name == "fast":
        return cv2.FastFeatureDetector.create()
    class_name = {"agast": "AgastFeatureDetector"}.get(name, name.upper())
    # OpenCV 5 moved AGAST, AKAZE, KAZE and BRISK to the xfeatures2d module.
    for module in (cv2, getattr(cv2, "xfeatures2d", None)):
        if hasattr(module, class_name):
            return getattr(module, class_name).create()
    raise ValueError(f"detector: OpenCV {cv2.__version__} here has no {class_name}")


def detector_name(detector: Any) -> str | None:
    """The key of ``SCALE_FACTORS`` that a ``cv2.Feature2D`` object belongs to, or None."""
    kind = type(detector).__name__.lower()
    return next(
        (name for name in sorted(SCALE_FACTORS, key=len, reverse=True) if name in kind), None
    )


def detect(
    detector: Any,
    gray: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    nfeatures: int,
    *,
    even: bool = False,
    orient: bool = False,
    subpixel: bool = True,
) -> KeyPoints:
    """Detect keypoints and keep the best, in the detector's own order.

    Those of ORB are put where they are, see :mod:`bindesc.orb`.

    Args:
        detector: a ``cv2.Feature2D`` object.
        gray: ``(H, W)`` uint8.
        mask: ``(H, W)`` uint8, 255 where keypoints may lie, else 0; or None.
        nfeatures: most keypoints to return.
        even: see :func:`select_keypoints`.
        orient: set each angle by :func:`bindesc.corners.intensity_centroid`.
        subpixel: move corners that were found at whole pixels by
            :func:`bindesc.corners.subpixel_offsets`.
    """
    if min(gray.shape) < 2:
        return ()  # ORB's pyramid would end in an image without pixels, which is an error
    if isinstance(detector, cv2.ORB):
        keypoints = tuple(detect_orb(detector, gray, mask, subpixel=subpixel))
    else:
        keypoints = tuple(detector.detect(gray, mask))
    if len(keypoints) > nfeatures:
        xy, _, _, response = to_arrays(keypoints)
        best = np.sort(select_keypoints(xy, response, nfeatures, even=even))
        keypoints = tuple(keypoints[i] for i in best)
    if orient:
        angles = intensity_centroid(gray, to_arrays(keypoints)[0])
        for keypoint, angle in zip(keypoints, angles.tolist(), strict=True):
            keypoint.angle = angle
    if subpixel and detector_name(detector) in WITHOUT_ANGLE:
        place_subpixel(gray, keypoints)
    return keypoints


def to_arrays(
    keypoints: Sequence[cv2.KeyPoint],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Keypoints as ``xy (N, 2), size (N,), angle (N,), response (N,)``, all float32."""
    size, angle, response = (
        np.fromiter(map(attrgetter(name), keypoints), np.float32, len(keypoints))
        for name in ("size", "angle", "response")
    )
    return positions(keypoints), size, angle, response


def to_keypoints(
    xy: NDArray[np.float32],
    size: NDArray[np.float32],
    angle: NDArray[np.float32],
    response: NDArray[np.float32],
) -> KeyPoints:
    """The inverse of :func:`to_arrays`; octave and class_id take OpenCV's defaults."""
    rows = zip(xy.tolist(), size.tolist(), angle.tolist(), response.tolist(), strict=True)
    return tuple(cv2.KeyPoint(x, y, s, a, r) for (x, y), s, a, r in rows)


def suppression_radius(xy: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each point is from the nearest point before it: ``(N, 2)`` to ``(N,)``, pixels.

    With points in descending strength this is the radius of adaptive non-maximal suppression
    (Brown, Szeliski and Winder 2005). The first point has infinity.

    Raises:
        ValueError: a value is not finite.
    """
    return _cpu.suppression_radius(np.ascontiguousarray(xy, np.float32))


def select_keypoints(
    xy: NDArray[np.float32], response: NDArray[np.float32], count: int, *, even: bool
) -> NDArray[np.intp]:
    """Indices of the ``count`` best points: the strongest, or the strongest evenly spread.

    Args:
        xy: ``(N, 2)`` float32, pixels.
        response: ``(N,)`` float32.
        count: how many to keep at most.
        even: rank by suppression radius instead of response.

    Returns:
        ``(min(N, count),)`` indices, best first; ties go to the lowest index.
    """
    order = np.argsort(-response, kind="stable")
    if even:
        order = order[np.argsort(-suppression_radius(xy[order]), kind="stable")]
    return order[:count]
