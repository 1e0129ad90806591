from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bindesc.geometry import MIN_MATCHES, Kind, enough_inliers, estimate

TRUTH = np.array([[0.9, -0.2, 40.0], [0.15, 1.05, -20.0], [1e-4, -2e-4, 1.0]])
KINDS: tuple[Kind, ...] = ("H", "F")


def plane_points(count: int, outliers: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points under TRUTH with noise of 0.3 px; the last ``outliers`` are random."""
    random = np.random.default_rng(seed)
    xy0 = random.uniform(0, (640, 480), (count, 2))
    projected = np.column_stack([xy0, np.ones(count)]) @ TRUTH.T
    xy1 = projected[:, :2] / projected[:, 2:] + random.normal(0, 0.3, (count, 2))
    xy1[count - outliers :] = random.uniform(0, (640, 480), (outliers, 2))
    return xy0.astype(np.float32), xy1.astype(np.float32)


def stereo_points(count: int, outliers: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points of a scene with depth, seen by two rectified cameras; the last are random."""
    random = np.random.default_rng(seed)
    xy0 = random.uniform(0, (640, 480), (count, 2))
    xy1 = xy0 - np.column_stack([random.uniform(5, 80, count), np.zeros(count)])
    xy1[count - outliers :] = random.uniform(0, (640, 480), (outliers, 2))
    return xy0.astype(np.float32), xy1.astype(np.float32)


def test_homography_among_outliers() -> None:
    xy0, xy1 = plane_points(300, outliers=150)
    found = estimate(xy0, xy1, "H")
    assert found.model is not None
    np.testing.assert_allclose(found.model / found.model[2, 2], TRUTH, atol=0.5, rtol=0.02)
    assert found.inliers[:150].mean() > 0.99
    assert found.inliers[150:].mean() < 0.03


def test_fundamental_matrix_among_outliers() -> None:
    xy0, xy1 = stereo_points(300, outliers=100)
    found = estimate(xy0, xy1, "F", threshold=1.0)
    assert found.model is not None
    assert found.inliers[:200].mean() > 0.99
    assert found.inliers[200:].mean() < 0.1
    # Rectified cameras: the epipolar line of (x, y) is y' = y.
    direction = found.model / np.abs(found.model).max()
    assert abs(direction[1, 2] + direction[2, 1]) < 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_result(kind: Kind) -> None:
    xy0, xy1 = plane_points(100, outliers=60)
    first, second = (estimate(xy0, xy1, kind, seed=7) for _ in range(2))
    assert first.model is not None
    assert second.model is not None
    np.testing.assert_array_equal(first.model, second.model)
    np.testing.assert_array_equal(first.inliers, second.inliers)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_points_give_no_model(kind: Kind) -> None:
    steps = np.arange(50, dtype=np.float32)
    line = np.column_stack([steps, 2 * steps])
    few, _ = plane_points(MIN_MATCHES[kind] - 1, outliers=0)
    for xy0, xy1 in (
        (line, line + 3),
        (np.zeros((30, 2)), np.zeros((30, 2))),
        (few, few),
        (np.zeros((0, 2)), np.zeros((0, 2))),
    ):
        found = estimate(xy0, xy1, kind)
        assert found.model is None
        assert found.inliers.shape == (len(xy0),)
        assert not found.inliers.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.sampled_from(KINDS), st.integers(0, 2**31 - 1), st.booleans())
def test_never_fails_and_inliers_obey_the_model(
    count: int, kind: Kind, seed: int, whole: bool
) -> None:
    points = np.random.default_rng(seed).uniform(0, 30, (2, count, 2))
    if whole:  # many equal points
        points = points.round(-1)
    found = estimate(points[0], points[1], kind, seed=seed)
    assert found.inliers.shape == (count,)
    assert (found.model is None) == (not found.inliers.any())
    if found.model is not None:
        assert np.isfinite(found.model).all()
        assert found.inliers.sum() >= MIN_MATCHES[kind]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "E"}, "kind: expected 'H' or 'F', got 'E'"),
        ({"threshold": 0.0}, "threshold: expected a number above 0"),
        ({"threshold": np.nan}, "threshold: expected a number above 0"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"xy0": np.zeros((5, 3))}, r"xy0: expected shape \(K, 2\), got \(5, 3\)"),
        ({"xy1": np.zeros((4, 2))}, "xy1: expected 5 points as in xy0, got 4"),
        ({"xy1": np.full((5, 2), np.nan)}, "xy1: has NaN"),
    ],
)
def test_arguments_are_checked(change: dict, reason: str) -> None:
    arguments = {"xy0": np.zeros((5, 2)), "xy1": np.zeros((5, 2)), **change}
    with pytest.raises(ValueError, match=reason):
        estimate(**arguments)


@pytest.mark.parametrize("kind", KINDS)
def test_random_matches_are_not_enough(kind: Kind) -> None:
    for count in (50, 200, 400):
        for seed in range(5):
            xy0, xy1 = plane_points(count, outliers=count, seed=seed)
            inliers = int(estimate(xy0, xy1, kind, seed=seed).inliers.sum())
            assert not enough_inliers(kind, inliers, count)
    assert enough_inliers(kind, 60, 100)
