"""A match whose truth is known: a photo against a warped, blurred, noisy, darker view of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .pair import Extractor, Pair, match_pair
from .viz import draw_matches, save_picture

_SEED = 0
_ROTATION, _ZOOM = 25.0, 0.75  # degrees; the second view is smaller
_TILT = (2.5e-4, -1.5e-4)  # the last row of the homography, per pixel from the centre
_BLUR = 1.2  # pixels, standard deviation
_NOISE = 6.0  # grey levels, standard deviation
_GAIN, _GAMMA = 0.6, 1.3


@dataclass(frozen=True)
class DemoResult:
    """How one descriptor did.

    Attributes:
        name: of the descriptor.
        pair: its matches.
        corner_error: pixels, see :func:`corner_error`; infinite without a homography.
    """

    name: str
    pair: Pair
    corner_error: float


def load_photo() -> NDArray[np.uint8]:
    """The left image of the Middlebury 2014 "Motorcycle" pair, from scikit-image's wheel.

    Returns:
        ``(500, 741, 3)`` uint8, BGR.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the demo's photo is in scikit-image: pip install bindesc[viz]"
        ) from None
    left, _, _ = stereo_motorcycle()
    return cv2.cvtColor(left, cv2.COLOR_RGB2BGR)


def second_view(
    photo: NDArray[np.uint8], seed: int = _SEED
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Turn, shrink, tilt, blur and darken a photo and add noise.

    Args:
        photo: ``(H, W, 3)`` uint8.
        seed: of the noise.

    Returns:
        The view, ``(H, W, 3)`` uint8, and the homography from the photo to it, ``(3, 3)`` float64.
    """
    height, width = photo.shape[:2]
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    angle = np.radians(_ROTATION)
    cos, sin = _ZOOM * np.cos(angle), _ZOOM * np.sin(angle)
    motion = np.array([[cos, -sin, 0], [sin, cos, 0], [*_TILT, 1]])
    homography = center @ motion @ np.linalg.inv(center)
    homography /= homography[2, 2]
    view = cv2.warpPerspective(
        cv2.GaussianBlur(photo, (0, 0), _BLUR), homography, (width, height), flags=cv2.INTER_LINEAR
    )
    exposed = 255 * _GAIN * (view / 255) ** _GAMMA
    noise = np.random.default_rng(seed).normal(0, _NOISE, view.shape)
    return np.clip(np.rint(exposed + noise), 0, 255).astype(np.uint8), homography


def corner_error(
    model: NDArray[np.float64] | None, truth: NDArray[np.float64], size: tuple[int, int]
) -> float:
    """How far a homography puts the corners of an image from their true place.

    Args:
        model: ``(3, 3)``, or None.
        truth: ``(3, 3)``.
        size: width and height of the image, pixels.

    Returns:
        The mean over the four corners, pixels; infinite if ``model`` is None.
    """
    if model is None:
        return float("inf")
    right, bottom = size[0] - 1.0, size[1] - 1.0
    corners = np.array([[[0.0, 0.0]], [[right, 0.0]], [[right, bottom]], [[0.0, bottom]]])
    difference = cv2.perspectiveTransform(corners, model) - cv2.perspectiveTransform(corners, truth)
    return float(np.linalg.norm(difference, axis=-1).mean())


def run_demo(folder: Path, extractors: Mapping[str, Callable[[], Extractor]]) -> list[DemoResult]:
    """Match both views with each descriptor; write the pictures of the first.

    Args:
        folder: gets ``view0.png``, ``view1.png`` and ``demo.png``; made if missing.
        extractors: what to compare, by name.

    Returns:
        A result for each extractor, in order.

    Raises:
        ModuleNotFoundError: scikit-image is not installed.
        OSError: the folder cannot be written.
    """
    photo = load_photo()
    view, truth = second_view(photo)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name, make in extractors.items():
        extractor = make()
        pair = match_pair(extractor.extract(photo), extractor.extract(view), kind="H")
        error = corner_error(pair.geometry.model, truth, pair.features0.image_size)
        results.append(DemoResult(name, pair, error))
    first = results[0]
    inliers = first.pair.geometry.inliers
    caption = (
        f"{first.name}: {len(inliers)} matches, {inliers.sum()} inliers, "
        f"corner error {first.corner_error:.2f} px"
    )
    save_picture(folder / "view0.png", photo)
    save_picture(folder / "view1.png", view)
    picture = draw_matches(photo, first.pair.xy0, view, first.pair.xy1, inliers, caption)
    save_picture(folder / "demo.png", picture)
    return results
