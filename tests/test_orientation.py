"""Log-polar patches are turned and stretched as a network says."""

import cv2
import numpy as np
import pytest
import torch
from networks import calibration
from pictures import textured_gray

import bindesc
from bindesc import _cpu
from bindesc.detectors import SCALE_FACTORS, to_arrays
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.models.integer import MOST_STRETCH, ORIENTATION, activations, from_tensors
from bindesc.models.orientation import OrientationNet, frames
from bindesc.models.orientation import adapt_patches as adapt_in_torch
from bindesc.orientation import (
    STEPS,
    STRETCH_STEPS,
    adapt_patches,
    adaptation_steps,
    halve,
    turned,
)
from bindesc.patches import PatchCutter
from bindesc.runtime import Runtime, _core_network
from bindesc.weights import WeightsError, read_model, save_model


def test_outputs_become_steps():
    turns = np.array([[5, 0], [3, 3], [0, 7], [-2, 0], [0, -1], [100, 1], [0, 0]])
    outputs = np.hstack([turns, np.zeros((7, 14))]).astype(np.int32)
    expected = np.zeros((7, 3))
    expected[:, 0] = [0, 32, 64, 128, -64, 0, 0]
    assert (adaptation_steps(outputs) == expected).all()
    stretches = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [3, -3], [0, 0]])
    outputs = np.hstack([[[1, 0]] * 6, stretches]).astype(np.int32)
    expected = [[0, 0, 23], [0, 32, 23], [0, 64, 23], [0, -32, 23], [0, -16, 31], [0, 0, 0]]
    assert adaptation_steps(outputs).tolist() == expected
    assert adaptation_steps(np.array([[0, 0, 9, 0]], np.int32)).tolist() == [[0, 0, 32]]


@torch.no_grad()
def test_steps_are_the_rounded_frames():
    rng = np.random.default_rng(0)
    outputs = rng.integers(-(2**23), 2**23, (1000, 16)).astype(np.int32)
    found = frames(as_outputs(adaptation_steps(outputs))).numpy()
    exact = frames(torch.from_numpy(outputs[:, :4]).double()).numpy()
    assert np.abs(np.linalg.det(exact) - 1).max() < 1e-9
    # Half a step of the turn, of the axis and of the strength, each times what it moves at most.
    half = np.pi / STEPS
    most = half * 3**0.5 + half * (3**0.5 - 3**-0.5) + 2.31 / (2 * STRETCH_STEPS)
    assert np.abs(found - exact).max() < most
    assert np.abs(found - exact).mean() < most / 6


def as_outputs(steps):
    """``(N, 4)`` of a network that adapts patches by exactly so many steps."""
    turn, axis = torch.from_numpy(steps[:, :2] * (2 * np.pi / STEPS)).T
    strength = torch.from_numpy(steps[:, 2] / (MOST_STRETCH * STRETCH_STEPS))
    rest = (1 - strength**2).clamp_min(1e-12).sqrt()
    columns = [rest * turn.cos(), rest * turn.sin()]
    return torch.stack([*columns, strength * (2 * axis).cos(), strength * (2 * axis).sin()], 1)


def test_angles_turn_and_upright_ones_stay():
    angle, turns = np.float32([350, 10, -1, 0]), np.int32([32, -32, 32, 0])
    steps = np.stack([turns, turns, turns], 1)
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


def turns(steps, count=40):
    return np.tile(np.int32([steps, 0, 0]), (count, 1))


@pytest.mark.parametrize("steps", [8, -64, 128, -128, 3, -21, 100])
def test_a_turned_patch_is_that_of_the_turned_keypoint(steps):
    patches = log_polar()
    found = adapt_patches(patches, turns(steps)).astype(int)
    expected = log_polar(steps * 360 / STEPS).astype(int)
    error, change = np.abs(found - expected).mean(), np.abs(patches - expected).mean()
    # Between two columns there is less contrast.
    assert error < (0.1 if steps % 8 == 0 else 0.4) * change
    assert error < 0.1 if steps % 8 == 0 else error < 1


