"""Log-polar patches are turned as a network says."""

import cv2
import numpy as np
import pytest
import torch
from networks import calibration
from pictures import textured_gray

import bindesc
from bindesc.detectors import SCALE_FACTORS, to_arrays
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.models.integer import ORIENTATION, activations, from_tensors
from bindesc.models.orientation import OrientationNet
from bindesc.models.orientation import turn_patches as turn_in_torch
from bindesc.orientation import STEPS, halve, turn_patches, turn_steps, turned
from bindesc.patches import PatchCutter
from bindesc.runtime import Runtime
from bindesc.weights import WeightsError, read_model, save_model


def test_directions_become_steps_clockwise():
    directions = np.array([[5, 0], [3, 3], [0, 7], [-2, 0], [0, -1], [100, 1], [0, 0]], np.int32)
    assert turn_steps(directions).tolist() == [0, 32, 64, 128, -64, 0, 0]
    rng = np.random.default_rng(0)
    directions = rng.integers(-(2**23), 2**23, (1000, 16)).astype(np.int32)
    exact = np.arctan2(directions[:, 1], directions[:, 0]) * (STEPS / (2 * np.pi))
    assert np.abs(turn_steps(directions) - exact).max() <= 0.5 + 1e-9


def test_angles_turn_and_upright_ones_stay():
    angle, steps = np.float32([350, 10, -1, 0]), np.int32([32, -32, 32, 0])
    assert turned(angle, steps).tolist() == [35, 325, -1, 0]


def test_halving_rounds_the_mean_of_four():
    patches = np.array([[[0, 1, 255, 255], [0, 1, 255, 254], [1, 1, 0, 0], [1, 2, 0, 1]]], np.uint8)
    assert halve(patches).tolist() == [[[1, 255], [1, 0]]]


def log_polar(turn=0.0, count=40):
    """Patches of a smooth picture's keypoints, each turned by so many degrees."""
    image = cv2.GaussianBlur(textured_gray(240, 240), (0, 0), 4)
    rng = np.random.default_rng(1)
    xy = rng.uniform(40, 200, (count, 2)).astype(np.float32)
    size = rng.uniform(20, 40, count).astype(np.float32)
    angle = rng.uniform(0, 360, count)
    return PatchCutter(image).cut_log_polar(xy, size, np.float32((angle + turn) % 360))[0]


@pytest.mark.parametrize("steps", [8, -64, 128, -128, 3, -21, 100])
def test_a_turned_patch_is_that_of_the_turned_keypoint(steps):
    patches = log_polar()
    found = turn_patches(patches, np.full(40, steps, np.int32)).astype(int)
    expected = log_polar(steps * 360 / STEPS).astype(int)
    error, change = np.abs(found - expected).mean(), np.abs(patches - expected).mean()
    # Between two columns there is less contrast.
    assert error < (0.1 if steps % 8 == 0 else 0.4) * change
    assert error < 0.1 if steps % 8 == 0 else error < 1


def test_training_and_running_turn_alike():
    patches = log_polar()
    angle = np.arange(40) * 0.37
    steps = turn_steps(np.round(1e6 * np.stack([np.cos(angle), np.sin(angle)], 1)).astype(np.int32))
    radians = torch.from_numpy(steps * (2 * np.pi / STEPS)).float()
    directions = 3 * torch.stack([radians.cos(), radians.sin()], 1)
    found = turn_in_torch(torch.from_numpy(patches).float()[:, None], directions)[:, 0]
    assert np.abs(found.numpy() - turn_patches(patches, steps)).max() <= 0.51


def trained_net():
    torch.manual_seed(0)
    network = OrientationNet((16, 16))
    torch.nn.init.normal_(network.scores.weight, std=0.3)
    return network.eval()


def test_an_untrained_network_leaves_patches_as_they_are():
    patches = torch.from_numpy(log_polar()).float()[:, None]
    directions = OrientationNet((8, 8, 8))(patches)
    assert torch.equal(turn_in_torch(patches, directions), patches)


@torch.no_grad()
def test_the_orientation_turns_with_the_patch():
    network = trained_net()
    network.trust.data.zero_()
    patches = torch.from_numpy(log_polar(count=8)).float()[:, None]
    before, after = network(patches), network(patches.roll(8, 3))  # a quarter, clockwise
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(after, before @ turn.T, atol=1e-4)


