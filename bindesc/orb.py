"""ORB's keypoints: found in several levels of its pyramid at once, and where they truly are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .corners import subpixel_offsets
from .threads import together

Level = tuple[int, NDArray[np.uint8], NDArray[np.uint8] | None]


def detect_orb(
    orb: Any, gray: NDArray[np.uint8], mask: NDArray[np.uint8] | None, *, subpixel: bool
) -> list[cv2.KeyPoint]:
    """The keypoints of ``orb.detect(gray, mask)``, in the same order, but in their true places.

    OpenCV works on one level of the pyramid after the other, on one thread. Here each level is an
    image for an ORB of a single level, and those run at the same time.

    Args:
        orb: a ``cv2.ORB``; its settings are used.
        gray: ``(H, W)`` uint8.
        mask: ``(H, W)`` uint8, 255 where keypoints may lie, or None.
        subpixel: move them from the whole pixels of their levels by
            :func:`bindesc.corners.subpixel_offsets`.

    Returns:
        Keypoints as ``orb`` would give them after :func:`from_orb`, but for ``subpixel``.
    """
    if not orb.getScaleFactor() > 1:  # one level, which is the image, or an error of OpenCV
        keypoints = list(orb.detect(gray, mask))
        if subpixel:
            place_subpixel(gray, keypoints)
        return keypoints
    counts = _level_counts(orb.getMaxFeatures(), orb.getScaleFactor(), orb.getNLevels())
    scales = _nominal_scales(orb, np.arange(len(counts), dtype=np.int32))

    def detect_level(level: Level) -> Sequence[cv2.KeyPoint]:
        octave, image, image_mask = level
        detector = cv2.ORB.create(
            nfeatures=counts[octave],
            nlevels=1,
            edgeThreshold=orb.getEdgeThreshold(),
            scoreType=orb.getScoreType(),
            patchSize=orb.getPatchSize(),
            fastThreshold=orb.getFastThreshold(),
        )
        keypoints: Sequence[cv2.KeyPoint] = detector.detect(image, image_mask)
        size = float(orb.getPatchSize() * scales[octave])
        true = np.divide(gray.shape[::-1], image.shape[::-1])
        xy: NDArray[Any] = positions(keypoints)
        if subpixel:
            xy = xy + subpixel_offsets(image, xy)
        xy = (xy + 0.5) * true - 0.5
        for keypoint, place in zip(keypoints, xy.tolist(), strict=True):
            keypoint.pt = place
            keypoint.size = size
            keypoint.octave = octave
        return keypoints

    levels = together(detect_level, _pyramid(gray, mask, scales, orb.getFirstLevel()))
    return [keypoint for level in levels for keypoint in level]


def from_orb(orb: Any, keypoints: Sequence[cv2.KeyPoint], shape: tuple[int, ...]) -> None:
    """Move keypoints from where OpenCV's ORB says that they are to where they are in the image.

    OpenCV multiplies a keypoint's position in its level of the pyramid by the nominal scale. But
    OpenCV resizes levels so that the corners of the images coincide, not the centres of their first
    pixels, and to whole pixels: the positions of the coarsest level are 1.3 pixels too far up and
    left, and up to 2 more at the far borders.

    Args:
        orb: the ``cv2.ORB`` that found them.
        keypoints: as it gave them.
        shape: of the image, height and width first.
    """
    nominal, true = _scales(orb, keypoints, shape)
    pixels = np.rint(positions(keypoints) / nominal)  # of the level, where corners are whole ones
    _move(keypoints, (pixels + 0.5) * true - 0.5)


def to_orb(orb: Any, keypoints: Sequence[cv2.KeyPoint], shape: tuple[int, ...]) -> None:
    """The inverse of :func:`from_orb`: move keypoints to where ``orb.compute`` expects them."""
    nominal, true = _scales(orb, keypoints, shape)
    _move(keypoints, ((positions(keypoints) + 0.5) / true - 0.5) * nominal)


def place_subpixel(gray: NDArray[np.uint8], keypoints: Sequence[cv2.KeyPoint]) -> None:
    """Move corners at whole pixels of the image by :func:`bindesc.corners.subpixel_offsets`."""
    xy = positions(keypoints)
    _move(keypoints, xy + subpixel_offsets(gray, xy))


def positions(keypoints: Sequence[cv2.KeyPoint]) -> NDArray[np.float32]:
    """``(N, 2)`` float32, pixels."""
    if not len(keypoints):
        return np.empty((0, 2), np.float32)
    return np.asarray(cv2.KeyPoint.convert(keypoints))


def _pyramid(
    gray: NDArray[np.uint8],
    mask: NDArray[np.uint8] | None,
    scales: NDArray[np.float32],
    first: int,
) -> Iterator[Level]:
    """ORB's pyramid: levels after the first are made from the one before, others from the image."""
    level, level_mask = gray, mask
    for octave, side in enumerate(_level_sizes(gray.shape, scales).tolist()):
        if octave <= first:
            level, level_mask = gray, mask
        if octave != first:
            level = cv2.resize(level, side, interpolation=cv2.INTER_LINEAR_EXACT)
            if level_mask is not None:
                level_mask = cv2.resize(level_mask, side, interpolation=cv2.INTER_LINEAR_EXACT)
        if octave > first and level_mask is not None:
            level_mask = cv2.threshold(level_mask, 254, 0, cv2.THRESH_TOZERO)[1]
        yield octave, level, level_mask


def _level_counts(nfeatures: int, scale_factor: float, levels: int) -> list[int]:
    """How many keypoints ORB takes from each level: a geometric row, in float32 as OpenCV does."""
    factor = np.float32(1 / scale_factor)
    share = nfeatures * (1 - factor) / (1 - np.float32(float(factor) ** levels))
    counts = []
    for _ in range(levels - 1):
        counts.append(int(np.rint(share)))
        share *= factor
    return [*counts, max(nfeatures - sum(counts), 0)]


def _nominal_scales(orb: Any, octave: NDArray[np.int32]) -> NDArray[np.float32]:
    scale: NDArray[np.float64] = orb.getScaleFactor() ** (octave - orb.getFirstLevel())
    return scale.astype(np.float32)


def _level_sizes(shape: tuple[int, ...], nominal: NDArray[np.float32]) -> NDArray[np.int64]:
    """``(N, 2)``, width and height of the levels of these scales, in float32 as OpenCV does."""
    sides = np.array([shape[1], shape[0]], np.float32) * (1 / nominal)[:, None]
    return np.rint(sides).astype(np.int64)


def _scales(
    orb: Any, keypoints: Sequence[cv2.KeyPoint], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Of each keypoint's level, OpenCV's scale ``(N, 1)`` and the true ones ``(N, 2)``."""
    octave = np.fromiter(map(attrgetter("octave"), keypoints), np.int32, len(keypoints))
    nominal = _nominal_scales(orb, octave)
    return nominal[:, None], np.array([shape[1], shape[0]]) / _level_sizes(shape, nominal)


def _move(keypoints: Sequence[cv2.KeyPoint], xy: NDArray[np.float64]) -> None:
    """Put keypoints at ``(N, 2)`` pixels."""
    for keypoint, position in zip(keypoints, xy.tolist(), strict=True):
        keypoint.pt = position