def test_a_stretched_patch_is_that_of_a_squeezed_image():
    """Of its inner rings, as what lies outside of the patch cannot come in."""
    image = cv2.GaussianBlur(textured_gray(240, 240), (0, 0), 4)
    xy = np.float32([[120, 120]])
    places = xy, np.float32([30]), np.float32([0])
    for axis, strength in ((0, 16), (24, 16), (-50, 32), (64, 8)):
        steps = np.int32([[13, axis, strength]])
        frame = frames(as_outputs(steps))[0].numpy()
        # Where a pixel of the adapted image comes from.
        to_image = np.hstack([frame, xy.T - frame @ xy.T])
        flags = cv2.WARP_INVERSE_MAP | cv2.INTER_CUBIC
        adapted = cv2.warpAffine(image, to_image, (240, 240), flags=flags)
        expected = PatchCutter(adapted).cut_log_polar(*places)[0].astype(int)
        before = PatchCutter(image).cut_log_polar(*places)[0]
        found = adapt_patches(before, steps).astype(int)
        error, change = (np.abs(p - expected)[:, :26].mean() for p in (found, before.astype(int)))
        assert error < 0.12 * change
        assert error < 1.5


def test_training_and_running_adapt_alike():
    patches = log_polar()
    rng = np.random.default_rng(3)
    steps = rng.integers([-128, -64, 0], [129, 65, 33], (40, 3)).astype(np.int32)
    wide = torch.from_numpy(patches).float()[:, None]
    found = adapt_in_torch(wide, frames(as_outputs(steps)).float())[:, 0].numpy()
    error = np.abs(found - adapt_patches(patches, steps))
    assert error.max() < 6 and error.mean() < 0.35  # columns and rings in 8ths
    steps[:, 1:] = 0
    found = adapt_in_torch(wide, frames(as_outputs(steps)).float())[:, 0].numpy()
    assert np.abs(found - adapt_patches(patches, steps)).max() <= 0.51


def trained_net():
    torch.manual_seed(0)
    network = OrientationNet((16, 16))
    torch.nn.init.normal_(network.scores.weight, std=0.3)
    return network.eval()


def test_an_untrained_network_leaves_patches_as_they_are():
    patches = torch.from_numpy(log_polar()).float()[:, None]
    outputs = OrientationNet((8, 8, 8))(patches)
    torch.testing.assert_close(adapt_in_torch(patches, frames(outputs)), patches, rtol=0, atol=1e-3)
    steps = adaptation_steps((outputs * 1000).detach().numpy().astype(np.int32))
    assert (adapt_patches(log_polar(), steps) == log_polar()).all()


@torch.no_grad()
def test_the_frame_turns_with_the_patch():
    network = trained_net()
    network.trust.data.zero_()
    patches = torch.from_numpy(log_polar(count=8)).float()[:, None]
    before, after = network(patches), network(patches.roll(8, 3))  # a quarter, clockwise
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(after[:, :2], before[:, :2] @ turn.T, atol=1e-4)
    np.testing.assert_allclose(after[:, 2:], -before[:, 2:], atol=1e-4)  # half a turn of 2 angles


@torch.no_grad()
def test_the_inference_network_is_the_same_function():
    network = trained_net()
    halves = torch.from_numpy(halve(log_polar())).float()[:, None]
    whole = halves.repeat_interleave(2, 2).repeat_interleave(2, 3)
    np.testing.assert_allclose(network.for_inference()(halves), network(whole), atol=1e-4)


