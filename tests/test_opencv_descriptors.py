from __future__ import annotations

import cv2
import numpy as np
import pytest
from pictures import textured

import bindesc
from bindesc.detectors import SCALE_FACTORS, create_detector
from bindesc.opencv_descriptors import OpenCVFeatures
from bindesc.orb import from_orb

HAS_TEBLID = hasattr(getattr(cv2, "xfeatures2d", None), "TEBLID")


def test_orb_equals_opencv() -> None:
    image = textured()
    found = OpenCVFeatures("orb", "orb", 200, subpixel=False).extract(image)
    orb = cv2.ORB.create(200)
    keypoints, descriptors = orb.detectAndCompute(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), None)
    from_orb(orb, keypoints, image.shape)
    expected = {(*k.pt, k.size): d.tobytes() for k, d in zip(keypoints, descriptors, strict=True)}
    rows = zip(found.xy.tolist(), found.size.tolist(), found.descriptors, strict=True)
    same = [expected.get((x, y, size)) == code.tobytes() for (x, y), size, code in rows]
    assert len(same) == len(keypoints)
    assert np.mean(same) > 0.98  # rounding of the size may move a keypoint by a pyramid level


@pytest.mark.parametrize("descriptor", ["orb", "sift"])
@pytest.mark.parametrize("detector", ["orb", "fast"])
def test_keypoints_are_those_of_bindesc(descriptor: str, detector: str) -> None:
    image = textured()
    found = OpenCVFeatures(descriptor, detector, 200).extract(image)
    wanted = bindesc.create(detector, nfeatures=200).extract(image)
    places = {(*xy, angle) for xy, angle in zip(wanted.xy.tolist(), wanted.angle, strict=True)}
    assert len(found) > 50
    assert all((*xy, a) in places for xy, a in zip(found.xy.tolist(), found.angle, strict=True))


def test_sift_equals_opencv() -> None:
    image = textured()
    found = OpenCVFeatures("sift", "sift", 200).extract(image)
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    keypoints, descriptors = create_detector("sift", 200).detectAndCompute(grey, None)
    expected = {(*k.pt, k.angle): d for k, d in zip(keypoints, descriptors, strict=True)}
    assert len(found) > 100
    for (x, y), angle, code in zip(
        found.xy.tolist(), found.angle.tolist(), found.descriptors, strict=True
    ):
        np.testing.assert_array_equal(expected[x, y, angle], code)


@pytest.mark.parametrize("detector", ["orb", "fast", "sift"])
@pytest.mark.parametrize("descriptor", ["orb", "sift", "teblid"])
def test_any_descriptor_on_any_detector(descriptor: str, detector: str) -> None:
    if descriptor == "teblid" and not HAS_TEBLID:
        with pytest.raises(ValueError, match="has no TEBLID; the wheels opencv-contrib"):
            OpenCVFeatures(descriptor, detector)
        return
    features = OpenCVFeatures(descriptor, detector, 150).extract(textured())
    assert 75 < len(features) <= 150
    assert features.descriptors.shape == (len(features), 128 if descriptor == "sift" else 32)
    assert features.descriptors.dtype == np.uint8
    assert features.image_size == (320, 240)
    for array in (features.size, features.angle, features.response):
        assert array.shape == (len(features),)
    assert (features.angle >= 0).all()


def test_each_descriptor_reads_the_detectors_patch() -> None:
    """Doubling the image doubles the keypoints of SIFT; ORB's codes on them must survive."""
    image = textured()
    double = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    extractor = OpenCVFeatures("orb", "sift", 300)
    small, large = extractor.extract(image), extractor.extract(double)
    distance = np.linalg.norm(large.xy[None] - (2 * small.xy[:, None] + 0.5), axis=2)
    ratio = large.size[None] / small.size[:, None]
    turn = np.abs((large.angle[None] - small.angle[:, None] + 180) % 360 - 180)
    first, second = np.nonzero((distance < 1.5) & (np.abs(ratio - 2) < 0.3) & (turn < 10))
    assert len(first) > 30
    differing = np.unpackbits(small.descriptors[first] ^ large.descriptors[second], axis=1)
    assert np.median(differing.sum(axis=1)) < 60


def test_no_keypoints_give_empty_arrays() -> None:
    for descriptor, width in (("orb", 32), ("sift", 128)):
        for image in (np.zeros((100, 100), np.uint8), np.zeros((1, 1), np.uint8)):
            features = OpenCVFeatures(descriptor).extract(image)
            assert len(features) == 0
            assert features.descriptors.shape == (0, width)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="descriptor: 'surf' is none of orb, sift, teblid"):
        OpenCVFeatures("surf")
    with pytest.raises(ValueError, match="detector: 'surf' is none of " + ", ".join(SCALE_FACTORS)):
        OpenCVFeatures("orb", "surf")
