import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import textured_gray

from bindesc.detectors import create_detector, detect
from bindesc.orb import detect_orb, from_orb, positions, to_orb

SETTINGS = [
    {},
    {"nfeatures": 3},
    {"nfeatures": 20000},
    {"nlevels": 1},
    {"scaleFactor": 1.7, "nlevels": 4},
    {"firstLevel": 2},
    {"edgeThreshold": 2, "patchSize": 15},
    {"scoreType": cv2.ORB_FAST_SCORE, "fastThreshold": 40},
]


def assert_as_opencv(orb, gray, mask):
    expected = orb.detect(gray, mask)
    from_orb(orb, expected, gray.shape)
    found = detect_orb(orb, gray, mask, subpixel=False)
    assert [values(k) for k in found] == [values(k) for k in expected]
    return found


def values(k):
    return k.pt, k.size, k.angle, k.response, k.octave, k.class_id


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_keypoints_are_those_of_opencv_in_their_true_places(options, threads, opencv_threads):
    opencv_threads(threads)
    gray = textured_gray(241, 403)
    mask = np.zeros_like(gray)
    mask[30:190, 51:305] = 255
    orb = cv2.ORB.create(**options)
    assert assert_as_opencv(orb, gray, None)
    inside = positions(assert_as_opencv(orb, gray, mask))
    assert len(inside) > 0
    assert (inside > [48, 27]).all()
    assert (inside < [308, 193]).all()


def test_a_scale_factor_of_1():
    try:
        orb = cv2.ORB.create(scaleFactor=1.0, nlevels=1)
    except cv2.error:
        pytest.skip("this version of OpenCV refuses it")
    gray = textured_gray(241, 403)
    whole = positions(assert_as_opencv(orb, gray, None))
    moved = np.abs(positions(detect_orb(orb, gray, None, subpixel=True)) - whole)
    assert 0 < moved.max() < 1


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 120), st.integers(2, 120), st.integers(1, 3000))
def test_images_of_any_shape(height, width, nfeatures):
    assert_as_opencv(cv2.ORB.create(nfeatures), textured_gray(height, width), None)


def test_orb_describes_mended_keypoints_as_its_own():
    gray = textured_gray(301, 403)
    orb = create_detector("orb", 500)
    raw, codes = orb.detectAndCompute(gray, None)
    mended = detect(orb, gray, None, 500, subpixel=False)
    to_orb(orb, mended, gray.shape)
    _, again = orb.compute(gray, mended)
    assert len(raw) == len(mended) > 400
    assert (again == codes).all()


@pytest.mark.parametrize("options", [{}, {"firstLevel": 2}], ids=str)
def test_subpixel_places_are_within_a_pixel_of_the_level(options):
    gray = textured_gray(301, 403)
    orb = cv2.ORB.create(**options)
    whole, exact = (detect_orb(orb, gray, None, subpixel=subpixel) for subpixel in (False, True))
    scale = [1.2 ** (k.octave - orb.getFirstLevel()) for k in whole]
    moved = np.linalg.norm(positions(exact) - positions(whole), axis=1) / scale
    assert [values(k)[1:] for k in exact] == [values(k)[1:] for k in whole]
    assert 0.2 < np.median(moved) < moved.max() < 1.01