@torch.no_grad()
def test_the_inference_network_is_the_same_function():
    network = trained_net()
    halves = torch.from_numpy(halve(log_polar())).float()[:, None]
    whole = halves.repeat_interleave(2, 2).repeat_interleave(2, 3)
    np.testing.assert_allclose(network.for_inference()(halves), network(whole), atol=1e-4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with an orientation network that was not trained, but turns."""
    network = CompactNet(
        CompactConfig((16, 16), (2, 2), support=1.25, log_polar=True, orientation=(16, 16))
    )
    network.orientation = trained_net()
    path = tmp_path_factory.mktemp("model") / "turns.safetensors"
    save_model(path, network, calibration=calibration(log_polar(count=64)))
    return path


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_every_way_of_running_turns_alike(model, device):
    patches = log_polar(count=77)
    layers = from_tensors(read_model(model)[1], ORIENTATION)
    steps = turn_steps(activations(layers, halve(patches)))
    assert len(set(steps)) > 20
    upright = np.arange(77) % 5 == 0
    steps[upright] = 0
    runtime = Runtime(model, device)
    found, found_steps = runtime.turn(patches, upright)
    assert (found_steps == steps).all()
    assert (found == turn_patches(patches, steps)).all()
    assert runtime.turn(patches[:0])[0].shape == (0, 32, 32)
    assert (runtime.codes(patches, upright) == runtime.codes(found, np.ones(77, bool))).all()


def test_the_core_refuses_what_does_not_fit(model):
    core = Runtime(model)._turn.__closure__[0].cell_contents
    patches, upright = log_polar(count=3), np.zeros(3, bool)
    with pytest.raises(ValueError, match="upright: the length"):
        core.turn(patches, upright[:2], 1)
    with pytest.raises(ValueError, match=r"patches: expected \(N, 32, 32\)"):
        core.turn(np.ascontiguousarray(patches[:, ::2]), upright, 1)
    codes = Runtime("tiny")._describe.__closure__[0].cell_contents
    with pytest.raises(ValueError, match="not an orientation network"):
        codes.turn(patches, upright, 1)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_an_extractor_turns_all_but_upright_keypoints(model, device):
    image = textured_gray()
    extractor = bindesc.create(model=model, nfeatures=100, device=device)
    keypoints, codes = extractor.detectAndCompute(image, None)
    runtime = extractor._runtime
    xy, size, angle, _ = to_arrays(keypoints)
    scale = SCALE_FACTORS["orb"] * runtime.support
    patches, _ = runtime.cut(image, xy, size, angle, scale=scale)
    steps = runtime.turn(patches)[1]
    new = turned(angle, steps)
    assert (runtime.codes(patches) == codes).all()
    assert (extractor.extract(image).angle == angle).all()  # the detector's
    again, _ = runtime.cut(image, xy, size, new, scale=scale)
    as_is = runtime.codes(again, np.ones(len(again), bool))
    assert np.median(np.bitwise_count(as_is ^ codes).sum(1)) < 20  # of 256 bits
    upright = [cv2.KeyPoint(*k.pt, k.size, -1) for k in keypoints]
    patches, _ = runtime.cut(image, xy, size, np.full_like(angle, -1), scale=scale)
    expected = runtime.codes(patches, np.ones(len(patches), bool))
    assert (extractor.compute(image, upright)[1] == expected).all()
    mixed = [*upright[:5], *keypoints[5:]]
    expected = np.concatenate([expected[:5], codes[5:]])
    assert (extractor.compute(image, mixed)[1] == expected).all()
    assert extractor.compute(image, ()) == ((), None)


def test_an_orientation_is_for_log_polar_patches():
    with pytest.raises(ValueError, match="orientation: turns log-polar patches"):
        CompactConfig((16, 16), (2, 2), orientation=(16, 16))


def test_a_model_that_turned_square_patches_is_refused(model, tmp_path):
    _, tensors = read_model(model)
    old = tmp_path / "old.safetensors"
    kept = {k: v for k, v in tensors.items() if not k.endswith("circular") or "orient" not in k}
    assert len(kept) == len(tensors) - 2
    runtime = Runtime(model)
    with pytest.raises(WeightsError, match="older version; train anew"):
        runtime._prepare(old, kept, "cpu")
