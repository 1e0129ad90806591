"""Random views of small colour images for contrastive learning: cut-outs, mirroring, colour."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

# Red, green and blue to brightness and two colour differences (YIQ).
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def random_views(rng: np.random.Generator, images: Tensor) -> Tensor:
    """One random view of each image, as in Chen et al., SimCLR, ICML 2020, without its blur.

    A cut-out of a fifth to all of the area and of an aspect of 3/4 to 4/3 becomes the whole image,
    mirrored half of the time; then :func:`random_colours`.

    Args:
        rng: the source of all randomness.
        images: ``(N, 3, H, W)`` float, RGB, 0 to 255.

    Returns:
        The same shape and range.
    """
    count = len(images)
    area = rng.uniform(0.2, 1, count)
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), count) / 2)
    width, height = (np.minimum(np.sqrt(area) * a, 1) for a in (aspect, 1 / aspect))
    # affine_grid maps the output's pixels to the input's, both from -1 to 1.
    frame = np.zeros((count, 2, 3), np.float32)
    frame[:, 0, 0] = width * rng.choice([-1, 1], count)
    frame[:, 1, 1] = height
    frame[:, 0, 2] = rng.uniform(-1, 1, count) * (1 - width)
    frame[:, 1, 2] = rng.uniform(-1, 1, count) * (1 - height)
    shape = list(images.shape)
    grid = F.affine_grid(torch.from_numpy(frame), shape, align_corners=False)
    cut = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    matrix, contrast = random_colours(rng, count)
    mean = cut.mean((2, 3), keepdim=True)
    centre = torch.from_numpy(matrix) @ mean.flatten(1)[:, :, None]
    mixed = torch.from_numpy(matrix) @ cut.flatten(2)
    mixed = centre + torch.from_numpy(contrast)[:, None, None] * (mixed - centre)
    return mixed.view(shape).clamp_(0, 255)


def random_colours(
    rng: np.random.Generator, count: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Changes of brightness, saturation and hue as one matrix an image, and of contrast.

    Each of the first two and contrast by up to 40 %, hue by up to 36 degrees; a fifth of the images
    keep their colours and another fifth become grey.

    Returns:
        ``(N, 3, 3)`` float32, from RGB to RGB, and ``(N,)`` float32, the contrast.
    """
    brightness, contrast, saturation = rng.uniform(0.6, 1.4, (3, count))
    hue = rng.uniform(-1, 1, count) * np.pi / 5
    kept = rng.random(count) < 0.2
    for values, neutral in ((brightness, 1), (contrast, 1), (saturation, 1), (hue, 0)):
        values[kept] = neutral
    saturation[rng.random(count) < 0.2] = 0
    change = np.zeros((count, 3, 3))
    change[:, 0, 0] = 1
    change[:, 1, 1] = change[:, 2, 2] = saturation * np.cos(hue)
    change[:, 2, 1] = saturation * np.sin(hue)
    change[:, 1, 2] = -change[:, 2, 1]
    matrix = brightness[:, None, None] * (np.linalg.inv(_TO_YIQ) @ change @ _TO_YIQ)
    return matrix.astype(np.float32), contrast.astype(np.float32)
