"""What the pixels around a corner say: its orientation, and its place to a fraction of a pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import _cpu


def intensity_centroid(gray: NDArray[np.uint8], xy: NDArray[np.float32]) -> NDArray[np.float32]:
    """The orientation that ORB gives to a corner (Rublee et al. 2011, section 3.2).

    The direction from the point to the centroid of brightness of the disc around it, 31 pixels
    across, at the image's own scale.

    Args:
        gray: ``(H, W)`` uint8, mirrored beyond its border.
        xy: ``(N, 2)`` float32, pixels, in the image; rounded to whole ones.

    Returns:
        ``(N,)`` float32, degrees in [0, 360).

    Raises:
        ValueError: a position is not finite.
    """
    x, y = _cpu.disc_moments(np.ascontiguousarray(gray), _pixels(xy)).T
    angle = np.degrees(np.arctan2(y, x)).astype(np.float32) % np.float32(360)
    return np.where(angle < 360, angle, np.float32(0))  # -tiny % 360 rounds up to 360


def subpixel_offsets(gray: NDArray[np.uint8], xy: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far FAST corners are from the whole pixels where they were found.

    A corner of FAST is a pixel that differs from the ring around it, so its place is taken to be
    where the difference of two blurred images is extreme: by a parabola through that difference at
    3 x 3 pixels (Brown and Lowe 2002, equation 3). A step of s pixels is shortened to
    s / sqrt(1 + s^2), as long ones are mostly errors.

    Args:
        gray: ``(H, W)`` uint8, the image, or level of a pyramid, in which the corners were found;
            mirrored beyond its border.
        xy: ``(N, 2)`` float32, pixels, in the image; rounded to whole ones.

    Returns:
        ``(N, 2)`` float64, pixels from the whole ones, shorter than 1; 0 where the difference has
        no extremum.

    Raises:
        ValueError: a position is not finite.
    """
    return _cpu.subpixel_offsets(np.ascontiguousarray(gray), _pixels(xy))


def _pixels(xy: NDArray[np.float32]) -> NDArray[np.int32]:
    if not np.isfinite(xy).all():
        raise ValueError("xy: every value must be finite")
    return np.rint(xy).astype(np.int32)
