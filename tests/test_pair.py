from __future__ import annotations

import cv2
import numpy as np
import pytest
from pictures import shifted, textured

from bindesc.opencv_descriptors import OpenCVFeatures
from bindesc.pair import Filters, Norm, extract_resized, match_pair
from bindesc.types import Features


def features(descriptors: np.ndarray) -> Features:
    count = len(descriptors)
    xy = np.random.default_rng(0).uniform(0, 100, (count, 2)).astype(np.float32)
    ones = np.ones(count, np.float32)
    return Features(xy, ones, ones, ones, descriptors, (100, 100))


@pytest.mark.parametrize(("descriptor", "norm"), [("orb", "hamming"), ("sift", "l2")])
def test_a_shift_is_found(descriptor: str, norm: Norm) -> None:
    image = textured()
    extractor = OpenCVFeatures(descriptor, "orb", 300)
    first, second = extractor.extract(image), extractor.extract(shifted(image, 12, 5))
    pair = match_pair(first, second, norm)
    assert pair.shortfall() is None
    assert pair.geometry.model is not None
    np.testing.assert_allclose(pair.geometry.model, [[1, 0, 12], [0, 1, 5], [0, 0, 1]], atol=0.5)
    assert pair.geometry.inliers.mean() > 0.7
    moved = (pair.xy1 - pair.xy0)[pair.geometry.inliers]
    np.testing.assert_allclose(np.median(moved, axis=0), [12, 5], atol=0.5)
    assert ((pair.confidence >= 0) & (pair.confidence <= 1)).all()
    assert pair.confidence[pair.geometry.inliers].mean() > 0.8


def test_euclidean_neighbours_agree_with_opencv() -> None:
    random = np.random.default_rng(1)
    first, second = (random.integers(0, 256, (n, 128)).astype(np.uint8) for n in (60, 45))
    pair = match_pair(features(first), features(second), "l2", kind=None)
    matcher = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True)
    expected = matcher.match(first.astype(np.float32), second.astype(np.float32))
    pairs = [[match.queryIdx, match.trainIdx] for match in expected]
    assert pair.matches.pairs.tolist() == pairs
    distance = [match.distance for match in expected]
    np.testing.assert_allclose(pair.matches.distance, distance, atol=0.5)


@pytest.mark.parametrize("norm", ["hamming", "l2"])
def test_filters_are_applied(norm: Norm) -> None:
    random = np.random.default_rng(2)
    first, second = (random.integers(0, 256, (n, 32)).astype(np.uint8) for n in (80, 70))
    second[:10] = first[:10]

    def pairs(**filters: object) -> int:
        chosen = Filters(**filters)  # type: ignore[arg-type]
        return len(match_pair(features(first), features(second), norm, chosen, None).matches)

    assert pairs(mutual=False) == 80
    assert pairs() < 80
    assert pairs(max_distance=0) == 10
    assert pairs(ratio=0.1) == 10
    assert 10 <= pairs(margin=20) < pairs()


@pytest.mark.parametrize("norm", ["hamming", "l2"])
@pytest.mark.parametrize(("first", "second"), [(0, 5), (5, 0), (0, 0)])
def test_no_keypoints_are_a_shortfall(norm: Norm, first: int, second: int) -> None:
    empty = [features(np.zeros((count, 32), np.uint8)) for count in (first, second)]
    pair = match_pair(*empty, norm)
    assert len(pair.matches) == 0
    assert pair.geometry.model is None
    order = "second" if first else "first"
    assert pair.shortfall() == f"no keypoints in the {order} image"


def test_other_shortfalls() -> None:
    random = np.random.default_rng(3)
    codes = random.integers(0, 256, (200, 32)).astype(np.uint8)
    three = features(codes[:3])
    assert match_pair(three, three, kind="H").shortfall() == "3 matches, a model (H) needs 4"
    assert match_pair(three, three, kind="F").shortfall() == "3 matches, a model (F) needs 8"
    assert match_pair(three, three, kind=None).shortfall() is None
    nothing_near = match_pair(features(codes), features(~codes), filters=Filters(max_distance=0))
    assert nothing_near.shortfall() == "no matches"
    unrelated = features(codes)
    xy = random.uniform(0, 100, (200, 2)).astype(np.float32)
    other = Features(xy, *(unrelated.size,) * 3, codes, (100, 100))
    assert "no more than chance gives" in (match_pair(unrelated, other).shortfall() or "")


def test_results_of_a_shrunken_image_are_in_original_pixels() -> None:
    image = cv2.resize(textured(), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    extractor = OpenCVFeatures("orb", "orb", 300)
    full = extract_resized(extractor, textured())
    shrunken = extract_resized(extractor, image, long_side=320)
    assert shrunken.image_size == (1280, 960)
    pair = match_pair(full, shrunken)
    assert pair.geometry.model is not None
    # A pixel centre x lies at 4 (x + 1/2) - 1/2.
    np.testing.assert_allclose(
        pair.geometry.model, [[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]], atol=0.3, rtol=0.02
    )
    ratio = shrunken.size[pair.matches.pairs[:, 1]] / full.size[pair.matches.pairs[:, 0]]
    assert np.median(ratio) == pytest.approx(4)
    assert extract_resized(extractor, image, long_side=5000).image_size == (1280, 960)


@pytest.mark.parametrize("filters", [{"ratio": 0}, {"ratio": 1.1}, {"margin": -1}])
def test_filters_are_checked(filters: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(filters))}: expected "):
        Filters(**filters)  # type: ignore[arg-type]
