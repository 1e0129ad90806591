from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import vo_kitti
from benchmarks.odometry import (
    Stereo,
    View,
    aligned,
    find_motion,
    read_kitti,
    relative_errors,
    run_odometry,
    triangulate,
)

STEREO = Stereo(np.array([[500.0, 0, 320], [0, 500, 120], [0, 0, 1]]), 0.5)


def true_poses(count: int) -> np.ndarray:
    poses = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        poses[i, :3, :3] = cv2.Rodrigues(np.array([0.0, 0.02 * i, 0.01 * i]))[0]
        poses[i, :3, 3] = 0.1 * i, 0.02 * i, 1.0 * i
    return poses


def seen(poses: np.ndarray) -> list[tuple[View, View]]:
    """Random points with codes of their own, seen by both cameras without error."""
    random = np.random.default_rng(0)
    points = random.uniform((-8, -3, 12), (8, 3, 40), (120, 3))
    codes = random.integers(0, 256, (120, 32), np.uint8)
    frames = []
    for pose in poses:
        inverse = np.linalg.inv(pose)
        left = points @ inverse[:3, :3].T + inverse[:3, 3]
        order = random.permutation(120)
        views = []
        for offset in (0.0, STEREO.baseline):
            projected = (left - [offset, 0, 0]) @ STEREO.matrix.T
            xy = (projected[:, :2] / projected[:, 2:]).astype(np.float32)
            views.append(View(xy[order], codes[order]))
        frames.append((views[0], views[1]))
    return frames


def test_a_perfect_path_is_found() -> None:
    truth = true_poses(5)
    path = run_odometry(seen(truth), STEREO)
    poses = np.stack(path.poses)
    np.testing.assert_allclose(poses, truth, atol=1e-4)
    assert path.lost == 0
    assert path.inliers == [120] * 4
    assert path.track_lengths == [5] * 120
    translation, rotation = relative_errors(poses, truth)
    assert translation.shape == rotation.shape == (4,)
    assert translation.max() < 0.02
    assert rotation.max() < 0.002


def test_descriptors_take_turns_on_each_image() -> None:
    truth = true_poses(3)
    views = [view for pair in seen(truth) for view in pair]
    images = [np.array([[number]], np.uint8) for number in range(len(views))]
    calls = []

    def describe(name: str) -> vo_kitti.Describe:
        def call(image: np.ndarray) -> View:
            calls.append((image.item(), name))
            return views[image.item()]

        return call

    runs = vo_kitti.follow(images, {name: describe(name) for name in "ab"}, STEREO)
    assert calls == [(number, name) for number in range(6) for name in "aabb"]
    for name in "ab":
        np.testing.assert_allclose(np.stack(runs[name].path.poses), truth, atol=1e-4)
        assert len(runs[name].extraction) == 6
        assert min(*runs[name].extraction, runs[name].rest) > 0


def test_triangulation_needs_the_same_row_and_a_disparity() -> None:
    left, right = seen(true_poses(1))[0]
    right.xy[0, 1] += 5
    right.xy[1, 0] = left.xy[1, 0]
    points, has_depth = triangulate(left, right, STEREO)
    assert not has_depth[:2].any()
    assert has_depth[2:].all()
    assert 12 <= points[2:, 2].min() <= points[2:, 2].max() <= 40.1


def test_a_frame_that_is_lost_repeats_the_last_motion() -> None:
    frames = seen(true_poses(4))
    blind = View(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    path = run_odometry([*frames[:3], (blind, blind)], STEREO)
    assert path.lost == 1
    assert path.inliers == [120, 120, 0]
    step = np.linalg.inv(path.poses[1]) @ path.poses[2]
    np.testing.assert_allclose(np.linalg.inv(path.poses[2]) @ path.poses[3], step, atol=1e-9)
    assert find_motion(np.zeros((5, 3)), np.zeros((5, 2), np.float32), STEREO) is None


def test_errors_of_a_known_drift() -> None:
    truth = true_poses(3)
    poses = truth.copy()
    poses[2] = poses[2] @ np.block(
        [
            [cv2.Rodrigues(np.array([0, 0, np.radians(2)]))[0], np.array([[0.0], [0], [0.1]])],
            [np.zeros((1, 3)), np.ones((1, 1))],
        ]
    )
    translation, rotation = relative_errors(poses, truth)
    np.testing.assert_allclose(rotation, [0, 2], atol=1e-5)
    assert translation[1] == pytest.approx(100 * 0.1 / np.linalg.norm([0.1, 0.02, 1]), rel=1e-3)


def test_alignment_takes_a_rigid_motion_away() -> None:
    truth = true_poses(6)
    moved = true_poses(2)[1] @ truth
    np.testing.assert_allclose(aligned(moved, truth), truth[:, :3, 3], atol=1e-9)


def test_a_sequence_is_read_and_a_missing_image_told(tmp_path: Path) -> None:
    for side in ("left", "right"):
        (tmp_path / side).mkdir()
        for i in range(2):
            (tmp_path / side / f"{i:06}.png").touch()
    left = np.column_stack([STEREO.matrix, np.zeros(3)])
    right = left.copy()
    right[0, 3] = -250
    np.savetxt(tmp_path / "calib.txt", [left.ravel(), right.ravel()])
    np.savetxt(tmp_path / "poses.txt", true_poses(2)[:, :3].reshape(2, 12))
    stereo, poses, files = read_kitti(tmp_path)
    assert stereo.baseline == 0.5
    np.testing.assert_allclose(poses, true_poses(2))
    assert [path.parent.name for path in files[0]] == ["left", "right"]
    (tmp_path / "right" / "000001.png").unlink()
    with pytest.raises(ValueError, match="2 left and 1 right images, 2 poses"):
        read_kitti(tmp_path)


def test_a_missing_sequence_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    assert vo_kitti.main(["--rows", "orb"]) == 2
    assert "calib.txt" in capsys.readouterr().err
