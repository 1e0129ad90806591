"""OpenCV's own descriptors on the keypoints of any detector, for fair comparison."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .detectors import SCALE_FACTORS, create_detector, detect, to_arrays
from .image import to_gray
from .orb import to_orb
from .types import Features

OPENCV_DESCRIPTORS = ("orb", "sift", "teblid")

_ORB_PATCH = 31  # pixels at octave 0
_ORB_SCALE = 1.2
_ORB_LEVELS = 8


class OpenCVFeatures:
    """Keypoints of one OpenCV detector with the descriptors of another part of OpenCV.

    Each descriptor reads the patch that belongs to the detector: keypoint sizes are converted by
    the detectors' scale factors and, for ORB, to the pyramid level of that size. SIFT descriptors
    are returned as uint8, which loses nothing: OpenCV's are whole numbers from 0 to 255.

    Args:
        descriptor: ``"orb"`` (32 bytes), ``"teblid"`` (32 bytes) or ``"sift"`` (128 numbers).
        detector: a key of ``detectors.SCALE_FACTORS``.
        nfeatures: how many keypoints an image may have.
        even: see :func:`bindesc.create`.
        subpixel: see :func:`bindesc.create`. ORB reads the pixel of its level that is nearest.

    Raises:
        ValueError: an unknown name, or one that this OpenCV was built without.
    """

    def __init__(
        self,
        descriptor: str,
        detector: str = "orb",
        nfeatures: int = 1000,
        *,
        even: bool = False,
        subpixel: bool = True,
    ) -> None:
        self._detector_name = detector
        self._detector = create_detector(detector, nfeatures, even=even)
        self._descriptor_name = descriptor
        self._descriptor = _create(descriptor, detector)
        self._nfeatures = nfeatures
        self._even = even
        self._subpixel = subpixel

    def extract(self, image: Any) -> Features:
        """Detect and describe.

        Args:
            image: as for :func:`bindesc.image.to_gray`.

        Returns:
            The features; a keypoint too near the border for the descriptor is left out.

        Raises:
            ImageError: the image is not usable.
        """
        gray = to_gray(image)
        found = detect(
            self._detector,
            gray,
            None,
            self._nfeatures,
            even=self._even,
            subpixel=self._subpixel,
        )
        # class_id carries the index through compute, which drops and reorders keypoints.
        moved = tuple(self._for_descriptor(keypoint, i) for i, keypoint in enumerate(found))
        if self._descriptor_name == "orb":
            to_orb(self._descriptor, moved, gray.shape)
        kept, descriptors = self._descriptor.compute(gray, moved) if moved else ((), None)
        if descriptors is None:
            descriptors = np.zeros((0, self._descriptor.descriptorSize()), np.uint8)
        xy, size, angle, response = to_arrays([found[keypoint.class_id] for keypoint in kept])
        height, width = gray.shape
        codes: NDArray[np.uint8] = descriptors.astype(np.uint8)
        return Features(xy, size, angle, response, codes, (width, height))

    def _for_descriptor(self, keypoint: cv2.KeyPoint, index: int) -> cv2.KeyPoint:
        patch = keypoint.size * SCALE_FACTORS[self._detector_name]
        size, octave = keypoint.size, 0
        if self._descriptor_name == "orb":
            level = round(math.log(patch / _ORB_PATCH, _ORB_SCALE))
            octave = min(max(level, 0), _ORB_LEVELS - 1)
        elif self._descriptor_name == "sift":
            size = patch / SCALE_FACTORS["sift"]
            if self._detector_name == "sift":
                octave = keypoint.octave
        x, y = keypoint.pt
        return cv2.KeyPoint(x, y, size, keypoint.angle, keypoint.response, octave, index)


def _create(descriptor: str, detector: str) -> Any:
    if descriptor == "orb":
        return cv2.ORB.create()
    if descriptor == "sift":
        return create_detector("sift", 0)
    if descriptor != "teblid":
        raise ValueError(f"descriptor: {descriptor!r} is none of {', '.join(OPENCV_DESCRIPTORS)}")
    contrib: Any = getattr(cv2, "xfeatures2d", None)
    if not hasattr(contrib, "TEBLID"):
        raise ValueError(
            f"this OpenCV {cv2.__version__} has no TEBLID; the wheels opencv-contrib-python and "
            "opencv-contrib-python-headless have it"
        )
    return contrib.TEBLID.create(SCALE_FACTORS[detector], contrib.TEBLID_SIZE_256_BITS)
