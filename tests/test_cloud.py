from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bindesc.cloud import _axes, save_cloud_picture

pytest.importorskip("matplotlib")


def scene(count: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Green points on a wide wall and one far away; three level cameras before it; y is down."""
    random = np.random.default_rng(0)
    points = random.uniform((-10, -2, 9), (10, 2, 10), (count, 3))
    points[:1] = 1e6
    colors = np.full((count, 3), (0, 200, 0), np.uint8)
    centres = np.array([[-2.0, 0, 0], [0, 0, 0.3], [2, 0, 0]])
    return points, colors, centres, np.tile(np.eye(3), (3, 1, 1))


def test_axes_are_right_away_and_up() -> None:
    points, _, centres, rotations = scene()
    right, away, up = _axes(points, centres, rotations)
    np.testing.assert_allclose(up, [0, -1, 0], atol=1e-9)
    assert abs(right[0]) > 0.99
    np.testing.assert_allclose(np.cross(right, away), up, atol=1e-9)


def test_picture_shows_points_and_cameras(tmp_path: Path) -> None:
    path = tmp_path / "points.png"
    save_cloud_picture(path, *scene())
    picture = cv2.imread(str(path)).astype(int)
    blue, green, red = picture[..., 0], picture[..., 1], picture[..., 2]
    for of_color in (green - red - blue > 50, red - green - blue > 50):
        columns = np.flatnonzero(of_color.any(axis=0))
        half = picture.shape[1] / 2
        assert (columns < half).any() and (columns > half).any()  # from above, from the side
    # One point far away does not shrink the wall, which is 20 wide, to a dot.
    assert np.ptp(np.flatnonzero((green - red > 50)[:, : int(half)].any(axis=0))) > half / 2
    assert [p.name for p in tmp_path.iterdir()] == ["points.png"]


def test_cameras_without_points_can_be_drawn(tmp_path: Path) -> None:
    points, colors, centres, rotations = scene()
    save_cloud_picture(tmp_path / "a.png", points[:0], colors[:0], centres, rotations)
    save_cloud_picture(tmp_path / "b.png", points[:0], colors[:0], centres[:1], rotations[:1])
    assert len(list(tmp_path.iterdir())) == 2
