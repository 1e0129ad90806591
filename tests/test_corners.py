import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import textured_gray
from scipy.ndimage import shift

from bindesc import _cpu
from bindesc.corners import intensity_centroid, subpixel_offsets
from bindesc.detectors import create_detector, detect, to_arrays
from bindesc.orb import positions

NARROW, WIDE = [1, 4, 6, 4, 1], [1, 6, 15, 20, 15, 6, 1]


def noise(height, width, seed):
    """A picture and 20 places in it."""
    random = np.random.default_rng(seed)
    gray = random.integers(0, 256, (height, width)).astype(np.uint8)
    return gray, places(random, height, width, 20)


def places(random, height, width, count):
    return np.column_stack([random.integers(0, width, count), random.integers(0, height, count)])


def test_orientation_is_that_of_orb():
    gray = textured_gray(200, 200)
    keypoints = [k for k in cv2.ORB.create(300).detect(gray, None) if k.octave == 0]
    xy, _, angle, _ = to_arrays(keypoints)
    difference = np.abs((intensity_centroid(gray, xy) - angle + 180) % 360 - 180)
    assert np.median(difference) < 3


def test_orientation_turns_with_the_image():
    gray = textured_gray(101, 101)
    centre = np.array([[50, 50]], np.float32)
    angles = [intensity_centroid(np.rot90(gray, k).copy(), centre)[0] for k in range(4)]
    # np.rot90 turns counter-clockwise, angles are clockwise.
    assert np.allclose(np.diff(angles) % 360, 270, atol=0.5)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9))
def test_moments_are_sums_over_the_disc(height, width, seed):
    gray, xy = noise(height, width, seed)
    y, x = np.mgrid[-15:16, -15:16]
    inside = x**2 + y**2 <= 15**2
    padded = np.pad(gray, 15, mode="reflect").astype(int)
    for (column, row), moments in zip(xy, _cpu.disc_moments(gray, np.int32(xy)), strict=True):
        disc = padded[row : row + 31, column : column + 31]
        assert moments.tolist() == [(disc * inside * x).sum(), (disc * inside * y).sum()]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_offsets_are_a_newton_step_on_a_difference_of_blurs(height, width, seed):
    gray, xy = noise(height, width, seed)
    padded = np.pad(gray, 5, mode="reflect").astype(np.float64)

    def blur(row):
        kernel = np.array(row) / sum(row)
        return cv2.sepFilter2D(padded, -1, kernel, kernel)

    difference = blur(NARROW) - blur(WIDE)
    for (column, row), offset in zip(xy, subpixel_offsets(gray, np.float32(xy)), strict=True):
        d = difference[row + 4 : row + 7, column + 4 : column + 7]
        gradient = np.array([d[1, 2] - d[1, 0], d[2, 1] - d[0, 1]]) / 2
        mixed = (d[2, 2] + d[0, 0] - d[2, 0] - d[0, 2]) / 4
        hessian = np.array(
            [
                [d[1, 2] + d[1, 0] - 2 * d[1, 1], mixed],
                [mixed, d[2, 1] + d[0, 1] - 2 * d[1, 1]],
            ]
        )
        if abs(np.linalg.det(hessian)) < 1e-9:
            continue  # rounding decides
        step = np.zeros(2)
        if np.linalg.det(hessian) > 0:
            step = -np.linalg.solve(hessian, gradient)
        assert np.allclose(offset, step / np.hypot(1, np.linalg.norm(step)), atol=1e-6)


def test_the_centre_of_a_blob_is_found():
    random = np.random.default_rng(0)
    centre = random.uniform(-0.5, 0.5, (200, 2))
    y, x = np.mgrid[-20:21, -20:21]
    offsets = []
    for dx, dy in centre:
        blob = np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * 1.5**2))
        gray = np.rint(60 + 150 * blob).astype(np.uint8)
        offsets.append(subpixel_offsets(gray, np.float32([[20, 20]]))[0])
    assert np.linalg.norm(centre, axis=1).mean() > 0.35
    assert np.linalg.norm(offsets - centre, axis=1).mean() < 0.07


