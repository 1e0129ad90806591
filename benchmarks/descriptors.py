"""The descriptors that are compared, all on the same ORB keypoints.

There is one detection an image. A descriptor may drop keypoints near the border and reorder the
rest, so each keypoint carries its index in ``class_id`` and every result is told in these indices.
A dropped keypoint is one that the descriptor cannot match: it gains and loses nothing else, and no
row depends on which others run.

Positions are mended, see :func:`bindesc.orb.from_orb`; ORB gets its own back to describe. They are
whole pixels of their level where :mod:`benchmarks.subpixel` does not say otherwise.
OpenCV's descriptors see the patch that ORB describes, as wide as ``KeyPoint.size``, by their own
setting where they have one (scale factor 1.0) and else by the size they are handed. LATCH alone
knows no scale: its window has a fixed width. A bindesc model sees that patch times its own
``support``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.detectors import SCALE_FACTORS, KeyPoints, create_detector, to_arrays
from bindesc.detectors import detect as detect_with
from bindesc.extractor import create
from bindesc.matching import match
from bindesc.orb import to_orb
from bindesc.orientation import turned
from bindesc.runtime import Runtime
from bindesc.training.pairing import Points

KEYPOINTS = 1000  # an image
ORB_SIZE = 31  # KeyPoint.size of an ORB keypoint on the full-size image, pixels
BRISK_SIZE = 12  # what BRISK itself reports where its pattern is about as wide

# Keypoints and the shape of their image to keypoints.
Adapt = Callable[[KeyPoints, tuple[int, ...]], KeyPoints]


def detect(gray: NDArray[np.uint8], count: int = KEYPOINTS, *, subpixel: bool = False) -> KeyPoints:
    """The ORB keypoints of an image, at most ``count``, each with its index in ``class_id``."""
    detector = create_detector("orb", count)
    return _numbered(detect_with(detector, gray, None, count, subpixel=subpixel))


def detect_unmended(gray: NDArray[np.uint8]) -> KeyPoints:
    """The same where OpenCV says that they are."""
    return _numbered(create_detector("orb", KEYPOINTS).detect(gray, None))


def _numbered(keypoints: Sequence[cv2.KeyPoint]) -> KeyPoints:
    for index, keypoint in enumerate(keypoints):
        keypoint.class_id = index
    return tuple(keypoints)


def detector_points(keypoints: KeyPoints) -> Points:
    """Positions, sides of the patches and angles of ORB keypoints."""
    xy, size, angle, _ = to_arrays(keypoints)
    return xy, size * np.float32(SCALE_FACTORS["orb"]), angle


def model_angles(runtime: Runtime, gray: NDArray[np.uint8], points: Points) -> NDArray[np.float32]:
    """The angles ``(N,)``, degrees, to which a model turns the keypoints of an image."""
    angle = points[2]
    patches, _ = runtime.cut(gray, *points, scale=runtime.support)
    return turned(angle, runtime.adapt(patches, angle < 0)[1])


@dataclass(frozen=True, eq=False)
class Described:
    """What one descriptor made of the keypoints of one image.

    Attributes:
        index: ``(K,)`` int, which keypoints are described.
        codes: ``(K, B)`` uint8 bits, or ``(K, D)`` float32.
    """

    index: NDArray[np.intp]
    codes: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Descriptor:
    """One row of the table.

    Attributes:
        label: its name.
        code: what it writes, such as "256 bits".
        extractor: an object with OpenCV's ``compute(image, keypoints)``.
        adapt: turns ORB keypoints of an image into some that make the extractor describe the same
            patches.
    """

    label: str
    code: str
    extractor: Any
    adapt: Adapt = lambda keypoints, _: keypoints

    def describe(self, gray: NDArray[np.uint8], keypoints: Sequence[cv2.KeyPoint]) -> Described:
        """Describe the keypoints, which carry their index in ``class_id``.

        Raises:
            ValueError: the extractor lost an index.
        """
        kept, codes = self.extractor.compute(gray, self.adapt(tuple(keypoints), gray.shape))
        index = np.array([keypoint.class_id for keypoint in kept], np.intp)
        if (index < 0).any() or len(np.unique(index)) != len(index):
            raise ValueError(f"{self.label}: compute() must keep class_id, got {index}")
        return Described(index, np.empty((0, 2), np.uint8) if codes is None else codes)


def mutual_matches(first: Described, second: Described) -> NDArray[np.intp]:
    """Keypoints that are each other's nearest neighbour: ``(M, 2)`` keypoint indices.

    By Hamming distance for bits, by Euclidean distance for floats; ties go to the lowest row.
    """
    if first.codes.dtype == np.uint8:
        rows = match(first.codes, second.codes).pairs
    else:
        a, b = first.codes, second.codes
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        nearest = squared.argmin(axis=1)
        query = np.flatnonzero(squared.argmin(axis=0)[nearest] == np.arange(len(a)))
        rows = np.stack([query, nearest[query]], axis=1)
    return np.stack([first.index[rows[:, 0]], second.index[rows[:, 1]]], axis=1)


def _xfeatures2d() -> Any:
    if not hasattr(cv2, "xfeatures2d"):
        raise ValueError("needs cv2.xfeatures2d: install opencv-contrib-python")
    return cv2.xfeatures2d


def _orb() -> Descriptor:
    orb = create_detector("orb", KEYPOINTS)

    def adapt(keypoints: KeyPoints, shape: tuple[int, ...]) -> KeyPoints:
        moved = tuple(_copy(k, k.size, k.octave) for k in keypoints)
        to_orb(orb, moved, shape)
        return moved

    return Descriptor("ORB", "256 bits", orb, adapt)


def _brisk() -> Descriptor:
    brisk = create_detector("brisk", KEYPOINTS)
    return Descriptor("BRISK", "512 bits", brisk, _sized(BRISK_SIZE / ORB_SIZE))


def _beblid() -> Descriptor:
    module = _xfeatures2d()
    extractor = module.BEBLID_create(SCALE_FACTORS["orb"], module.BEBLID_SIZE_256_BITS)
    return Descriptor("BEBLID", "256 bits", extractor)


def _teblid() -> Descriptor:
    module = _xfeatures2d()
    extractor = module.TEBLID_create(SCALE_FACTORS["orb"], module.TEBLID_SIZE_256_BITS)
    return Descriptor("TEBLID", "256 bits", extractor)


def _latch() -> Descriptor:
    return Descriptor("LATCH", "256 bits", _xfeatures2d().LATCH_create())


def brief() -> Descriptor:
    """BRIEF on upright keypoints; like LATCH it knows no scale, and no rotation either."""
    return Descriptor("BRIEF", "256 bits", _xfeatures2d().BriefDescriptorExtractor_create(32))


def _boost() -> Descriptor:
    extractor = _xfeatures2d().BoostDesc_create(scale_factor=SCALE_FACTORS["orb"])
    return Descriptor("BOOST", "256 bits", extractor)


def _sift() -> Descriptor:
    sift = create_detector("sift", KEYPOINTS)
    return Descriptor("SIFT", "128 floats", sift, _sized(1 / SCALE_FACTORS["sift"]))


PEERS: dict[str, Callable[[], Descriptor]] = {
    "orb": _orb,
    "brisk": _brisk,
    "beblid": _beblid,
    "teblid": _teblid,
    "latch": _latch,
    "boost": _boost,
    "sift": _sift,
}
"""What makes each of OpenCV's descriptors; raises ValueError where this OpenCV has it not."""


def labelled_model(text: str) -> tuple[str, str]:
    """``LABEL=MODEL`` or a model alone, as label and model."""
    label, equals, model = text.partition("=")
    return (label, model) if equals else (f"bindesc {text}", text)


def bindesc_descriptor(text: str) -> Descriptor:
    """A bindesc model, by name or path, with a label or without: see :func:`labelled_model`.

    Raises:
        ValueError: there is no such model, or its file is damaged.
    """
    label, model = labelled_model(text)
    extractor = create(model=model, nfeatures=KEYPOINTS)
    return Descriptor(label, f"{8 * extractor.descriptorSize()} bits", extractor)


def _sized(factor: float) -> Adapt:
    """Keypoints of another size; octave 0 makes SIFT, which alone reads it, use the full image."""
    return lambda keypoints, _: tuple(_copy(k, k.size * factor, 0) for k in keypoints)


def _copy(keypoint: cv2.KeyPoint, size: float, octave: int) -> cv2.KeyPoint:
    x, y = keypoint.pt
    return cv2.KeyPoint(x, y, size, keypoint.angle, keypoint.response, octave, keypoint.class_id)
