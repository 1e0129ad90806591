"""Log-polar patches: where samples lie, and that all ways to cut them agree."""

import cv2
import numpy as np
import pytest
import torch
from pictures import textured_gray

from bindesc import _cpu
from bindesc.log_polar import DIRECTIONS, REACH, RINGS, places, ring_radii, ring_spacing
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.patches import PatchCutter, extract_patches, squares_to_log_polar
from bindesc.training.frames import cut_log_polar

ISAS = [name for name, usable in _cpu.isas().items() if usable]
LAST_RADIUS = 24  # kLastRadius of the C++ core


def cut(image, xy, size, angle, **options):
    """The patches of one or several keypoints."""
    arrays = (np.atleast_1d(np.float32(value)) for value in (size, angle))
    return PatchCutter(image).cut_log_polar(np.float32(xy).reshape(-1, 2), *arrays, **options)


def keypoints(count=300, seed=0, low=-20.0, high=260.0):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(low, high, (count, 2)).astype(np.float32)
    size = rng.choice([9, 31, 54, 111, 300], count).astype(np.float32)
    return xy, size, rng.uniform(0, 360, count).astype(np.float32)


def oracle(image, xy, size, angle, scale):
    """Sample by sample in floating point."""
    levels = [image]
    while len(levels) <= int(np.log2(min(image.shape))):
        levels.append(cv2.pyrDown(levels[-1]))
    ring = np.maximum(np.floor(np.log2(ring_spacing() * LAST_RADIUS) + 0.5), 0)
    patches = np.empty((len(xy), RINGS, DIRECTIONS))
    for n, (centre, side, degrees) in enumerate(zip(xy, size * scale, angle, strict=True)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        at = np.einsum("ij,jvu->vui", np.array([[c, -s], [s, c]]) * side / 2, places()) + centre
        first = max(np.floor(np.log2(side / 2 / LAST_RADIUS) + 0.5), 0)
        for v, above in enumerate(ring):
            level = int(min(first + above, len(levels) - 1))
            patches[n, v] = bilinear(levels[level], *(at[v] / 2**level).T)
    return patches


def bilinear(image, x, y):
    """``cv2.remap`` with a mirrored border; that of OpenCV 4 knows 32 places in a pixel only."""
    left, top = np.floor(x), np.floor(y)

    def pixel(u, v):
        place = []
        for line, length in ((v, image.shape[0]), (u, image.shape[1])):
            period = max(2 * length - 2, 1)
            folded = np.int64(line) % period
            place.append(np.minimum(folded, period - folded) if length > 1 else folded * 0)
        return image[tuple(place)].astype(float)

    across = x - left
    upper, lower = (
        pixel(left, line) * (1 - across) + pixel(left + 1, line) * across for line in (top, top + 1)
    )
    return upper + (lower - upper) * (y - top)


@pytest.mark.parametrize("isa", ISAS)
def test_samples_lie_where_they_should(isa, monkeypatch):
    monkeypatch.setenv("BINDESC_ISA", isa)
    image = textured_gray(240, 240)
    at = keypoints()
    found, kept = PatchCutter(image).cut_log_polar(*at, scale=1.875)
    assert len(kept) == len(at[0])
    assert np.abs(found - oracle(image, *at, 1.875)).max() <= 1  # that rounds otherwise


def test_a_ramp_tells_the_places():
    image = np.tile(np.arange(240, dtype=np.uint8), (240, 1))
    (patch,), _ = cut(image, (120, 120), 40, 0)
    inner = ring_spacing() * LAST_RADIUS < np.sqrt(2)  # these come from the image itself
    expected = 120 + 20 * places()[0]
    assert np.abs(patch - expected)[inner].max() <= 0.52


def test_rings_grow_by_a_factor():
    radii = ring_radii()
    np.testing.assert_allclose(radii[1:] / radii[:-1], radii[1] / radii[0])
    assert radii[-1] == 1
    np.testing.assert_allclose(np.hypot(*places()), radii[:, None].repeat(DIRECTIONS, 1))


def test_a_turn_moves_the_columns():
    image = cv2.GaussianBlur(textured_gray(240, 240), (0, 0), 3)
    step = 360 / DIRECTIONS
    (first,), _ = cut(image, (120.25, 118.5), 60, 20)
    (second,), _ = cut(image, (120.25, 118.5), 60, 20 + 3 * step)
    assert np.abs(np.roll(first, -3, 1).astype(int) - second).max() <= 1


def test_any_threads_give_the_same(opencv_threads):
    image, at = textured_gray(240, 240), keypoints(1000)
    expected, _ = PatchCutter(image).cut_log_polar(*at)
    for threads in (1, 5):
        opencv_threads(threads)
        assert (PatchCutter(image).cut_log_polar(*at)[0] == expected).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (3, 2), (240, 5)])
