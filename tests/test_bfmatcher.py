"""Our BFMatcher against OpenCV's: the same calls must give the same matches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bindesc.bfmatcher import BFMatcher

RNG = np.random.default_rng(7)
QUERY = RNG.integers(0, 256, (90, 32), np.uint8)
TRAIN = RNG.integers(0, 256, (71, 32), np.uint8)
# Two bytes a code: nearly every distance ties.
TIED_QUERY, TIED_TRAIN = QUERY[:, :2].copy(), TRAIN[:, :2].copy()
PAIRS = pytest.mark.parametrize(
    ("query", "train"), [(QUERY, TRAIN), (TIED_QUERY, TIED_TRAIN), (QUERY[:1], TRAIN)]
)


def fields(matches):
    """Matches, flat or nested, as plain tuples."""
    if isinstance(matches, tuple):
        return tuple(map(fields, matches))
    return matches.queryIdx, matches.trainIdx, matches.imgIdx, matches.distance


def both(cross_check=False):
    return BFMatcher(crossCheck=cross_check), cv2.BFMatcher(cv2.NORM_HAMMING, cross_check)


@PAIRS
@pytest.mark.parametrize("cross_check", [False, True])
def test_match(query, train, cross_check):
    ours, theirs = both(cross_check)
    found = ours.match(query, train)
    assert isinstance(found[0], cv2.DMatch)
    assert fields(found) == fields(theirs.match(query, train))


@PAIRS
@pytest.mark.parametrize("k", [1, 2, 5])
def test_knn_match(query, train, k):
    ours, theirs = both()
    assert fields(ours.knnMatch(query, train, k)) == fields(theirs.knnMatch(query, train, k))
    assert fields(ours.knnMatch(query, train, k=k)) == fields(theirs.knnMatch(query, train, k=k))


@pytest.mark.parametrize("compact", [False, True])
def test_knn_match_cross_checked(compact):
    ours, theirs = both(cross_check=True)
    expected = theirs.knnMatch(QUERY, TRAIN, 1, None, compact)
    assert fields(ours.knnMatch(QUERY, TRAIN, 1, None, compact)) == fields(expected)
    with pytest.raises(ValueError, match="k: must be 1"):
        ours.knnMatch(QUERY, TRAIN, 2)


@PAIRS
@pytest.mark.parametrize("cross_check", [False, True])
@pytest.mark.parametrize("limit", [3, 6.5, 110])
def test_radius_match(query, train, limit, cross_check):
    ours, theirs = both(cross_check)
    # OpenCV leaves the order of equal distances open.
    expected = [
        sorted(row, key=lambda m: (m.distance, m.trainIdx))
        for row in theirs.radiusMatch(query, train, limit)
    ]
    assert fields(ours.radiusMatch(query, train, limit)) == fields(tuple(map(tuple, expected)))


def test_an_infinite_radius_finds_all():
    found = BFMatcher().radiusMatch(QUERY, TRAIN, float("inf"))
    assert [len(row) for row in found] == [len(TRAIN)] * len(QUERY)


def test_opencvs_own_arrays_are_taken():
    ours, theirs = both()
    query, train = cv2.UMat(QUERY), cv2.UMat(TRAIN)
    expected = fields(theirs.match(QUERY, TRAIN))
    assert fields(ours.match(query, train)) == expected
    ours.add([train])
    assert fields(ours.match(query)) == expected


def test_radius_match_compact():
    found = BFMatcher().radiusMatch(QUERY, TRAIN, 105, compactResult=True)
    full = BFMatcher().radiusMatch(QUERY, TRAIN, 105)
    assert 0 < len(found) < len(full) == len(QUERY)
    assert fields(found) == fields(tuple(row for row in full if row))


@pytest.mark.parametrize("images", [[TRAIN], [TRAIN[:20], TRAIN[20:25], TRAIN[25:]]])
def test_collection(images):
    ours, theirs = both()
    for matcher in (ours, theirs):
        assert matcher.empty()
        matcher.add(images[:1])
        matcher.add(images[1:])
        matcher.train()
        assert not matcher.empty()
    assert len(ours.getTrainDescriptors()) == len(images)
    assert fields(ours.match(QUERY)) == fields(theirs.match(QUERY))
    assert fields(ours.knnMatch(QUERY, 3)) == fields(theirs.knnMatch(QUERY, 3))
    assert fields(ours.knnMatch(QUERY, k=3)) == fields(theirs.knnMatch(QUERY, k=3))
    assert fields(ours.radiusMatch(QUERY, 105.0)) == fields(theirs.radiusMatch(QUERY, 105.0))
    # The collection is not used when train descriptors are given.
    assert fields(ours.match(QUERY, TRAIN[:5])) == fields(theirs.match(QUERY, TRAIN[:5]))
    ours.clear()
    assert ours.empty() and ours.match(QUERY) == ()


def test_cross_check_of_a_collection_is_that_of_its_images_together():
    ours = BFMatcher(crossCheck=True)
    ours.add([TRAIN[:30], TRAIN[30:]])
    together = ours.match(QUERY, TRAIN)
    assert [(m.queryIdx, m.imgIdx * 30 + m.trainIdx) for m in ours.match(QUERY)] == [
        (m.queryIdx, m.trainIdx) for m in together
    ]


def test_fewer_than_k_and_none_at_all():
    ours, theirs = both()
    for train in (TRAIN[:2], TRAIN[:0]):
        expected = theirs.knnMatch(QUERY, train, 3)
        assert fields(ours.knnMatch(QUERY, train, 3)) == fields(expected)
    assert ours.match(None, TRAIN) == theirs.match(None, TRAIN) == ()
    assert ours.match(QUERY[:0], TRAIN) == theirs.match(QUERY[:0], TRAIN) == ()


def test_odd_widths_as_of_akaze():
    query, train = RNG.integers(0, 256, (2, 40, 61), np.uint8)
    ours, theirs = both()
    assert fields(ours.knnMatch(query, train, 2)) == fields(theirs.knnMatch(query, train, 2))


def test_create_takes_opencvs_arguments():
    matcher = BFMatcher.create(cv2.NORM_HAMMING, crossCheck=True)
    assert fields(matcher.match(QUERY, TRAIN)) == fields(both(True)[1].match(QUERY, TRAIN))
    assert not matcher.isMaskSupported()


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="normType"):
        BFMatcher(cv2.NORM_L2)
    matcher = BFMatcher()
    with pytest.raises(ValueError, match="mask"):
        matcher.match(QUERY, TRAIN, np.ones((90, 71), np.uint8))
    with pytest.raises(ValueError, match="mask"):
        matcher.knnMatch(QUERY, 2, [np.ones((90, 71), np.uint8)])
    with pytest.raises(TypeError, match="k: missing"):
        matcher.knnMatch(QUERY, TRAIN)
    with pytest.raises(ValueError, match=r"k: expected 1 to 32"):
        matcher.knnMatch(QUERY, TRAIN, 0)
    with pytest.raises(TypeError, match="maxDistance: missing"):
        matcher.radiusMatch(QUERY, TRAIN)
    for limit in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="maxDistance"):
            matcher.radiusMatch(QUERY, TRAIN, limit)
    with pytest.raises(TypeError, match="float32"):
        matcher.match(QUERY.astype(np.float32), TRAIN)
