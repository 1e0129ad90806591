import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import textured_gray

from bindesc.detectors import (
    SCALE_FACTORS,
    create_detector,
    detect,
    detector_name,
    select_keypoints,
    suppression_radius,
    to_arrays,
    to_keypoints,
)


def test_keypoints_survive_the_way_through_arrays():
    keypoints = cv2.ORB.create(50).detect(textured_gray(200, 200), None)
    back = to_keypoints(*to_arrays(keypoints))
    assert len(back) == len(keypoints) > 0
    for a, b in zip(keypoints, back, strict=True):
        assert (a.pt, a.size, a.angle, a.response) == (b.pt, b.size, b.angle, b.response)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 9))
def test_suppression_radius_is_the_distance_to_the_nearest_stronger_point(count, seed):
    xy = np.random.default_rng(seed).uniform(0, 50, (count, 2)).astype(np.float32)
    expected = [
        np.linalg.norm(xy[:i].astype(np.float64) - xy[i], axis=1).min() if i else np.inf
        for i in range(count)
    ]
    assert np.allclose(suppression_radius(xy), expected)


def test_even_distribution_covers_more_of_the_image():
    rng = np.random.default_rng(0)
    crowd = rng.normal(20, 3, (500, 2))
    rest = rng.uniform(0, 100, (500, 2))
    xy = np.concatenate([crowd, rest]).astype(np.float32)
    response = np.concatenate([rng.uniform(10, 11, 500), rng.uniform(1, 2, 500)]).astype(np.float32)
    strongest = select_keypoints(xy, response, 50, even=False)
    even = select_keypoints(xy, response, 50, even=True)
    assert (strongest < 500).all()
    assert (even >= 500).sum() > 30


def test_equal_responses_keep_the_order():
    xy = np.zeros((5, 2), np.float32)
    assert select_keypoints(xy, np.ones(5, np.float32), 3, even=False).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["orb", "sift"])
@pytest.mark.parametrize("shape", [(480, 640), (301, 403)])
def test_keypoints_turn_with_the_image(name, shape):
    gray = textured_gray(*shape)
    points = []
    for image in (gray, np.rot90(gray, 2).copy()):
        xy, size, _, _ = to_arrays(detect(create_detector(name, 2000), image, None, 2000))
        points.append(xy[size >= np.quantile(size, 0.6)].astype(np.float64))
    back = np.array(shape[::-1]) - 1 - points[1]
    between = back[None] - points[0][:, None]
    distance = np.linalg.norm(between, axis=2)
    nearest = between[np.arange(len(between)), distance.argmin(axis=1)]
    same = nearest[distance.min(axis=1) < 4]
    assert len(same) > 50
    assert (np.abs(np.median(same, axis=0)) < 0.05).all()


@pytest.mark.parametrize("name", ["orb", "fast", "sift"])
def test_detectors_of_every_opencv(name):
    detector = create_detector(name, 100)
    assert len(detector.detect(textured_gray(200, 200), None)) > 0
    assert detector_name(detector) == name


def test_every_other_detector_works_or_says_what_is_missing():
    for name in set(SCALE_FACTORS) - {"orb", "fast", "sift"}:
        try:
            detector = create_detector(name, 100)
        except ValueError as error:
            assert "OpenCV" in str(error)
        else:
            assert detector_name(detector) == name


def test_an_unknown_detector_is_refused():
    with pytest.raises(ValueError, match="detector: 'surf'"):
        create_detector("surf", 100)
