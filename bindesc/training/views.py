"""Two views of a place: one photo changed twice, or two photos that a reconstruction ties."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ..image import ImageError, resize_to
from .augment import STRETCH, degrade, random_homography, relight
from .multiview import MIN_SHARED, carry_by_points, read_photos, shared_points
from .pairing import Carried, carry_by_homography

_HARD_STRETCH = 0.5  # of a homography, for augment.STRETCH
_HARD_BLUR = 5.0  # pixels


class Partner(NamedTuple):
    """Another photo of the same place.

    Attributes:
        path: of the photo.
        here: ``(P, 2)`` common points in the photo itself, pixels.
        there: ``(P, 2)`` the same points in the other one.
        shapes: height and width that the reconstruction has for the two.
    """

    path: Path
    here: NDArray[np.float64]
    there: NDArray[np.float64]
    shapes: tuple[tuple[int, int], tuple[int, int]]


class Views(NamedTuple):
    """Two views, ``(H, W)`` uint8 each, and what carries keypoints from the first to the second."""

    first: NDArray[np.uint8]
    second: NDArray[np.uint8]
    carry: Callable[[NDArray[np.float32]], Carried]


def made_views(
    photo: NDArray[np.uint8],
    sides: tuple[int, int],
    warped: float,
    rng: np.random.Generator,
    *,
    hard: bool = False,
) -> Views:
    """Two views of one photo.

    Args:
        photo: ``(H, W)`` uint8.
        sides: range of the longer side after resizing, pixels.
        warped: how often the second view is seen by a homography, 0 to 1.
        rng: the source of all randomness.
        hard: the homography, which there always is then, stretches up to 2.7 times, and half of the
            second views are blurred.
    """
    photo = resize_to(photo, _random_side(sides, rng))
    height, width = photo.shape
    homography = np.eye(3)
    other = photo
    if hard or rng.random() < warped:
        homography = random_homography(rng, width, height, _HARD_STRETCH if hard else STRETCH)
        other = cv2.warpPerspective(
            photo,
            homography,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    if hard and rng.random() < 0.5:
        other = cv2.GaussianBlur(other, (0, 0), rng.uniform(1, _HARD_BLUR))
    return Views(*_taken_again(photo, other, rng), lambda xy: carry_by_homography(homography, xy))


def taken_views(
    photo: NDArray[np.uint8],
    other: NDArray[np.uint8],
    partner: Partner,
    sides: tuple[int, int],
    rng: np.random.Generator,
) -> Views:
    """A photo and another one of the same place, at sizes of their own."""
    first, here = _resize(photo, partner.here, _random_side(sides, rng))
    second, there = _resize(other, partner.there, _random_side(sides, rng))
    return Views(*_taken_again(first, second, rng), lambda xy: carry_by_points(here, there, xy))


def check_shape(path: Path, photo: NDArray[np.uint8], shape: tuple[int, int]) -> None:
    """Raise ImageError if a photo does not have the shape that was reconstructed."""
    if photo.shape != shape:
        (height, width), (rows, columns) = shape, photo.shape
        raise ImageError(
            f"{path}: {columns}x{rows} pixels, but the COLMAP model was made at {width}x{height}"
        )


def find_partners(
    photos: Sequence[Path],
    models: Sequence[Path],
    count: int,
    seed: int,
    *,
    complete: bool = False,
) -> dict[Path, list[Partner]]:
    """Which photos show the same place.

    Args:
        photos: all photos.
        models: folders of COLMAP models. A model's photos are those whose path ends with the name
            that the model has for them, the first in line if there are several.
        count: partners that are drawn for each photo.
        seed: of the draw.
        complete: whether all photos of the models must be there.

    Returns:
        Partners by photo, drawn at random from those with 60 common points or more.

    Raises:
        ValueError: a photo must be there and is not, or see :func:`read_photos`.
    """
    partners: dict[Path, list[Partner]] = {}
    for number, model in enumerate(models):
        known = [(photo, _photo_path(photo.name, photos, model)) for photo in read_photos(model)]
        found = [(photo, path) for photo, path in known if path is not None]
        if complete and len(found) < len(known):
            missing = next(photo.name for photo, path in known if path is None)
            raise ValueError(
                f"{model}: of its {len(known)} photos {len(known) - len(found)} are not there, "
                f"such as {missing}"
            )
        rng = np.random.default_rng([seed, number])
        for photo, path in found:
            others = [pair for pair in found if pair[1] != path]
            chosen = partners.setdefault(path, [])
            for position in rng.permutation(len(others)):
                other, other_path = others[position]
                here, there = shared_points(photo, other)
                if len(here) >= MIN_SHARED and len(chosen) < count:
                    chosen.append(Partner(other_path, here, there, (photo.shape, other.shape)))
    return partners


def _photo_path(name: str, photos: Sequence[Path], model: Path) -> Path | None:
    """The photo of a model's name; among several, one in a folder that the model's path names."""
    parts = Path(name).parts
    found = [path for path in photos if path.parts[-len(parts) :] == parts]
    return max(found, key=lambda path: path.parent.name in model.parts, default=None)


def _resize(
    image: NDArray[np.uint8], xy: NDArray[np.float64], side: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """An image at another size, and positions in it."""
    small = resize_to(image, side)
    factor = np.array(small.shape[::-1]) / image.shape[::-1]
    return small, (xy + 0.5) * factor - 0.5


def _random_side(sides: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(sides[0], sides[1] + 1))


def _taken_again(
    first: NDArray[np.uint8], second: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both views in other light and through another camera, the second one more so."""
    mild, strong = rng.uniform(0.0, 0.7), rng.uniform(0.2, 1.0)
    return (
        degrade(rng, relight(rng, first, mild), mild),
        degrade(rng, relight(rng, second, strong), strong),
    )
