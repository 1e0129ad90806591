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
)

CLOUDS = {
    "uniform": lambda random, count: random.uniform(0, 50, (count, 2)),
    "pixels": lambda random, count: random.integers(0, 30, (count, 2)),
    "row": lambda random, count: random.integers(0, 500, (count, 2)) * [1, 0],
    "crowds": lambda random, count: (
        random.normal(0, 0.01, (count, 2)) + 99 * random.integers(0, 3, (count, 1))
    ),
    "far": lambda random, count: random.uniform(-1, 1, (count, 2)) ** 9 * 1e20,
    "one place": lambda _, count: np.full((count, 2), 0.1),
}


@pytest.mark.parametrize("cloud", CLOUDS.values(), ids=CLOUDS)
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 400), st.integers(0, 9))
def test_suppression_radius_is_the_distance_to_the_nearest_stronger_point(cloud, count, seed):
    xy = cloud(np.random.default_rng(seed), count).astype(np.float32)
    difference = xy[:, None].astype(np.float64) - xy
    distance = np.sqrt((difference**2).sum(axis=2))
    distance[np.triu_indices(count)] = np.inf
    assert (suppression_radius(xy) == distance.min(axis=1, initial=np.inf)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_suppression_radius_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match="finite"):
        suppression_radius(np.float32([[0, 0], [1, value]]))


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
