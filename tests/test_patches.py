import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import textured_gray

from bindesc import _cpu
from bindesc.patches import extract_patches

ISAS = [name for name, usable in _cpu.isas().items() if usable]


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
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_more_patches_than_one_remap_takes(side, dtype):
    gray = textured_gray(64, 64)
    xy = np.full((2500, 2), 16 + (side - 1) / 2, np.float32)
    size, angle = np.full(2500, side, np.float32), np.zeros(2500, np.float32)
    patches, _ = extract_patches(gray, xy, size, angle, side=side, dtype=dtype)
    assert (patches == gray[16 : 16 + side, 16 : 16 + side]).all()


def in_numpy(image, affine, side):
    """The core's arithmetic, and the same in floating point: two arrays (N, side, side)."""
    offset = np.arange(side) - (side - 1) / 2
    table = affine.astype(np.float64)[:, :, :, None]
    along_u = table[:, :, 0] * offset
    along_v = table[:, :, 1] * offset + table[:, :, 2]
    places = along_u[:, :, None, :] + along_v[:, :, :, None]
    positive = 2.0**46
    steps = [
        np.floor(np.clip(a, -(2**30), 2**30) * 2**16 + (positive + 0.5)) - positive
        for a in (along_u, along_v)
    ]
    whole = (steps[0][:, :, None, :] + steps[1][:, :, :, None]).astype(np.int64) + 256

    def bilinear(x, y, fx, fy, one):
        def pixel(i, j):
            folded = []
            for at, size in ((j, image.shape[0]), (i, image.shape[1])):
                at = at % max(2 * size - 2, 1)
                folded.append(np.minimum(at, 2 * size - 2 - at) if size > 1 else at)
            return image[tuple(folded)].astype(type(one))

        upper = pixel(x, y) * (one - fx) + pixel(x + 1, y) * fx
        lower = pixel(x, y + 1) * (one - fx) + pixel(x + 1, y + 1) * fx
        return upper * (one - fy) + lower * fy

    x, y = whole[:, 0], whole[:, 1]
    exact = bilinear(x >> 16, y >> 16, x >> 9 & 127, y >> 9 & 127, 128)
    x, y = np.clip(places[:, 0], -(2**30), 2**30), np.clip(places[:, 1], -(2**30), 2**30)
    floors = np.floor(x), np.floor(y)
    smooth = bilinear(*(a.astype(np.int64) for a in floors), x - floors[0], y - floors[1], 1.0)
    return (exact + 2**13) >> 14, smooth


def places(count, shape, seed, far=False):
    """Affine frames over and around an image: steps up to 1.5 pixels, any angle."""
    rng = np.random.default_rng(seed)
    step, angle = rng.uniform(0.1, 1.5, count), rng.uniform(0, 2 * np.pi, count)
    x, y = (rng.uniform(-10, extent + 10, count) for extent in shape[::-1])
    if far:
        x, y = x * 1e6, y * -1e5
    c, s = step * np.cos(angle), step * np.sin(angle)
    return np.stack([np.stack([c, -s, x], 1), np.stack([s, c, y], 1)], 1).astype(np.float32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (40, 33), (300, 401)])
@pytest.mark.parametrize("side", [1, 7, 16, 32, 37])
def test_the_core_equals_numpy(monkeypatch, isa, shape, side):
    monkeypatch.setenv("BINDESC_ISA", isa)
    images = [np.random.default_rng(i).integers(0, 256, shape, np.uint8) for i in range(2)]
    for far in (False, True):
        affine = places(150, shape, seed=side, far=far)
        level = np.arange(150, dtype=np.int32) % 2
        expected = np.empty((150, side, side), np.uint8)
        for i, image in enumerate(images):
            expected[i::2] = in_numpy(image, affine[i::2], side)[0]
        for threads in (1, 3):
            assert (_cpu.sample(images, affine, level, side, threads) == expected).all()


def test_integers_cost_less_than_a_grey_level():
    gray = textured_gray(300, 401)
    affine = places(200, gray.shape, seed=3)
    patches = _cpu.sample([gray], affine, np.zeros(200, np.int32), 32, 1)
    assert np.abs(patches - in_numpy(gray, affine, 32)[1]).max() < 1
    # Noise of full range is the worst there is: 1/256 pixel in both directions, and rounding.
    noise = np.random.default_rng(0).integers(0, 256, gray.shape, np.uint8)
    patches = _cpu.sample([noise], affine, np.zeros(200, np.int32), 32, 1)
    assert np.abs(patches - in_numpy(noise, affine, 32)[1]).max() < 2.5


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("isa", ISAS)
def test_a_patch_that_just_fits_into_the_image(monkeypatch, isa, corner):
    monkeypatch.setenv("BINDESC_ISA", isa)
    image = np.random.default_rng(0).integers(0, 256, (48, 48), np.uint8)
    for inset in range(4):
        row, column = (16 - inset if c else inset for c in corner)
        affine = np.array([[[1, 0, column + 15.5], [0, 1, row + 15.5]]], np.float32)
        patch = _cpu.sample([image], affine, np.zeros(1, np.int32), 32, 1)[0]
        assert (patch == image[row : row + 32, column : column + 32]).all()


def test_coordinates_beyond_all_numbers_are_still_answered():
    affine = np.array([[[np.nan, np.inf, 1], [1e38, -1e38, -np.inf]]], np.float32)
    image = np.full((5, 5), 9, np.uint8)
    assert (_cpu.sample([image], affine, np.zeros(1, np.int32), 32, 1) == 9).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 0}, "side"),
        ({"side": 1025}, "side"),
        ({"threads": 0}, "threads"),
        ({"level": np.array([1], np.int32)}, "level"),
        ({"level": np.array([-1], np.int32)}, "level"),
        ({"level": np.zeros(2, np.int32)}, "level"),
        ({"levels": [np.zeros((0, 4), np.uint8)]}, "levels"),
        ({"levels": []}, "level"),
    ],
)
def test_the_core_checks_what_it_is_given(change, message):
    arguments = {
        "levels": [np.zeros((4, 4), np.uint8)],
        "affine": np.zeros((1, 2, 3), np.float32),
        "level": np.zeros(1, np.int32),
        "side": 32,
        "threads": 1,
    }
    with pytest.raises(ValueError, match=message):
        _cpu.sample(**(arguments | change))


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


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("side", [0, -1, 1025, 40000])
def test_sides_out_of_range(dtype, side):
    point = np.zeros((1, 2), np.float32)
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="side: "):
        extract_patches(textured_gray(50, 50), point, one, one, side=side, dtype=dtype)


def test_other_dtypes_are_refused():
    point = np.zeros((1, 2), np.float32)
    one = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="dtype: expected uint8 or float32, got int32"):
        extract_patches(textured_gray(50, 50), point, one, one, dtype=np.int32)
