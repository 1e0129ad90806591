"""Keypoints are turned and stretched by what a network says of their patch."""

import cv2
import numpy as np
import pytest
import torch
from networks import calibration
from pictures import textured_gray

import bindesc
from bindesc.detectors import SCALE_FACTORS, to_arrays
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.models.integer import STRETCH
from bindesc.orientation import Orienter, frames, turned, turns
from bindesc.patches import PatchCutter, extract_patches
from bindesc.weights import save_model


def test_directions_become_degrees_clockwise():
    directions = np.array([[5, 0], [3, 3], [0, 7], [-2, 0], [0, -1], [100, 1], [0, 0]], np.int32)
    assert turns(directions).tolist() == [0, 45, 90, 180, -90, 0, 0]
    rng = np.random.default_rng(0)
    directions = rng.integers(-(2**23), 2**23, (1000, 16)).astype(np.int32)
    exact = np.degrees(np.arctan2(directions[:, 1], directions[:, 0]))
    assert np.abs(turns(directions) - exact).max() <= 180 / 256 + 1e-9
    assert (turns(directions) % (360 / 256) == 0).all()


def test_outputs_become_a_turn_and_then_a_stretch():
    rng = np.random.default_rng(0)
    outputs = rng.integers(-(2**23), 2**23, (200, 16)).astype(np.int32)
    outputs[0, :4] = 0
    outputs[1, :4] = 5, 0, 0, 0
    found = frames(outputs)
    np.testing.assert_allclose(np.linalg.det(found), 1)
    np.testing.assert_allclose(found[:2], np.stack([np.eye(2)] * 2))
    x, y, z, w = outputs[2:, :4].astype(float).T
    p, q = STRETCH * np.stack([z, w]) / np.sqrt(x * x + y * y + z * z + w * w)
    stretch = np.moveaxis(np.array([[1 + p, q], [q, 1 - p]]), 2, 0)
    stretch /= np.sqrt(np.linalg.det(stretch))[:, None, None]
    length = np.hypot(x, y)
    turn = np.moveaxis(np.array([[x, -y], [y, x]]) / length, 2, 0)
    np.testing.assert_allclose(found[2:], stretch @ turn, atol=0.04)  # they are rounded
    angle = np.float32(rng.uniform(0, 360, 200))
    expected = (angle + turns(outputs)) % 360
    assert np.abs((turned(angle, found) - expected + 180) % 360 - 180).max() < 1e-3
    assert turned(np.float32([-1]), found[:1]) == -1


def centroid(patches):
    """The direction of the brightness, which a turned patch turns with."""
    offset = np.arange(16) - 7.5
    values = patches.astype(float)
    x, y = (values * offset).sum((1, 2)), (values * offset[:, None]).sum((1, 2))
    return np.stack([x, y, 0 * x, 0 * x], 1).astype(np.int32)


def points(count=40):
    rng = np.random.default_rng(1)
    xy = rng.uniform(40, 200, (count, 2)).astype(np.float32)
    size = rng.uniform(20, 40, count).astype(np.float32)
    return xy, size, rng.uniform(0, 360, count).astype(np.float32)


def test_the_turned_patch_has_its_direction_to_the_right():
    image = cv2.GaussianBlur(textured_gray(240, 240), (0, 0), 4)
    xy, size, angle = points()
    cutter = PatchCutter(image)
    adapted = Orienter(centroid).adapt(cutter, xy, size, angle, 1.5)
    before = np.abs(turns(centroid(cutter.cut(xy, size, angle, scale=1.5, side=16)[0])))
    after = np.abs(
        turns(centroid(cutter.cut(xy, size, angle, scale=1.5, side=16, frames=adapted)[0]))
    )
    assert np.median(before) > 45
    assert np.median(after) < 12  # the square's corners leave and enter


def test_upright_keypoints_stay_upright():
    xy, size, angle = points(3)
    angle[1] = -1
    cutter = PatchCutter(textured_gray(240, 240))
    adapted = Orienter(centroid).adapt(cutter, xy, size, angle, 1.0)
    assert (adapted[1] == np.eye(2)).all()
    assert (adapted[[0, 2]] != np.eye(2)).any((1, 2)).all()


def test_a_stretched_patch_shows_what_the_stretch_says():
    u, v = np.meshgrid(np.arange(200.0), np.arange(200.0))
    image = np.clip(100 + 0.8 * (u - 100) + 0.3 * (v - 100), 0, 255).round().astype(np.uint8)
    frame = np.array([[[1.25, 0.0], [0.0, 0.8]]])
    at = np.full((1, 2), 100, np.float32), np.float32([32]), np.float32([90])
    (patch,), _ = PatchCutter(image).cut(*at, frames=frame)
    place = np.arange(32) - 15.5
    # To the right of a patch at 90 degrees is down in the image, and down is left.
    x, y = np.meshgrid(1.25 * place, 0.8 * place)
    expected = 100 + 0.8 * -y + 0.3 * x
    assert np.abs(patch - expected).max() <= 1.01


def test_one_cutter_cuts_what_single_calls_cut():
    image = textured_gray(240, 240)
    xy, size, angle = points()
    cutter = PatchCutter(image)
    for scale, side in ((4.0, 16), (1.0, 32), (9.0, 32)):
        options = {"scale": scale, "side": side}
        expected, _ = extract_patches(image, xy, size, angle, **options)
        assert (cutter.cut(xy, size, angle, **options)[0] == expected).all()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model whose orientation network turns every keypoint by 90 degrees."""
    torch.manual_seed(0)
    network = CompactNet(CompactConfig((16, 16), (2, 2), orientation=(16, 16)))
    network.orientation.layers[-2].bias.data = torch.tensor([0.0, 1.0, 0.0, 0.0])
    path = tmp_path_factory.mktemp("model") / "turns.safetensors"
    patches = np.random.default_rng(0).integers(0, 256, (64, 32, 32), np.uint8)
    save_model(path, network, calibration=calibration(patches))
    return path


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_an_extractor_turns_before_it_cuts(model, device):
    image = textured_gray()
    extractor = bindesc.create(model=model, nfeatures=100, device=device)
    keypoints, codes = extractor.detectAndCompute(image, None)
    xy, size, angle, _ = to_arrays(keypoints)
    scale = SCALE_FACTORS["orb"]
    patches, _ = extract_patches(image, xy, size, (angle + 90) % 360, scale=scale)
    assert (extractor.describe(patches) == codes).all()
    features = extractor.extract(image)
    assert (features.descriptors == codes).all()
    assert (features.angle == angle).all()  # the detector's
    same = extractor.detect(image)
    assert [k.angle for k in keypoints] == [k.angle for k in same]
    upright = [cv2.KeyPoint(*k.pt, k.size, -1) for k in keypoints]
    patches, _ = extract_patches(image, xy, size, np.full_like(angle, -1), scale=scale)
    assert (extractor.compute(image, upright)[1] == extractor.describe(patches)).all()
    assert extractor.compute(image, ()) == ((), None)