def test_dark_and_bright_blobs_are_alike():
    gray = textured_gray(80, 80)
    xy = np.float32(places(np.random.default_rng(0), 80, 80, 300))
    assert (subpixel_offsets(gray, xy) == subpixel_offsets(255 - gray, xy)).all()


def test_offsets_turn_with_the_image():
    gray = textured_gray(81, 81)
    xy = np.float32(places(np.random.default_rng(0), 81, 81, 300))
    turned = subpixel_offsets(np.rot90(gray, 2).copy(), 80 - xy)
    assert np.allclose(turned, -subpixel_offsets(gray, xy))
    mirrored = subpixel_offsets(gray.T.copy(), xy[:, ::-1])
    assert np.allclose(mirrored, subpixel_offsets(gray, xy)[:, ::-1])


@pytest.mark.parametrize("value", [0, 255])
def test_flat_images_move_nothing(value):
    for shape in ((1, 1), (1, 30), (50, 50)):
        gray = np.full(shape, value, np.uint8)
        assert (subpixel_offsets(gray, np.zeros((3, 2), np.float32)) == 0).all()


def test_no_corners():
    none = np.empty((0, 2), np.float32)
    assert subpixel_offsets(textured_gray(), none).shape == (0, 2)
    assert intensity_centroid(textured_gray(), none).shape == (0,)


def test_a_view_of_an_image_serves():
    gray = textured_gray(90, 90)
    xy = np.float32(places(np.random.default_rng(0), 40, 40, 100))
    part = gray[10:50, 20:60]
    assert (subpixel_offsets(part, xy) == subpixel_offsets(part.copy(), xy)).all()
    assert (intensity_centroid(part, xy) == intensity_centroid(part.copy(), xy)).all()


@pytest.mark.parametrize("measure", [intensity_centroid, subpixel_offsets])
def test_places_must_be_finite(measure):
    with pytest.raises(ValueError, match="xy: every value must be finite"):
        measure(textured_gray(), np.float32([[5, np.nan]]))


def test_the_core_refuses_what_it_cannot_read():
    with pytest.raises(ValueError, match="image without pixels"):
        _cpu.subpixel_offsets(np.empty((0, 5), np.uint8), np.zeros((1, 2), np.int32))
    with pytest.raises(TypeError):
        _cpu.disc_moments(np.zeros((5, 5), np.uint8), np.zeros((1, 3), np.int32))


@pytest.mark.parametrize("name", ["orb", "fast", "agast"])
def test_corners_follow_a_shift_by_a_part_of_a_pixel(name):
    """In a photo, moved by (0.4, 0.7) pixels, a corner's partner is nearer than on whole pixels."""
    from skimage.data import camera

    photo = cv2.resize(camera(), (512, 512)).astype(np.float64)
    moved = shift(photo, (0.7, 0.4), order=3, mode="nearest")
    try:
        detector = create_detector(name, 400)
    except ValueError as error:
        pytest.skip(str(error))
    error = {}
    for subpixel in (False, True):
        (xy0, size0), (xy1, size1) = (
            to_arrays(
                detect(detector, np.rint(image.clip(0, 255)).astype(np.uint8), None, 400,
                       subpixel=subpixel)
            )[:2]
            for image in (photo, moved)
        )  # fmt: skip
        wanted = xy0[:, None] + np.float32([0.4, 0.7])
        distance = np.linalg.norm(wanted - xy1, axis=2) / (size0[:, None] / size0.min())
        distance[size0[:, None] != size1] = np.inf
        nearest = distance.min(axis=1)
        error[subpixel] = np.median(nearest[nearest < 2])
    assert error[False] > 0.35
    assert error[True] < 0.6 * error[False]


@pytest.mark.parametrize("name", ["fast", "agast"])
def test_whole_pixels_on_request(name):
    try:
        detector = create_detector(name, 200)
    except ValueError as error:
        pytest.skip(str(error))
    gray = textured_gray()
    whole = positions(detect(detector, gray, None, 200, subpixel=False))
    exact = positions(detect(detector, gray, None, 200))
    assert len(whole) == len(exact) == 200
    assert (whole == np.rint(whole)).all()
    assert 0 < np.abs(exact - whole).max() < 1
