import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import textured_gray

from bindesc.patches import extract_patches


def points(*rows):
    table = np.array(rows, np.float32)
    return table[:, :2], table[:, 2], table[:, 3]


def warped_by_opencv(gray, x, y, size, angle, side=32):
    step, radians = size / side, np.radians(max(angle, 0))
    c, s = step * np.cos(radians), step * np.sin(radians)
    half = (side - 1) / 2
    matrix = np.array([[c, -s, x - half * c + half * s], [s, c, y - half * s - half * c]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        gray, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )


@settings(max_examples=50, deadline=None)
@given(
    x=st.floats(0, 199),
    y=st.floats(0, 149),
    size=st.floats(16, 44),
    angle=st.one_of(st.just(-1.0), st.floats(0, 359)),
)
def test_a_patch_is_the_affine_warp_of_its_frame(x, y, size, angle):
    gray = textured_gray(150, 200)
    patches, _ = extract_patches(gray, *points((x, y, size, angle)))
    expected = warped_by_opencv(gray, x, y, size, angle)
    assert np.abs(patches[0].astype(int) - expected).max() <= 12  # 1/32 pixel in steep texture
    assert np.abs(patches[0].astype(int) - expected).mean() < 1


def test_size_32_upright_between_pixels_is_a_plain_crop():
    gray = textured_gray(100, 100)
    patches, kept = extract_patches(gray, *points((40.5, 50.5, 32, -1)))
    assert (patches[0] == gray[35:67, 25:57]).all()
    assert kept.tolist() == [0]


def test_large_keypoints_do_not_alias():
    # A checkerboard of single pixels is grey when it is seen at an eighth of its size.
    board = np.indices((512, 512)).sum(0) % 2 * np.uint8(255)
    board = board.astype(np.uint8)
    patches, _ = extract_patches(board, *points((255, 255, 256, 30)))
    assert np.abs(patches.astype(int) - 127).max() <= 3


@settings(max_examples=25, deadline=None)
@given(turn=st.floats(0, 360), size=st.floats(24, 80))
def test_turning_the_image_leaves_carried_patches_alone(turn, size):
    gray = cv2.GaussianBlur(textured_gray(300, 300), (0, 0), 2)
    centre = (149.5, 149.5)
    matrix = cv2.getRotationMatrix2D(centre, -turn, 1)  # OpenCV's positive angle is the other way
    turned = cv2.warpAffine(gray, matrix, (300, 300), flags=cv2.INTER_CUBIC)
    at = np.array([[130.0, 160.0, 1.0]])
    x, y = (at @ matrix.T)[0]
    before, _ = extract_patches(gray, *points((130, 160, size, 20)))
    after, _ = extract_patches(turned, *points((x, y, size, (20 + turn) % 360)))
    assert np.abs(before.astype(int) - after).mean() < 2


def test_border_policies():
    gray = textured_gray(100, 100)
    rows = points((50, 50, 32, -1), (5, 50, 32, -1), (50, 95, 32, 45))
    padded, all_kept = extract_patches(gray, *rows, border="pad")
    dropped, kept = extract_patches(gray, *rows, border="drop")
    assert all_kept.tolist() == [0, 1, 2]
    assert kept.tolist() == [0]
    assert (dropped[0] == padded[0]).all()


def test_float_patches_are_the_unrounded_ones():
    gray = textured_gray(100, 100)
    rows = points((50.3, 50.6, 90, 33), (20, 20, 31, 10))
    exact, _ = extract_patches(gray, *rows, dtype=np.float32)
    rounded, _ = extract_patches(gray, *rows)
    assert exact.dtype == np.float32
    assert np.abs(exact - rounded).max() <= 2


@pytest.mark.parametrize("side", [31, 32])
def test_more_patches_than_one_remap_takes(side):
    gray = textured_gray(64, 64)
    xy = np.full((2500, 2), 16 + (side - 1) / 2, np.float32)
    size, angle = np.full(2500, side, np.float32), np.zeros(2500, np.float32)
    patches, _ = extract_patches(gray, xy, size, angle, side=side)
    assert (patches == gray[16 : 16 + side, 16 : 16 + side]).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2)])
def test_images_smaller_than_a_patch(shape):
    gray = np.full(shape, 77, np.uint8)
    patches, _ = extract_patches(gray, *points((0, 0, 31, 10), (0, 0, 300, 10)))
    assert (patches == 77).all()


def test_no_keypoints():
    empty = np.zeros(0, np.float32)
    patches, kept = extract_patches(
        textured_gray(50, 50), np.zeros((0, 2), np.float32), empty, empty
    )
    assert patches.shape == (0, 32, 32)
    assert len(kept) == 0


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ((np.nan, 1, 31, 0), {}, "finite"),
        ((1, 1, np.inf, 0), {}, "finite"),
        ((1, 1, 0, 0), {}, "positive"),
        ((1, 1, 31, 0), {"scale": 0.0}, "positive"),
        ((1, 1, 31, 0), {"border": "wrap"}, "border:"),
    ],
)
def test_bad_keypoints_are_refused(row, options, message):
    with pytest.raises(ValueError, match=message):
        extract_patches(textured_gray(50, 50), *points(row), **options)


def test_lengths_must_agree():
    xy, size, angle = points((1, 1, 31, 0), (2, 2, 31, 0))
    with pytest.raises(ValueError, match="xy, size, angle"):
        extract_patches(textured_gray(50, 50), xy, size[:1], angle)
