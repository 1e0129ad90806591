"""Patch pairs from unlabelled photos: two random views of each, keypoints detected anew in both.

Detecting again, instead of carrying keypoints over, shows a network the errors of position, scale
and orientation that the detector really makes. A set is a folder: ``patches.npy`` and ``xy.npy``
(memory-mapped), and ``set.json`` with the groups and the settings. A group is one pair of views.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..detectors import SCALE_FACTORS, WITHOUT_ANGLE, create_detector, detect, to_arrays
from ..files import atomic_folder
from ..image import ImageError, read_image, resize_to, to_gray
from ..patches import PATCH_SIDE, extract_patches
from .augment import degrade, random_homography, relight

PHOTO_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class PairSettings:
    """How views are made and keypoints paired.

    Attributes:
        views: pairs of views made from each photo.
        pairs_per_view: pairs kept of each, drawn at random.
        min_pairs: views with fewer pairs are dropped.
        detectors: detectors to draw from, one a view pair; repeat a name to weight it.
        keypoints: keypoints detected in each view.
        support: side of the patch over the detector's scale factor.
        min_side, max_side: range of the photo's long side after resizing, pixels.
        warped: share of the view pairs in which the second one is seen by a homography.
        max_offset: largest distance of a pair, as a share of the side of the patch at support 1
            (2.5 pixels for the smallest ORB keypoints).
        max_scale: largest ratio of the two sizes after the change of view is taken out.
        max_turn: largest difference of the two angles after the same, degrees.
        seed: seed of all randomness.
    """

    views: int = 8
    pairs_per_view: int = 160
    min_pairs: int = 32
    detectors: tuple[str, ...] = ("orb",)
    keypoints: int = 1500
    support: float = 1.0
    min_side: int = 400
    max_side: int = 1024
    warped: float = 0.6
    max_offset: float = 0.08
    max_scale: float = 1.34
    max_turn: float = 35.0
    seed: int = 0


def find_photos(folder: Path) -> list[Path]:
    """The photos below ``folder``, sorted. Raises ImageError if there is none."""
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")
    photos = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTO_SUFFIXES)
    if not photos:
        raise ImageError(f"{folder}: no photos in it ({', '.join(sorted(PHOTO_SUFFIXES))})")
    return photos


def map_keypoints(
    homography: NDArray[np.float64], xy: NDArray[np.float32]
) -> tuple[NDArray, NDArray, NDArray]:
    """Carry keypoints through a homography.

    Returns:
        ``(N, 2)`` positions, ``(N,)`` local scale (square root of the Jacobian's determinant) and
        ``(N, 2, 2)`` Jacobians.
    """
    homogeneous = np.column_stack([xy, np.ones(len(xy))]) @ homography.T
    depth = homogeneous[:, 2:]
    mapped = homogeneous[:, :2] / depth
    jacobian = (homography[:2, :2] - mapped[:, :, None] * homography[2, :2]) / depth[:, :, None]
    return mapped, np.sqrt(np.abs(np.linalg.det(jacobian))), jacobian


def pair_keypoints(
    first: Sequence[NDArray],
    second: Sequence[NDArray],
    homography: NDArray[np.float64],
    settings: PairSettings,
) -> NDArray[np.intp]:
    """Pair the keypoints of two views by geometry alone.

    Args:
        first: ``xy (N, 2), side (N,), angle (N,)`` of the first view; ``side`` is that of the
            patch, pixels.
        second: the same of the second view.
        homography: ``(3, 3)``, from the first view's pixels to the second's.
        settings: the tolerances.

    Returns:
        ``(K, 2)`` indices; each keypoint occurs once at most, the closest pairs first in line.
    """
    xy_a, side_a, angle_a = first
    xy_b, side_b, angle_b = second
    if not (len(xy_a) and len(xy_b)):
        return np.empty((0, 2), np.intp)
    mapped, scale, jacobian = map_keypoints(homography, xy_a)
    side_a = side_a * scale
    radians = np.radians(angle_a)
    direction = np.einsum("nij,nj->ni", jacobian, np.stack([np.cos(radians), np.sin(radians)], 1))
    angle_a = np.degrees(np.arctan2(direction[:, 1], direction[:, 0]))

    offset = np.linalg.norm(mapped[:, None] - xy_b, axis=2) / side_b
    ratio = np.abs(np.log(side_a[:, None] / side_b))
    turn = np.abs((angle_a[:, None] - angle_b + 180) % 360 - 180)
    allowed = (
        (offset <= settings.max_offset)
        & (ratio <= np.log(settings.max_scale))
        & (turn <= settings.max_turn)
    )
    cost = np.where(allowed, offset, np.inf)
    best_b, best_a = cost.argmin(1), cost.argmin(0)
    index = np.arange(len(xy_a))
    mutual = (best_a[best_b] == index) & allowed[index, best_b]
    return np.stack([index[mutual], best_b[mutual]], axis=1)


def make_views(
    rng: np.random.Generator, photo: NDArray[np.uint8], warped: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    """Two views of one photo and the homography from the first to the second."""
    height, width = photo.shape
    homography = np.eye(3)
    other = photo
    if rng.random() < warped:
        homography = random_homography(rng, width, height)
        other = cv2.warpPerspective(
            photo,
            homography,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
    mild, strong = rng.uniform(0.0, 0.7), rng.uniform(0.2, 1.0)
    return (
        degrade(rng, relight(rng, photo, mild), mild),
        degrade(rng, relight(rng, other, strong), strong),
        homography,
    )


def pairs_of_photo(
    photo: NDArray[np.uint8], settings: PairSettings, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """One group: ``(K, 2, 32, 32)`` patches and ``(K, 2)`` positions in the first view."""
    photo = resize_to(photo, int(rng.integers(settings.min_side, settings.max_side + 1)))
    first, second, homography = make_views(rng, photo, settings.warped)
    name = settings.detectors[rng.integers(len(settings.detectors))]
    detector = create_detector(name, settings.keypoints)
    points = []
    for view in (first, second):
        orient = name in WITHOUT_ANGLE
        keypoints = detect(detector, view, None, settings.keypoints, orient=orient)
        xy, size, angle, _ = to_arrays(keypoints)
        points.append((xy, size * SCALE_FACTORS[name], angle))
    pairs = pair_keypoints(points[0], points[1], homography, settings)
    if len(pairs) > settings.pairs_per_view:
        pairs = pairs[np.sort(rng.permutation(len(pairs))[: settings.pairs_per_view])]
    patches = np.empty((len(pairs), 2, PATCH_SIDE, PATCH_SIDE), np.uint8)
    for which, (view, (xy, side, angle)) in enumerate(zip((first, second), points, strict=True)):
        chosen = pairs[:, which]
        patches[:, which], _ = extract_patches(
            view, xy[chosen], side[chosen], angle[chosen], scale=settings.support
        )
    return patches, points[0][0][pairs[:, 0]]


def _photo_groups(
    task: tuple[int, Path, PairSettings],
) -> tuple[int, list[tuple[NDArray[np.uint8], NDArray[np.float32]]], str]:
    """All groups of one photo; an unreadable photo gives none and its message."""
    index, path, settings = task
    cv2.setNumThreads(1)
    try:
        photo = to_gray(read_image(path))
    except ImageError as error:
        return index, [], str(error)
    rngs = [np.random.default_rng([settings.seed, index, view]) for view in range(settings.views)]
    groups = [pairs_of_photo(photo, settings, rng) for rng in rngs]
    return index, [group for group in groups if len(group[0]) >= settings.min_pairs], ""


def build_pairs(
    folder: Path, output: Path, settings: PairSettings, *, workers: int = 2
) -> dict[str, Any]:
    """Make a set of pairs from all photos below a folder; the same seed gives the same bytes.

    The photos of one sub-folder are taken to show the same place (``scene``).

    Args:
        folder: where the photos are.
        output: the folder to make; it must not exist, and appears only when it is complete.
        settings: see :class:`PairSettings`.
        workers: processes.

    Returns:
        What ``set.json`` holds: ``settings``, ``count`` pairs, ``groups`` as a list of
        ``{"photo", "scene", "start", "end"}``, and ``skipped`` photos with the reason.

    Raises:
        ImageError: there is no photo, or none gives enough pairs.
        FileExistsError: ``output`` exists.
    """
    photos = find_photos(folder)
    groups: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    count = 0
    with atomic_folder(output) as partial:
        raw_patches, raw_xy = partial / "raw.patches", partial / "raw.xy"
        with raw_patches.open("wb") as patch_file, raw_xy.open("wb") as xy_file:
            for index, found, message in _run(photos, settings, workers):
                path = photos[index].relative_to(folder)
                if not found:
                    few = f"fewer than {settings.min_pairs} pairs in every view"
                    skipped[str(path)] = message or few
                for patches, xy in found:
                    patch_file.write(patches.tobytes())
                    xy_file.write(xy.astype(np.float32).tobytes())
                    end = count + len(xy)
                    source = {"photo": str(path), "scene": str(path.parent)}
                    groups.append({**source, "start": count, "end": end})
                    count = end
        if not count:
            raise ImageError(f"{folder}: none of {len(photos)} photos gave enough pairs: {skipped}")
        shape = (count, 2, PATCH_SIDE, PATCH_SIDE)
        raw_to_npy(raw_patches, partial / "patches.npy", np.uint8, shape)
        raw_to_npy(raw_xy, partial / "xy.npy", np.float32, (count, 2))
        summary = {
            "settings": asdict(settings),
            "count": count,
            "groups": groups,
            "skipped": skipped,
        }
        (partial / "set.json").write_text(json.dumps(summary, indent=1))
    return summary


def _run(photos: list[Path], settings: PairSettings, workers: int) -> Iterator[Any]:
    tasks = [(index, path, settings) for index, path in enumerate(photos)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from tqdm(pool.imap(_photo_groups, tasks), total=len(tasks), unit="photo")


def raw_to_npy(raw: Path, target: Path, dtype: Any, shape: tuple[int, ...]) -> None:
    """Put a .npy header before raw bytes that were written in pieces."""
    array = np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=shape)
    array[:] = np.memmap(raw, dtype=dtype, shape=shape, mode="r")
    array.flush()
    raw.unlink()


@dataclass(frozen=True, eq=False)
class PairSet:
    """A set on disk, opened for reading.

    Attributes:
        patches: ``(P, 2, 32, 32)`` uint8, memory-mapped.
        xy: ``(P, 2)`` float32, position in the first view, pixels.
        start, end: ``(G,)`` int64, the span of pairs of each group.
        photo, scene: ``(G,)`` str, where each group comes from.
        settings: the settings it was made with.
    """

    patches: NDArray[np.uint8]
    xy: NDArray[np.float32]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    photo: NDArray[np.str_]
    scene: NDArray[np.str_]
    settings: PairSettings


def open_pairs(folder: Path) -> PairSet:
    """Open what :func:`build_pairs` made. Raises FileNotFoundError where there is none."""
    if not (folder / "set.json").is_file():
        raise FileNotFoundError(
            f"{folder}: no set of patch pairs (make one: bindesc patches build)"
        )
    summary = json.loads((folder / "set.json").read_text())
    groups = summary["groups"]
    settings = summary["settings"] | {"detectors": tuple(summary["settings"]["detectors"])}
    return PairSet(
        patches=np.load(folder / "patches.npy", mmap_mode="r"),
        xy=np.load(folder / "xy.npy"),
        start=np.array([g["start"] for g in groups]),
        end=np.array([g["end"] for g in groups]),
        photo=np.array([g["photo"] for g in groups]),
        scene=np.array([g["scene"] for g in groups]),
        settings=PairSettings(**settings),
    )
