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

# Detectors whose corners are whole pixels without an angle.
_BARE = ("fast", "agast")

MOST_FEATURES = 10**8  # more keypoints than an image has; OpenCV's own limits are near

_EVEN_CANDIDATES = 4
_LEAST_SIDE = 7  # pixels of an image, as FAST's ring; on smaller ones some detectors fail

KeyPoints = tuple[cv2.KeyPoint, ...]


def create_detector(name: str, nfeatures: int, *, even: bool = False) -> Any:
    """The OpenCV detector called ``name``, asked for ``nfeatures`` where it has such a setting.

    With ``even`` it is asked for four times as many, for :func:`detect` to choose from.

    Raises:
        ValueError: the name is unknown, or this OpenCV was built without that detector, or
            ``nfeatures`` is above ``MOST_FEATURES``.
    """
    if name not in SCALE_FACTORS:
        raise ValueError(f"detector: {name!r} is none of {', '.join(SCALE_FACTORS)}")
    if nfeatures > MOST_FEATURES:
        raise ValueError(f"nfeatures: at most {MOST_FEATURES}, got {nfeatures}")
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
    raise ValueError(
        f"detector: OpenCV {cv2.__version__} here has no {class_name}; the wheels "
        "opencv-contrib-python and opencv-contrib-python-headless have it"
    )


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
    subpixel: bool = True,
) -> KeyPoints:
    """Detect keypoints and keep the best, in the detector's own order.

    Those of ORB are put where they are, see :mod:`bindesc.orb`. Those of FAST and AGAST get an
    angle, see :func:`bindesc.corners.intensity_centroid`.

    Args:
        detector: a ``cv2.Feature2D`` object.
        gray: ``(H, W)`` uint8.
        mask: ``(H, W)`` uint8, 255 where keypoints may lie, else 0; or None.
        nfeatures: most keypoints to return.
        even: see :func:`select_keypoints`.
        subpixel: move corners that were found at whole pixels by
            :func:`bindesc.corners.subpixel_offsets`.
    """
    if min(gray.shape) < _LEAST_SIDE:
        return ()
    if isinstance(detector, cv2.ORB):
        keypoints = tuple(detect_orb(detector, gray, mask, subpixel=subpixel))
    else:
        keypoints = tuple(detector.detect(gray, mask))
    if len(keypoints) > nfeatures:
        xy, _, _, response = to_arrays(keypoints)
        best = np.sort(select_keypoints(xy, response, nfeatures, even=even))
        keypoints = tuple(keypoints[i] for i in best)
    if isinstance(detector, cv2.Feature2D) and detector_name(detector) in _BARE:
        angles = intensity_centroid(gray, positions(keypoints))
        for keypoint, angle in zip(keypoints, angles.tolist(), strict=True):
            keypoint.angle = angle
        if subpixel:
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