def test_a_flat_patch_has_a_finite_gradient():
    network = CompactNet(CompactConfig((16, 16), (2, 2), log_polar=True, orientation=(16, 16)))
    network.orientation = trained_net()
    flat = torch.full((3, 1, 32, 32), 7.0)
    network(flat).sum().backward()
    for weight in network.parameters():
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with an orientation network that was not trained, but adapts."""
    network = CompactNet(
        CompactConfig((16, 16), (2, 2), support=1.25, log_polar=True, orientation=(16, 16))
    )
    network.orientation = trained_net()
    path = tmp_path_factory.mktemp("model") / "turns.safetensors"
    save_model(path, network, calibration=calibration(log_polar(count=64)))
    return path


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_every_way_of_running_adapts_alike(model, device):
    patches = log_polar(count=77)
    layers = from_tensors(read_model(model)[1], ORIENTATION)
    steps = adaptation_steps(activations(layers, halve(patches)))
    assert all(len(set(column)) > 10 for column in steps.T)
    upright = np.arange(77) % 5 == 0
    steps[upright, 0] = 0
    runtime = Runtime(model, device)
    found, found_steps = runtime.adapt(patches, upright)
    assert (found_steps == steps).all()
    assert (found == adapt_patches(patches, steps)).all()
    assert runtime.adapt(patches[:0])[0].shape == (0, 32, 32)
    assert (runtime.codes(patches, upright) == runtime.encode(found)).all()


def test_the_core_refuses_what_does_not_fit(model):
    core = _core_network(from_tensors(read_model(model)[1], ORIENTATION))
    patches, upright = log_polar(count=3), np.zeros(3, bool)
    with pytest.raises(ValueError, match="upright: the length"):
        core.adapt(patches, upright[:2], 1)
    with pytest.raises(ValueError, match=r"patches: expected \(N, 32, 32\)"):
        core.adapt(np.ascontiguousarray(patches[:, ::2]), upright, 1)
    codes = _core_network(from_tensors(read_model("tiny")[1]))
    with pytest.raises(ValueError, match="not an orientation network"):
        codes.adapt(patches, upright, 1)
    network = _core_network(from_tensors(read_model(model)[1]))
    levels = [np.zeros((9, 9), np.uint8)]
    circles = np.zeros((3, 2, 3), np.float32)
    for expected, *arguments in (
        ("upright: the length", network, core, levels, circles, upright[:2], 1),
        ("levels: the length", network, core, [], circles, upright, 1),
        ("threads", network, core, levels, circles, upright, 0),
        ("not an orientation network", network, network, levels, circles, upright, 1),
        ("network: not of log-polar patches", core, None, levels, circles, upright, 1),
    ):
        with pytest.raises(ValueError, match=expected):
            _cpu.describe_log_polar(*arguments)


@pytest.mark.parametrize("border", ["pad", "drop"])
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_keypoints_are_described_as_step_by_step(model, device, border):
    image = textured_gray()
    rng = np.random.default_rng(4)
    xy = (rng.random((50, 2)) * image.shape[::-1]).astype(np.float32)
    size, angle = (
        rng.uniform(low, high, 50).astype(np.float32) for low, high in ((9, 90), (0, 360))
    )
    angle[::4] = -1
    runtime = Runtime(model, device)
    codes, kept = runtime.describe_keypoints(image, xy, size, angle, scale=1.5, border=border)
    patches, expected = runtime.cut(image, xy, size, angle, scale=1.5, border=border)
    assert (kept == expected).all()
    assert (len(kept) < 50) == (border == "drop")
    assert (codes == runtime.codes(patches, angle[kept] < 0)).all()
    codes, kept = runtime.describe_keypoints(image, xy[:0], size[:0], angle[:0], scale=1.5)
    assert codes.shape == (0, 32) and kept.shape == (0,)


@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_an_extractor_turns_all_but_upright_keypoints(model, device):
    image = textured_gray()
    extractor = bindesc.create(model=model, nfeatures=100, device=device)
    keypoints, codes = extractor.detectAndCompute(image, None)
    runtime = extractor._runtime
    xy, size, angle, _ = to_arrays(keypoints)
    scale = SCALE_FACTORS["orb"] * runtime.support
    patches, _ = runtime.cut(image, xy, size, angle, scale=scale)
    steps = runtime.adapt(patches)[1]
    new = turned(angle, steps)
    assert (runtime.codes(patches) == codes).all()
    assert (extractor.extract(image).angle == angle).all()  # the detector's
    again, _ = runtime.cut(image, xy, size, new, scale=scale)
    stretches = steps - steps[:, :1]  # in the turned patch
    stretches[:, 2] = steps[:, 2]
    as_codes = runtime.encode(adapt_patches(again, stretches))
    assert np.median(np.bitwise_count(as_codes ^ codes).sum(1)) < 20  # of 256 bits
    upright = [cv2.KeyPoint(*k.pt, k.size, -1) for k in keypoints]
    patches, _ = runtime.cut(image, xy, size, np.full_like(angle, -1), scale=scale)
    expected = runtime.codes(patches, np.ones(len(patches), bool))
    assert (extractor.compute(image, upright)[1] == expected).all()
    mixed = [*upright[:5], *keypoints[5:]]
    expected = np.concatenate([expected[:5], codes[5:]])
    assert (extractor.compute(image, mixed)[1] == expected).all()
    assert extractor.compute(image, ()) == ((), None)


def test_an_orientation_is_for_log_polar_patches():
    with pytest.raises(ValueError, match="orientation: adapts log-polar patches"):
        CompactConfig((16, 16), (2, 2), orientation=(16, 16))


def test_a_model_that_turned_square_patches_is_refused(model, tmp_path):
    _, tensors = read_model(model)
    old = tmp_path / "old.safetensors"
    kept = {k: v for k, v in tensors.items() if not k.endswith("circular") or "orient" not in k}
    assert len(kept) == len(tensors) - 2
    runtime = Runtime(model)
    with pytest.raises(WeightsError, match="older version; train anew"):
        runtime._prepare(old, kept, "cpu")
