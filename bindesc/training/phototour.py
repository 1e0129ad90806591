"""PhotoTour folders (:mod:`bindesc.training.brown`) from image sequences with known homographies.

A sequence is a folder with ``img1.*``, ``img2.*``, ... and ``H1to2p``, ``H1to3p``, ..., which map
pixels of image 1 to those of the other (Mikolajczyk et al. 2005, the Oxford sets). Keypoints are
detected in every image and paired by geometry alone, so the patches of a point carry the errors
that a detector really makes. :mod:`bindesc.training.phototour_photos` does it for other photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..detectors import SCALE_FACTORS, create_detector, detect, to_arrays
from ..image import ImageError, read_image, to_gray
from ..patches import extract_patches
from .brown import write_brown
from .pairing import Tolerance, carry_by_homography, pair_keypoints

_SIDE = 64  # of a patch, as in the original
_MOST_PAIRS = 100_000  # of each kind in the m50 file

Points = tuple[NDArray, NDArray, NDArray]  # keypoints: xy (pixels), side (pixels), angle (degrees)


class Summary(NamedTuple):
    """What was written: numbers of patches, of 3D points, and of pairs of each kind."""

    patches: int
    points: int
    pairs: int


def build_phototour(
    folder: Path, output: Path, *, keypoints: int = 1500, support: float = 1.0, seed: int = 0
) -> Summary:
    """Write a PhotoTour folder of the ORB keypoints that several images of a sequence share.

    It has ``info.txt``, ``interest.txt`` and ``m50_N_N_0.txt`` with N matching and N other pairs,
    at most 100,000.

    Args:
        folder: a sequence, or a folder of sequences.
        output: the folder to make; it must not exist.
        keypoints: most in an image.
        support: side of the patch over the keypoint's size.
        seed: of the choice of pairs.

    Raises:
        ImageError: there is no sequence, or an image is missing or damaged.
        ValueError: a file is no homography, or there are fewer than two points.
        FileExistsError: ``output`` exists.
    """
    parts, tables = [], []
    first = np.zeros(6)  # free numbers of points and images
    for sequence in _find_sequences(folder):
        patches, rows = _tracks(sequence, keypoints, support)
        if len(rows):
            parts.append(patches)
            tables.append(rows + first)
            first[:2] = tables[-1][:, :2].max(0) + 1
    if first[0] < 2:
        raise ValueError(f"{folder}: the images share fewer than two keypoints")
    return write_phototour(output, parts, tables, seed)


def detect_orb(gray: NDArray[np.uint8], keypoints: int) -> Points:
    """The ORB keypoints of an image, with the side of their patch at support 1."""
    found = detect(create_detector("orb", keypoints), gray, None, keypoints)
    xy, size, angle, _ = to_arrays(found)
    return xy, size * SCALE_FACTORS["orb"], angle


def cut_patches(
    gray: NDArray[np.uint8],
    points: Points,
    chosen: NDArray[np.intp],
    point: NDArray[np.int64],
    image: int,
    support: float,
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The patches of an image and what is written about them.

    Args:
        gray: ``(H, W)`` uint8.
        points: its keypoints.
        chosen: ``(K,)``, which of them.
        point: ``(K,)``, which 3D points they show.
        image: its number.
        support: side of the patch over the keypoint's.

    Returns:
        ``(K, 64, 64)`` patches, and ``(K, 6)`` rows of point, image, x, y, angle (radians) and
        log2 of the side.
    """
    xy, side, angle = (values[chosen] for values in points)
    patches, _ = extract_patches(gray, xy, side, angle, scale=support, side=_SIDE)
    columns = [point, np.full(len(chosen), image), xy, np.radians(angle), np.log2(side)]
    return patches, np.column_stack(columns).astype(np.float64)


def write_phototour(
    output: Path,
    patches: Sequence[NDArray[np.uint8]],
    rows: Sequence[NDArray[np.float64]],
    seed: int,
) -> Summary:
    """Write a folder of what :func:`cut_patches` returned for several images.

    Args:
        output: the folder to make; it must not exist.
        patches: of each image.
        rows: of each image; points are numbered from 0 without gaps, at least two of them.
        seed: of the choice of pairs.
    """
    table = np.concatenate(rows)
    order = np.argsort(table[:, 0], kind="stable")  # the patches of a point stand together
    table = table[order]
    point = table[:, 0].astype(np.int64)
    pairs = _draw_pairs(point, np.random.default_rng(seed))
    count = len(pairs) // 2
    files = {f"m50_{count}_{count}_0.txt": pairs}
    write_brown(output, np.concatenate(patches)[order], point, table[:, 1:], files)
    return Summary(len(point), len(np.unique(point)), count)


def _find_sequences(folder: Path) -> list[Path]:
    found = [f for f in (folder, *sorted(folder.glob("*"))) if any(f.glob("H1to*p"))]
    if not found:
        raise ImageError(f"{folder}: no image sequence in it (img1.*, img2.*, H1to2p)")
    return found


def _tracks(
    sequence: Path, keypoints: int, support: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """What :func:`cut_patches` returns, of all images of a sequence."""
    numbers = sorted(int(path.name[4:-1]) for path in sequence.glob("H1to[0-9]*p"))
    images = {number: _read(sequence, number) for number in (1, *numbers)}
    points = {number: detect_orb(image, keypoints) for number, image in images.items()}
    shown = {number: np.empty((0, 2), np.intp) for number in images}  # point, keypoint
    for number in numbers:
        homography = _read_homography(sequence / f"H1to{number}p")
        carried = carry_by_homography(homography, points[1][0])
        shown[number] = pair_keypoints(points[1], points[number], carried, Tolerance())
    first = np.unique(np.concatenate([pairs[:, 0] for pairs in shown.values()]))
    shown[1] = np.stack([first, first], 1)
    parts = [
        cut_patches(
            images[number],
            points[number],
            pairs[:, 1],
            np.searchsorted(first, pairs[:, 0]),
            place,
            support,
        )
        for place, (number, pairs) in enumerate(shown.items())
    ]
    patches, rows = zip(*parts, strict=True)
    return np.concatenate(patches), np.concatenate(rows)


def _draw_pairs(point: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """First all matching pairs or a part of them, then as many of different points."""
    start, length = np.unique(point, return_index=True, return_counts=True)[1:]
    matching = np.concatenate(
        [begin + np.stack(np.triu_indices(n, 1), 1) for begin, n in zip(start, length, strict=True)]
    )
    matching = matching[rng.permutation(len(matching))[:_MOST_PAIRS]]
    others = np.empty((0, 2), np.int64)
    while len(others) < len(matching):
        drawn = rng.integers(len(point), size=(len(matching), 2))
        others = np.concatenate([others, drawn[point[drawn[:, 0]] != point[drawn[:, 1]]]])
    return np.concatenate([matching, others[: len(matching)]])


def _read(sequence: Path, number: int) -> NDArray[np.uint8]:
    paths = sorted(sequence.glob(f"img{number}.*"))
    if not paths:
        raise ImageError(f"{sequence / f'img{number}'}.*: no such image")
    return to_gray(read_image(paths[0]))


def _read_homography(path: Path) -> NDArray[np.float64]:
    try:
        homography = np.loadtxt(path)
    except ValueError:
        homography = np.empty(0)
    if homography.shape != (3, 3) or not np.linalg.det(homography):
        raise ValueError(f"{path}: expected an invertible 3x3 matrix of numbers")
    return homography
