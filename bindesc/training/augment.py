"""Random views of a photo: light, sensor and geometry, drawn from a NumPy generator."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
STRETCH = 0.25  # of a homography, at most: half the logarithm of the ratio of its axes


def random_homography(
    rng: np.random.Generator, width: int, height: int, stretch: float = STRETCH
) -> NDArray[np.float64]:
    """A homography that turns, scales, shears and tilts an image about its centre.

    Rotation is normal with 40 degrees deviation (a tenth are uniform over the circle), scale
    log-uniform in 0.6 to 1.6, and perspective moves the corners by up to a fifth of the side. The
    ratio of the axes is log-uniform up to ``exp(2 stretch)``.

    Returns:
        ``(3, 3)`` float64, from the original's pixels to the view's.
    """
    turn = rng.uniform(-180, 180) if rng.random() < 0.1 else rng.normal(0, 40)
    angle = np.radians(turn)
    zoom = np.exp(rng.uniform(np.log(0.6), np.log(1.6)))
    longer = np.exp(rng.uniform(-stretch, stretch))
    shear = rng.uniform(-0.2, 0.2)
    to_centre = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    affine = rotation @ np.array([[zoom * longer, shear, 0], [0, zoom / longer, 0], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-0.2, 0.2, 2) / np.array([width / 2, height / 2])
    return np.linalg.inv(to_centre) @ tilt @ affine @ to_centre


def _smooth_field(rng: np.random.Generator, height: int, width: int, cells: int) -> NDArray:
    """A smooth random field in about [-1, 1], from a coarse grid of normal values."""
    coarse = rng.normal(0, 0.5, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _hard_shadows(rng: np.random.Generator, light: NDArray) -> None:
    """Darken or brighten one to four random polygons in place, with a soft or a hard edge."""
    height, width = light.shape
    for _ in range(rng.integers(1, 5)):
        mask = np.zeros(light.shape, np.float32)
        centre = rng.uniform(0, 1, 2) * (width, height)
        corners = centre + rng.normal(0, 0.3, (rng.integers(3, 7), 2)) * (width, height)
        cv2.fillConvexPoly(mask, cv2.convexHull(corners.astype(np.int32)), 1.0)
        if rng.random() < 0.6:
            mask = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.5, 6))
        light *= np.exp(mask * rng.uniform(-1.6, 0.7))


def relight(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """Change the light of a photo: local gain and gamma, shadows, exposure, sometimes a negative.

    Args:
        rng: the source of all randomness.
        image: ``(H, W)`` uint8.
        strength: 0 leaves the image alone, 1 is as strong as day against night.
    """
    height, width = image.shape
    value = (image.astype(np.float32) + 0.5) / 256
    gamma = np.exp(strength * rng.normal(0, 0.5))
    if rng.random() < 0.7:
        gamma = gamma * np.exp(
            strength * 0.5 * _smooth_field(rng, height, width, int(rng.integers(2, 9)))
        )
    value = value**gamma
    light = np.full(image.shape, np.exp(strength * rng.normal(-0.2, 0.5)), np.float32)
    if rng.random() < 0.7:
        light *= np.exp(
            strength * 0.9 * _smooth_field(rng, height, width, int(rng.integers(2, 13)))
        )
    if rng.random() < 0.5 * strength:
        _hard_shadows(rng, light)
    value *= light
    if rng.random() < 0.3 * strength:  # haze, reflections
        value += (
            0.3 * strength * (1 + _smooth_field(rng, height, width, int(rng.integers(2, 6)))) / 2
        )
    contrast = np.exp(strength * rng.normal(0, 0.25))
    value = (value - value.mean()) * contrast + value.mean()
    return np.clip(value * 256, 0, 255).astype(np.uint8)


def _motion_kernel(rng: np.random.Generator, length: int) -> NDArray:
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D(((length - 1) / 2,) * 2, rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return kernel / max(kernel.sum(), 1e-6)


def degrade(rng: np.random.Generator, image: Image, strength: float) -> Image:
    """Blur, noise and JPEG artefacts of a camera. ``(H, W)`` uint8 in and out."""
    chance = rng.random()
    if chance < 0.45:
        image = cv2.GaussianBlur(image, (0, 0), 0.3 + strength * rng.exponential(0.8))
    elif chance < 0.6:
        image = cv2.filter2D(image, -1, _motion_kernel(rng, int(rng.integers(3, 10))))
    elif chance < 0.7:  # an enlarged or thumbnailed photo
        height, width = image.shape
        factor = rng.uniform(0.4, 0.9)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.6:
        deviation = strength * rng.exponential(5)
        noise = rng.normal(0, deviation, image.shape).astype(np.float32)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(15, 95))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    return image
