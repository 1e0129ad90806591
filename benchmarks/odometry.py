"""Stereo visual odometry from keypoints and codes, frame to frame, without a map.

Left and right keypoints are matched (mutual nearest neighbours on the same row) and triangulated;
the next left image is matched to them and its pose found by P3P and RANSAC, then refined. No
descriptor has a threshold of its own, so nothing is tuned to one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.matching import match

ROW_PIXELS = 2.0  # largest difference of rows in a rectified pair
MIN_DISPARITY = 1.0  # pixels
REPROJECTION_PIXELS = 2.0  # largest error of an inlier
_ITERATIONS = 500

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Stereo:
    """A rectified pair of cameras.

    Attributes:
        matrix: ``(3, 3)`` intrinsics of both, pixels.
        baseline: metres.
    """

    matrix: Floats
    baseline: float


@dataclass(frozen=True, eq=False)
class View:
    """What one image gives: ``xy (N, 2)`` pixels and ``codes (N, B)`` uint8."""

    xy: NDArray[np.float32]
    codes: NDArray[np.uint8]


@dataclass(eq=False)
class Path3D:
    """What odometry found.

    Attributes:
        poses: ``(4, 4)`` each, from a frame's left camera to the first one's.
        inliers: of each frame after the first.
        lost: frames whose pose could not be found; the last motion was repeated.
        track_lengths: frames that each track lasted, for tracks of at least two.
    """

    poses: list[Floats] = field(default_factory=lambda: [np.eye(4)])
    inliers: list[int] = field(default_factory=list)
    lost: int = 0
    track_lengths: list[int] = field(default_factory=list)


def read_kitti(folder: Path) -> tuple[Stereo, Floats, list[tuple[Path, Path]]]:
    """Cameras, true poses ``(F, 4, 4)`` and the left and right images of a KITTI sequence.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the numbers of images and poses differ.
    """
    left, right = np.loadtxt(folder / "calib.txt").reshape(-1, 3, 4)[:2]
    stereo = Stereo(left[:, :3], float(left[0, 3] - right[0, 3]) / left[0, 0])
    rows = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)
    poses = np.concatenate([rows, np.tile([[[0.0, 0, 0, 1]]], (len(rows), 1, 1))], axis=1)
    names = [sorted((folder / side).glob("[0-9]*")) for side in ("left", "right")]
    if not len(names[0]) == len(names[1]) == len(poses):
        raise ValueError(
            f"{folder}: {len(names[0])} left and {len(names[1])} right images, {len(poses)} poses"
        )
    return stereo, poses, list(zip(*names, strict=True))


def run_odometry(frames: Iterable[tuple[View, View]], stereo: Stereo) -> Path3D:
    """Follow a stereo camera. Takes left and right views, in order; see :class:`Path3D`."""
    path = Path3D()
    motion = np.eye(4)
    before: tuple[View, Floats, NDArray[np.bool_]] | None = None
    tracks = np.zeros(0, np.int64)
    for left, right in frames:
        points, has_depth = triangulate(left, right, stereo)
        lengths = np.ones(len(left.xy), np.int64)
        if before is not None:
            first, old_points, usable = before
            pairs = match(first.codes, left.codes).pairs
            pairs = pairs[usable[pairs[:, 0]]]
            found = find_motion(old_points[pairs[:, 0]], left.xy[pairs[:, 1]], stereo)
            path.lost += found is None
            motion, inliers = found or (motion, np.zeros(len(pairs), np.bool_))
            path.poses.append(path.poses[-1] @ np.linalg.inv(motion))
            path.inliers.append(int(inliers.sum()))
            followed = pairs[inliers]
            lengths[followed[:, 1]] = tracks[followed[:, 0]] + 1
            ended = np.delete(tracks, followed[:, 0])
            path.track_lengths += ended[ended > 1].tolist()
        tracks, before = lengths, (left, points, has_depth)
    path.track_lengths += tracks[tracks > 1].tolist()
    return path


def triangulate(left: View, right: View, stereo: Stereo) -> tuple[Floats, NDArray[np.bool_]]:
    """``(N, 3)`` points in the left camera, metres, and which of the left keypoints have one."""
    pairs = match(left.codes, right.codes).pairs
    first, second = left.xy[pairs[:, 0]], right.xy[pairs[:, 1]]
    disparity = (first[:, 0] - second[:, 0]).astype(np.float64)
    good = (np.abs(first[:, 1] - second[:, 1]) <= ROW_PIXELS) & (disparity >= MIN_DISPARITY)
    depth = stereo.matrix[0, 0] * stereo.baseline / disparity[good]
    rays = np.column_stack([first[good], np.ones(good.sum())]) @ np.linalg.inv(stereo.matrix).T
    points, has_depth = np.zeros((len(left.xy), 3)), np.zeros(len(left.xy), np.bool_)
    points[pairs[good, 0]] = rays * depth[:, None]
    has_depth[pairs[good, 0]] = True
    return points, has_depth


def find_motion(
    points: Floats, xy: NDArray[np.float32], stereo: Stereo
) -> tuple[Floats, NDArray[np.bool_]] | None:
    """The motion ``(4, 4)`` from the points' camera to that of the pixels, and its inliers.

    None where fewer than 6 points agree.
    """
    if len(points) < 6:
        return None
    pixels = xy.astype(np.float64)
    cv2.setRNGSeed(0)
    found, rotation, translation, inliers = cv2.solvePnPRansac(
        points, pixels, stereo.matrix, None, iterationsCount=_ITERATIONS,
        reprojectionError=REPROJECTION_PIXELS, confidence=0.9999, flags=cv2.SOLVEPNP_P3P,
    )  # fmt: skip
    if not found or inliers is None or len(inliers) < 6:
        return None
    chosen = inliers.ravel()
    rotation, translation = cv2.solvePnPRefineLM(
        points[chosen], pixels[chosen], stereo.matrix, None, rotation, translation
    )
    projected, _ = cv2.projectPoints(points, rotation, translation, stereo.matrix, None)
    error = np.linalg.norm(projected[:, 0] - pixels, axis=1)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
    return motion, error <= REPROJECTION_PIXELS


def relative_errors(poses: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Of each step from a frame to the next: translation, % of its length; rotation, degrees."""
    steps, true_steps = (np.linalg.inv(p[:-1]) @ p[1:] for p in (poses, truth))
    error = np.linalg.inv(true_steps) @ steps
    length = np.linalg.norm(true_steps[:, :3, 3], axis=1)
    cosine = np.clip((np.trace(error[:, :3, :3], axis1=1, axis2=2) - 1) / 2, -1, 1)
    return 100 * np.linalg.norm(error[:, :3, 3], axis=1) / length, np.degrees(np.arccos(cosine))


def aligned(poses: Floats, truth: Floats) -> Floats:
    """The positions ``(F, 3)``, turned and moved onto the true ones (Umeyama 1991, no scale)."""
    positions, target = poses[:, :3, 3], truth[:, :3, 3]
    centre, target_centre = positions.mean(axis=0), target.mean(axis=0)
    u, _, vt = np.linalg.svd((target - target_centre).T @ (positions - centre))
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return (positions - centre) @ rotation.T + target_centre
