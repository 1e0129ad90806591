"""Pictures of matches."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .files import atomic_path, check_writable

MAX_WIDTH = 2400
"""Wider pictures are scaled down to this many pixels."""

_GREEN, _RED, _BLACK = (60, 220, 60), (60, 60, 235), (0, 0, 0)
_GAP = 8
_OUTLIER_OPACITY = 0.3
_INLIER_OPACITY = 0.5
_SUBPIXEL_BITS = 4
_CAPTION_HEIGHT = 36


def draw_matches(
    image0: NDArray[np.uint8],
    xy0: NDArray[np.float32],
    image1: NDArray[np.uint8],
    xy1: NDArray[np.float32],
    inliers: NDArray[np.bool_],
    caption: str,
) -> NDArray[np.uint8]:
    """Two images side by side with a line for each match: inliers green over faint red outliers.

    Both images keep their own height and share one scale, which shrinks the picture to at most
    ``MAX_WIDTH`` pixels.

    Args:
        image0: ``(H, W)`` grey or ``(H, W, 3)`` BGR, uint8.
        xy0: ``(K, 2)`` float32, matched points of ``image0``, pixels.
        image1: as ``image0``.
        xy1: ``(K, 2)`` float32, their partners in ``image1``, pixels.
        inliers: ``(K,)`` bool.
        caption: one line of ASCII text below the images.

    Returns:
        ``(H', W', 3)`` BGR uint8.
    """
    scale = min(1.0, (MAX_WIDTH - _GAP) / (image0.shape[1] + image1.shape[1]))
    left, right = _scaled_bgr(image0, scale), _scaled_bgr(image1, scale)
    height = max(left.shape[0], right.shape[0])
    width = left.shape[1] + _GAP + right.shape[1]
    picture = np.full((height, width, 3), 255, np.uint8)
    picture[: left.shape[0], : left.shape[1]] = left
    picture[: right.shape[0], left.shape[1] + _GAP :] = right

    start = (xy0 + 0.5) * scale - 0.5
    end = (xy1 + 0.5) * scale - 0.5 + np.array([left.shape[1] + _GAP, 0])
    ends = np.rint(np.stack([start, end], axis=1) * 2**_SUBPIXEL_BITS).astype(int)
    for chosen, color, opacity in (
        (ends[~inliers], _RED, _OUTLIER_OPACITY),
        (ends[inliers], _GREEN, _INLIER_OPACITY),
    ):
        layer = picture.copy()
        for first, second in chosen.tolist():
            cv2.line(layer, first, second, color, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
        picture = cv2.addWeighted(layer, opacity, picture, 1 - opacity, 0)
    for point in ends[inliers].reshape(-1, 2).tolist():
        radius = 2 << _SUBPIXEL_BITS
        cv2.circle(picture, point, radius, _GREEN, 1, cv2.LINE_AA, _SUBPIXEL_BITS)
    return np.vstack([picture, _caption(caption, width)])


def check_picture_path(path: Path) -> None:
    """Find out before the work is done whether a picture can be written.

    Raises:
        ValueError: the suffix is no image format that OpenCV writes.
        OSError: see :func:`bindesc.files.check_writable`.
    """
    check_writable(path)
    if not cv2.haveImageWriter(os.fspath(path)):
        raise ValueError(f"{path}: no image format has this suffix; use .png")


def save_picture(path: str | os.PathLike[str], picture: NDArray[np.uint8]) -> None:
    """Write a picture; the suffix of ``path`` chooses the format.

    Raises:
        ValueError: see :func:`check_picture_path`.
        OSError: the file cannot be written; nothing is left of it.
    """
    check_picture_path(Path(path))
    with atomic_path(path) as temporary:
        if not cv2.imwrite(os.fspath(temporary), picture):
            raise OSError(f"cannot write {path}")


def _scaled_bgr(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    if scale == 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _caption(text: str, width: int) -> NDArray[np.uint8]:
    strip = np.full((_CAPTION_HEIGHT, width, 3), 255, np.uint8)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.6
    (text_width, _), _ = cv2.getTextSize(text, font, size, 1)
    size *= min(1.0, (width - 16) / text_width) if text_width else 1.0
    cv2.putText(strip, text, (8, 24), font, size, _BLACK, 1, cv2.LINE_AA)
    return strip
