"""Keypoints to patches: the place with the conventions of patches' centre, scale and angle.

The centre of the image's top-left pixel is (0, 0). A patch of side S covers ``size * scale`` pixels
of the image; its samples lie on a regular grid, centred on the keypoint and turned by ``angle``
degrees clockwise, so that the keypoint's orientation points to the right of the patch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _cpu
from .log_polar import DIRECTIONS, RINGS
from .threads import default_threads

PATCH_SIDE = 32
_MOST_SAMPLES = 1024  # along a side

_SQUARE_SIDES = 16, 128
_SQUARE_PITCH = 64  # a multiple of the pixels of every level that is used
_PER_IMAGE = 128

# cv2.remap refuses images with a side of 32767 or more.
_REMAP_LIMIT = 32766


def extract_patches(
    gray: NDArray[np.uint8],
    xy: NDArray[np.float32],
    size: NDArray[np.float32],
    angle: NDArray[np.float32],
    *,
    scale: float = 1.0,
    side: int = PATCH_SIDE,
    border: Literal["pad", "drop"] = "pad",
    dtype: DTypeLike = np.uint8,
) -> tuple[NDArray, NDArray[np.intp]]:
    """Cut a square patch around every keypoint, scaled and turned to its size and angle.

    Bilinear interpolation from the level of a Gaussian pyramid whose pixels come closest to the
    patch's sampling step, so that large keypoints do not alias. uint8 patches are cut by the C++
    core in integers, less than a grey level from the exact ones in smooth texture, and the same on
    every processor and with every version of OpenCV.

    Args:
        gray: ``(H, W)`` uint8.
        xy: ``(N, 2)`` float32, pixels.
        size: ``(N,)`` float32, the detector's diameter in pixels, positive.
        angle: ``(N,)`` float32, degrees; negative means upright.
        scale: side of the patch in the image over ``size``: see ``detectors.SCALE_FACTORS``.
        side: samples along each side of the patch, 1 to 1024.
        border: ``"pad"`` mirrors the image at its border and keeps every keypoint; ``"drop"``
            leaves out those whose patch reaches outside.
        dtype: ``np.uint8``, or ``np.float32`` (0 to 255, no rounding).

    Returns:
        ``(K, side, side)`` patches and ``(K,)`` the indices of the keypoints they belong to.

    Raises:
        ValueError: lengths differ, a value is not finite, a size is not positive, or ``side``,
            ``border`` or ``dtype`` is none of the above.

    Example:
        >>> image = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
        >>> point = np.array([[31.5, 31.5]], np.float32)
        >>> patches, kept = extract_patches(image, point, np.float32([32]), np.float32([-1]))
        >>> bool((patches[0] == image[16:48, 16:48]).all())
        True
    """
    return PatchCutter(gray, dtype).cut(xy, size, angle, scale=scale, side=side, border=border)


class PatchCutter:
    """Cuts patches of one image, whose smaller levels are made once, when they are needed.

    Args:
        gray: ``(H, W)`` uint8.
        dtype: of the patches, see :func:`extract_patches`.
    """

    def __init__(self, gray: NDArray[np.uint8], dtype: DTypeLike = np.uint8):
        if np.dtype(dtype) not in (np.uint8, np.float32):
            raise ValueError(f"dtype: expected uint8 or float32, got {np.dtype(dtype)}")
        self._levels = [np.ascontiguousarray(gray, dtype)]

    def cut(
        self,
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        *,
        scale: float = 1.0,
        side: int = PATCH_SIDE,
        border: Literal["pad", "drop"] = "pad",
    ) -> tuple[NDArray, NDArray[np.intp]]:
        """See :func:`extract_patches`."""
        if not 1 <= side <= _MOST_SAMPLES:
            raise ValueError(f"side: expected 1 to {_MOST_SAMPLES}, got {side}")
        affine = _sampling(xy, size, angle, scale, side)
        shape = self._levels[0].shape
        affine, kept = _drop_outside(affine, border, lambda: _inside(affine, side, shape))
        step = size[kept] * (scale / side)
        level = np.round(np.log2(np.maximum(step, 1e-6)))
        level = np.clip(level, 0, self._highest).astype(np.int32)
        affine /= np.exp2(level).astype(np.float32)[:, None, None]
        self._make_levels(1 + level.max(initial=0))
        if self._levels[0].dtype == np.uint8:
            return _cpu.sample(self._levels, affine, level, side, default_threads()), kept
        patches = np.empty((len(affine), side, side), self._levels[0].dtype)
        for current, image in enumerate(self._levels):
            (chosen,) = np.nonzero(level == current)
            patches[chosen] = _sample(image, affine[chosen], side)
        return patches, kept

    def cut_log_polar(
        self,
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        *,
        scale: float = 1.0,
        border: Literal["pad", "drop"] = "pad",
    ) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
        """Log-polar patches, see :mod:`bindesc.log_polar`, of a uint8 image.

        The last ring touches the sides of the patch that :meth:`cut` cuts with the same arguments.

        Returns:
            ``(K, RINGS, DIRECTIONS)`` uint8, and ``(K,)`` the indices of the keypoints.
        """
        levels, circles, kept = self.circles(xy, size, angle, scale=scale, border=border)
        return _cpu.sample_log_polar(levels, circles, default_threads()), kept

    def circles(
        self,
        xy: NDArray[np.float32],
        size: NDArray[np.float32],
        angle: NDArray[np.float32],
        *,
        scale: float = 1.0,
        border: Literal["pad", "drop"] = "pad",
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.intp]]:
        """Where :meth:`cut_log_polar` cuts.

        Returns:
            The levels of the pyramid; ``(K, 2, 3)``, what takes (x, y, 1) of the unit circle, which
            becomes the last ring, to the image; and ``(K,)`` the indices of the keypoints.
        """
        circles = _sampling(xy, size, angle, scale, 2)  # the radius is half a side
        shape = self._levels[0].shape
        circles, kept = _drop_outside(circles, border, lambda: _circle_inside(circles, shape))
        self._make_levels(min(_cpu.log_polar_levels(circles), 1 + self._highest))
        return self._levels, circles, kept

    @property
    def _highest(self) -> int:
        return max(int(np.log2(min(self._levels[0].shape))), 0)

    def _make_levels(self, count: int) -> None:
        while len(self._levels) < count:
            # A pixel i is centred on pixel 2 i of the level below.
            self._levels.append(cv2.pyrDown(self._levels[-1]))


def squares_to_log_polar(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The log-polar patches of square ones, whose largest circle is the last ring.

    Args:
        patches: ``(N, S, S)`` uint8, S from 16 to 128.

    Returns:
        ``(N, RINGS, DIRECTIONS)`` uint8, the same for any N.

    Raises:
        ValueError: another shape or dtype.
    """
    least, most = _SQUARE_SIDES
    side = patches.shape[-1] if patches.ndim == 3 else 0
    square = least <= side <= most and patches.shape[1] == side
    if patches.dtype != np.uint8 or not square:
        raise ValueError(
            f"patches: expected (N, S, S) uint8, S from {least} to {most}, "
            f"got {patches.shape} {patches.dtype}"
        )
    # One image holds many, far enough apart, and so that each has whole pixels on every level.
    pitch = -(-side // _SQUARE_PITCH) * _SQUARE_PITCH + _SQUARE_PITCH
    before = (pitch - side) // 2
    rest = pitch - side - before
    centre = before + (side - 1) / 2
    parts = [np.empty((0, RINGS, DIRECTIONS), np.uint8)]
    for start in range(0, len(patches), _PER_IMAGE):
        part = patches[start : start + _PER_IMAGE]
        image = np.pad(part, ((0, 0), (before, rest), (before, rest)), mode="reflect")
        xy = np.full((len(part), 2), centre, np.float32)
        xy[:, 1] += np.arange(len(part)) * pitch
        size, angle = np.full(len(part), side, np.float32), np.zeros(len(part), np.float32)
        cutter = PatchCutter(image.reshape(-1, pitch))
        parts.append(cutter.cut_log_polar(xy, size, angle)[0])
    return np.concatenate(parts)


def _sampling(
    xy: NDArray,
    size: NDArray,
    angle: NDArray,
    scale: float,
    side: int,
) -> NDArray[np.float32]:
    """``(N, 2, 3)``: patch coordinates (u, v, 1), from the patch's centre, to image coordinates."""
    count = len(xy)
    if xy.shape != (count, 2) or size.shape != (count,) or angle.shape != (count,):
        raise ValueError(
            "xy, size, angle: expected (N, 2), (N,), (N,), "
            f"got {xy.shape}, {size.shape}, {angle.shape}"
        )
    if not (np.isfinite(xy).all() and np.isfinite(size).all() and np.isfinite(angle).all()):
        raise ValueError("xy, size, angle: every value must be finite")
    if (size <= 0).any() or not scale > 0:
        raise ValueError("size, scale: must be positive")
    step = size.astype(np.float64) * scale / side
    affine = np.empty((count, 2, 3), np.float32)
    affine[:, :, :2] = similarities(step, angle)
    affine[:, :, 2] = xy
    return affine


def similarities(length: NDArray, angle: NDArray) -> NDArray[np.float64]:
    """What takes patches' coordinates, from their centres, to offsets in the image.

    Args:
        length: ``(N,)``, of the coordinates' unit, pixels.
        angle: ``(N,)``, degrees; negative means upright.

    Returns:
        ``(N, 2, 2)`` float64.
    """
    radians = np.radians(np.where(angle < 0, 0.0, angle.astype(np.float64)))
    result = np.empty((len(radians), 2, 2))
    result[:, 0, 0] = result[:, 1, 1] = length * np.cos(radians)
    result[:, 1, 0] = length * np.sin(radians)
    result[:, 0, 1] = -result[:, 1, 0]
    return result


def _drop_outside(
    affine: NDArray[np.float32], border: str, inside: Callable[[], NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The patches that ``border`` keeps, and their indices."""
    if border == "pad":
        return affine, np.arange(len(affine))
    if border != "drop":
        raise ValueError(f"border: {border!r} is neither 'pad' nor 'drop'")
    kept = np.flatnonzero(inside())
    return affine[kept], kept


def _inside(affine: NDArray[np.float32], side: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    half = np.float32((side - 1) / 2)
    corners = np.array(
        [[-half, half, -half, half], [-half, -half, half, half], [1, 1, 1, 1]], np.float32
    )
    at = affine @ corners  # (N, 2, 4)
    highest = np.array([[shape[1] - 1], [shape[0] - 1]])
    return np.asarray(((at >= 0) & (at <= highest)).all(axis=(1, 2)))


def _circle_inside(circle: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    reach = np.hypot(circle[:, :, 0], circle[:, :, 1])  # (N, 2)
    at, highest = circle[:, :, 2], np.array([shape[1] - 1, shape[0] - 1])
    return np.asarray(((at >= reach) & (at + reach <= highest)).all(axis=1))


def _sample(image: NDArray, affine: NDArray[np.float32], side: int) -> NDArray:
    """Sample ``(N, side, side)`` patches from one float image by bilinear interpolation."""
    offset = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    if max(image.shape) > _REMAP_LIMIT:
        raise ValueError(f"image: a side over {_REMAP_LIMIT} pixels is not supported")
    patches = np.empty((len(affine), side, side), image.dtype)
    per_call = _REMAP_LIMIT // side
    for start in range(0, len(affine), per_call):
        part = affine[start : start + per_call]
        # (n, v, u) by broadcasting: a matrix product would wake BLAS's threads, which then spin
        # beside the network's.
        along_u = part[:, :, None, 0, None] * offset
        along_v = part[:, :, 1, None, None] * offset[:, None] + part[:, :, 2, None, None]
        xs, ys = ((along_u[:, i] + along_v[:, i]).reshape(-1, side) for i in range(2))
        out = patches[start : start + per_call].reshape(-1, side)
        cv2.remap(image, xs, ys, cv2.INTER_LINEAR, dst=out, borderMode=cv2.BORDER_REFLECT_101)
    return patches
