import numpy as np
import pytest

from bindesc.training.pairing import Tolerance, carry_by_homography, pair_keypoints


def test_a_homography_carries_keypoints():
    zoom = np.diag([2.0, 2.0, 1.0])
    carried = carry_by_homography(zoom, np.array([[3, 4]], np.float32))
    assert carried.xy.tolist() == [[6, 8]]
    assert (carried.jacobian[0] == 2 * np.eye(2)).all()


def test_the_jacobian_is_the_derivative():
    rng = np.random.default_rng(0)
    homography = np.eye(3) + rng.normal(0, 0.1, (3, 3)) * [[1, 1, 50], [1, 1, 50], [1e-3, 1e-3, 0]]
    point, step = np.array([[120.0, 80.0]]), 1e-3
    here = carry_by_homography(homography, point)
    for axis in range(2):
        moved = point.copy()
        moved[0, axis] += step
        difference = carry_by_homography(homography, moved).xy - here.xy
        assert np.allclose(difference / step, here.jacobian[0, :, axis], atol=1e-4)


def pair(first, second, homography=None):
    homography = np.eye(3) if homography is None else homography
    return pair_keypoints(first, second, carry_by_homography(homography, first[0]), Tolerance())


def keypoints(*rows):
    table = np.array(rows, np.float32)
    return table[:, :2], table[:, 2], table[:, 3]


@pytest.mark.parametrize(
    ("second", "pairs"),
    [
        ((10, 10, 31, 0), [[0, 0]]),
        ((12, 10, 31, 30), [[0, 0]]),
        ((13, 10, 31, 0), []),  # 3 pixels are more than 8 % of 31
        ((10, 10, 31, 40), []),
        ((10, 10, 43, 0), []),
        ((10, 10, 40, 340), [[0, 0]]),
    ],
)
def test_tolerances_of_a_pair(second, pairs):
    found = pair(keypoints((10, 10, 31, 0)), keypoints(second))
    assert found.tolist() == pairs


def test_a_keypoint_is_in_one_pair_only():
    first = keypoints((10, 10, 31, 0), (11, 10, 31, 0))
    second = keypoints((10.4, 10, 31, 0))
    assert pair(first, second).tolist() == [[0, 0]]
    assert len(pair(first, [a[:0] for a in second])) == 0


def test_of_keypoints_at_one_corner_those_of_the_same_size_are_pairs():
    first = keypoints((10, 10, 31, 0), (11, 10, 37, 0), (10, 10, 44, 0))
    second = keypoints((11, 10, 31, 0), (10, 10, 37, 0), (11, 10, 44, 0))
    assert pair(first, second).tolist() == [[0, 0], [1, 1], [2, 2]]


def test_size_and_angle_follow_the_change_of_view():
    turn_and_double = np.array([[0.0, -2, 100], [2, 0, 0], [0, 0, 1]])
    assert len(pair(keypoints((10, 10, 31, 0)), keypoints((80, 20, 62, 90)), turn_and_double)) == 1
    assert len(pair(keypoints((10, 10, 31, 0)), keypoints((80, 20, 31, 90)), turn_and_double)) == 0
    assert len(pair(keypoints((10, 10, 31, 0)), keypoints((80, 20, 62, 0)), turn_and_double)) == 0


def test_a_keypoint_with_an_unknown_place_has_no_pair():
    first = keypoints((10, 10, 31, 0), (50, 50, 31, 0))
    carried = carry_by_homography(np.eye(3), first[0])
    carried.xy[0] = np.nan
    assert pair_keypoints(first, first, carried, Tolerance()).tolist() == [[1, 1]]