def test_small_images_are_mirrored(shape):
    image = textured_gray(240, 240)[: shape[0], : shape[1]].copy()
    at = keypoints(100, low=-5, high=30)
    assert np.abs(PatchCutter(image).cut_log_polar(*at)[0] - oracle(image, *at, 1)).max() <= 1


def test_far_and_large_keypoints_do_no_harm():
    image = textured_gray(100, 100)
    xy, size = [[1e30, -1e30], [3e9, 50], [50, 50]], [31, 1e30, 1e12]
    assert cut(image, xy, size, [0, 45, 90])[0].shape == (3, RINGS, DIRECTIONS)
    assert cut(image, np.empty((0, 2)), [], [])[0].shape == (0, RINGS, DIRECTIONS)


def test_the_border_can_drop_keypoints():
    image = textured_gray(100, 100)
    xy = [[50, 50], [19, 50], [21, 50], [50, 78], [50, 80]]
    patches, kept = cut(image, xy, [40] * 5, [0] * 5, border="drop")
    assert kept.tolist() == [0, 2, 3]
    assert (patches == cut(image, xy, [40] * 5, [0] * 5)[0][kept]).all()
    with pytest.raises(ValueError, match="border"):
        cut(image, xy, [40] * 5, [0] * 5, border="wrap")


@pytest.mark.parametrize("side", [16, 33, 64, 128])
def test_squares_are_described_alike_in_any_number(side):
    image = textured_gray(400, 400)
    xy, size = np.full((300, 2), 200, np.float32), np.full(300, side, np.float32)
    xy += np.random.default_rng(0).uniform(-60, 60, xy.shape).astype(np.float32)
    squares, _ = extract_patches(image, xy, size, np.zeros(300, np.float32), side=side)
    found = squares_to_log_polar(squares)
    assert (squares_to_log_polar(squares[290:]) == found[290:]).all()
    assert squares_to_log_polar(squares[:0]).shape == (0, RINGS, DIRECTIONS)
    smooth = cv2.GaussianBlur(image, (0, 0), 3)
    squares, _ = extract_patches(smooth, xy, size, np.zeros(300, np.float32), side=side)
    direct, _ = PatchCutter(smooth).cut_log_polar(xy, size, np.zeros(300, np.float32))
    difference = np.abs(squares_to_log_polar(squares).astype(int) - direct)
    assert difference[:, : RINGS // 2].max() <= 4
    assert difference.mean() < 1


@pytest.mark.parametrize(
    "patches",
    [
        np.zeros((2, 15, 15), np.uint8),
        np.zeros((2, 129, 129), np.uint8),
        np.zeros((2, 32, 64), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.array(3, np.uint8),
        np.zeros((2, 32, 32)),
    ],
)
def test_what_is_no_square_is_refused(patches):
    with pytest.raises(ValueError, match="S from 16 to 128"):
        squares_to_log_polar(patches)


def test_training_cuts_what_runs():
    image = cv2.GaussianBlur(textured_gray(300, 300), (0, 0), 3)
    xy = np.random.default_rng(0).uniform(100, 200, (50, 2)).astype(np.float32)
    size, angle = np.full(50, 32, np.float32), np.full(50, 30, np.float32)
    wide, _ = extract_patches(image, xy, size, angle, scale=56 / 32, side=56)
    upright = torch.eye(2, 3).expand(50, 2, 3)
    found = cut_log_polar(torch.from_numpy(wide).float()[:, None], upright)[:, 0]
    expected, _ = PatchCutter(image).cut_log_polar(xy, size, angle, scale=REACH)
    assert np.abs(found.numpy() - expected).max() < 5
    assert np.abs(found.numpy() - expected).mean() < 0.7


def test_the_network_goes_round():
    torch.manual_seed(0)
    network = CompactNet(CompactConfig((16, 16), (2, 2), 64, log_polar=True)).eval()
    patches = torch.rand(3, 1, RINGS, DIRECTIONS)
    layers = network.layers[:-3]  # up to the last map
    with torch.no_grad():
        turned = layers(patches.roll(8, 3))
        assert torch.allclose(layers(patches).roll(2, 3), turned, atol=1e-5)
