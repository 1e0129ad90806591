"""Photos that benchmarks share; scikit-image ships them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.image import to_gray


def vga_photo() -> NDArray[np.uint8]:
    """A grey photo of 640x480 pixels with thousands of corners, ``(480, 640)`` uint8."""
    import skimage.data

    photo = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(photo, (640, 640))[:480], np.uint8)


def shipped_photo(name: str) -> NDArray[np.uint8]:
    """The photo ``skimage.data.NAME()``, ``(H, W)`` uint8 grey."""
    import skimage.data

    photo = getattr(skimage.data, name)()
    return to_gray(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR) if photo.ndim == 3 else photo)
