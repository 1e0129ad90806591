"""The photo that timing benchmarks share; scikit-image ships it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def vga_photo() -> NDArray[np.uint8]:
    """A grey photo of 640x480 pixels with thousands of corners, ``(480, 640)`` uint8."""
    import skimage.data

    photo = cv2.cvtColor(skimage.data.astronaut(), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(photo, (640, 640))[:480], np.uint8)
