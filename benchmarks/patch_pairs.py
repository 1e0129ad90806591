"""Pairs of patches for verification: whether two patches show the same point.

From scenes with known homographies, in the manner of HPatches: ORB keypoints of the reference image
are carried into a view by the homography as similarity frames (position, size, angle). Noise like a
detector's is then added to both frames, so that the two patches differ as those of two detections
do. Half of the pairs match; the others join the reference patch of one point and the view's patch
of another.

Or from a folder in the PhotoTour format, whose ``m50`` file lists the pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.detectors import SCALE_FACTORS, create_detector, detect, to_arrays
from bindesc.folder import find_images
from bindesc.image import read_image, resize_to, to_gray
from bindesc.log_polar import DIRECTIONS, RINGS
from bindesc.patches import PatchCutter, extract_patches, squares_to_log_polar
from bindesc.training.augment import degrade, random_homography, relight
from bindesc.training.brown import BrownError, open_brown
from bindesc.training.pairing import carry_angles, carry_by_homography

from .datasets import Scene, View

KEYPOINTS = 1000  # of a reference image
POSITION_NOISE = 0.04  # standard deviation, of the patch's side
SCALE_NOISE = 0.08  # of the logarithm
ANGLE_NOISE = 8.0  # degrees
WIDEST = (
    1.25  # patches lie inside both images up to this support, so that all supports share points
)
_MAX_SIDE = 1024  # of a photo, pixels
_VIEWS = 4  # made of a photo


@dataclass(frozen=True, eq=False)
class PatchPairs:
    """Pairs of patches of one test set.

    Attributes:
        name: of the set.
        cut: support (side of the patch over the keypoint's size) and S to ``(N, S, S)`` uint8, or
            to log-polar patches if S is None; a set of ready patches gives them as they are, 32
            samples wide, or makes log-polar ones of them.
        pairs: ``(P, 2)`` indices of patches.
        same: ``(P,)`` bool: both show the same point.
    """

    name: str
    cut: Callable[[float, int | None], NDArray[np.uint8]]
    pairs: NDArray[np.intp]
    same: NDArray[np.bool_]


def pairs_from_scenes(
    name: str, scenes: Iterable[Scene], count: int, seed: int = 0, *, draws: int = 1
) -> PatchPairs:
    """``count`` matching and as many non-matching pairs, drawn evenly from all views.

    Args:
        name: of the set.
        scenes: images with homographies.
        count: of each kind.
        seed: of the noise and of the draw.
        draws: of the noise of each point, which takes part so often at most.

    Raises:
        ValueError: the images have fewer than ``count`` points, or all at one place.
    """
    rng = np.random.default_rng(seed)
    images: list[NDArray[np.uint8]] = []
    tables = []
    for number, scene in enumerate(scenes):
        points = np.tile(_detect(scene.reference), (draws, 1))
        reference = len(images)
        images.append(scene.reference)
        for view in scene.views:
            first = _add_noise(rng, points)
            second = _add_noise(rng, _carry(points, view.homography))
            inside = _inside(first, scene.reference) & _inside(second, view.gray)
            scene_, image, other = (
                np.full((len(points), 1), v) for v in (number, reference, len(images))
            )
            rows = np.hstack([scene_, image, first, other, second])[inside]
            tables.append(rows[rng.permutation(len(rows))])
            images.append(view.gray)
    # The first row of every view, the second of every view, and so on.
    rank = np.concatenate([np.empty(0), *(np.arange(len(table)) for table in tables)])
    table = np.concatenate([np.empty((0, 11)), *tables])[np.argsort(rank, kind="stable")][:count]
    if len(table) < count:
        raise ValueError(f"{name}: the images give {len(table)} pairs, wanted {count}")
    frames = np.concatenate([table[:, 1:6], table[:, 6:]])
    other = _other_points(rng, table[:, 0], table[:, 2:4], table[:, 4])
    index = np.arange(count)
    pairs = np.concatenate(
        [np.stack([index, index + count], 1), np.stack([index, other + count], 1)]
    )
    return PatchPairs(
        name,
        lambda support, side: _cut(images, frames, support, side),
        pairs,
        np.arange(2 * count) < count,
    )


def scenes_of_photos(folder: Path, seed: int = 0) -> Iterator[Scene]:
    """Scenes made from all photos below a folder: synthetic views under another light."""
    for number, name in enumerate(find_images(folder)):
        rng = np.random.default_rng([seed, number])
        photo = resize_to(to_gray(read_image(folder / name)), _MAX_SIDE)
        yield Scene(Path(name).stem, photo, tuple(_made_view(rng, photo, k) for k in range(_VIEWS)))


def pairs_from_brown(folder: Path, count: int, seed: int = 0) -> PatchPairs:
    """Pairs of a PhotoTour folder's ``m50`` file: ``count`` of each kind at most, drawn at random.

    The file is ``m50_100000_100000_0.txt``, or else the first one there is.

    Raises:
        BrownError: there is no such file, or the folder is damaged.
    """
    opened = open_brown(folder)
    names = sorted(path.name for path in folder.glob("m50_*.txt"))
    if not names:
        raise BrownError(f"{folder}: no m50_*.txt with pairs")
    usual = "m50_100000_100000_0.txt"
    index, same = opened.read_pairs(usual if usual in names else names[0])
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [np.sort(rng.permutation(np.flatnonzero(same == kind))[:count]) for kind in (True, False)]
    )
    used, pairs = np.unique(index[chosen], return_inverse=True)
    patches = opened.read_patches()[used]
    ready = partial(_ready, patches)
    return PatchPairs(folder.name, ready, pairs.reshape(-1, 2), same[chosen])


def brown_folders(root: Path) -> list[Path]:
    """The PhotoTour folders with pairs at or just below ``root``, sorted.

    Raises:
        BrownError: there is none.
    """
    folders = [
        f for f in (root, *sorted(root.glob("*"))) if f.is_dir() and any(f.glob("m50_*.txt"))
    ]
    if not folders:
        raise BrownError(f"{root}: no folder with an m50_*.txt file")
    return folders


# A table of points has the columns x, y, side (pixels at support 1), angle (degrees).


def _detect(gray: NDArray[np.uint8]) -> NDArray[np.float64]:
    detector = create_detector("orb", KEYPOINTS)
    keypoints = detect(detector, gray, None, KEYPOINTS, subpixel=False)
    xy, size, angle, _ = to_arrays(keypoints)
    return np.column_stack([xy, size * SCALE_FACTORS["orb"], angle]).astype(np.float64)


def _carry(points: NDArray[np.float64], homography: NDArray[np.float64]) -> NDArray[np.float64]:
    """By the homography's scale at each point, and to where it turns the angle."""
    carried = carry_by_homography(homography, points[:, :2].astype(np.float32))
    side = points[:, 2] * np.sqrt(np.abs(np.linalg.det(carried.jacobian)))
    return np.column_stack([carried.xy, side, carry_angles(points[:, 3], carried) % 360])


def _add_noise(rng: np.random.Generator, points: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, side, angle = points.T
    shift = POSITION_NOISE * side * rng.normal(size=(2, len(points)))
    turn = rng.normal(0, ANGLE_NOISE, len(points))
    scale = np.exp(rng.normal(0, SCALE_NOISE, len(points)))
    return np.column_stack([x + shift[0], y + shift[1], side * scale, (angle + turn) % 360])


def _inside(points: NDArray[np.float64], gray: NDArray[np.uint8]) -> NDArray[np.bool_]:
    x, y, side, angle = points.T
    radians = np.radians(angle)
    reach = WIDEST * side / 2 * (np.abs(np.cos(radians)) + np.abs(np.sin(radians)))
    height, width = gray.shape
    inside = (x >= reach) & (x <= width - 1 - reach) & (y >= reach) & (y <= height - 1 - reach)
    return inside & (side > 1)


def _other_points(
    rng: np.random.Generator, scene: NDArray, xy: NDArray, side: NDArray
) -> NDArray[np.intp]:
    """For each point a random other one, of another scene or farther away than both patches."""
    count = len(scene)
    other = rng.integers(count, size=count)
    for _ in range(100):
        near = (xy - xy[other]) ** 2
        same_place = near.sum(1) <= np.maximum(side, side[other]) ** 2
        (bad,) = np.nonzero((scene == scene[other]) & same_place)
        if not len(bad):
            return other
        other[bad] = rng.integers(count, size=len(bad))
    raise ValueError("the points lie too close together to make non-matching pairs")


def _ready(patches: NDArray[np.uint8], support: float, side: int | None) -> NDArray[np.uint8]:
    """Patches that are as wide as they are, whatever is wanted."""
    del support
    return squares_to_log_polar(patches) if side is None else patches


def _cut(
    images: Sequence[NDArray[np.uint8]],
    frames: NDArray[np.float64],
    support: float,
    side: int | None,
) -> NDArray[np.uint8]:
    """Frames have the columns image, x, y, size, angle."""
    shape = (RINGS, DIRECTIONS) if side is None else (side, side)
    patches = np.empty((len(frames), *shape), np.uint8)
    for number, image in enumerate(images):
        (rows,) = np.nonzero(frames[:, 0] == number)
        x, y, size, angle = frames[rows, 1:].astype(np.float32).T
        xy = np.stack([x, y], 1)
        if side is None:
            patches[rows], _ = PatchCutter(image).cut_log_polar(xy, size, angle, scale=support)
        else:
            patches[rows], _ = extract_patches(image, xy, size, angle, scale=support, side=side)
    return patches


def _made_view(rng: np.random.Generator, photo: NDArray[np.uint8], number: int) -> View:
    height, width = photo.shape
    homography = random_homography(rng, width, height)
    moved: Any = cv2.warpPerspective(photo, homography, (width, height), flags=cv2.INTER_LINEAR)
    strength = rng.uniform(0.2, 1.0)
    gray = degrade(rng, relight(rng, moved, strength), strength)
    return View(f"view {number}", gray, homography)
