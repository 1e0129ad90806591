"""The network in integers: NumPy, the C++ kernels and torch agree bit for bit."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import calibration

from bindesc import _cpu
from bindesc.models.compact import CompactConfig, CompactNet
from bindesc.models.integer import (
    INPUT_SCALE,
    activations,
    from_tensors,
    normalise,
    quantise_layer,
    to_tensors,
)
from bindesc.models.integer_torch import IntegerNet, quantise
from bindesc.models.orientation import OrientationNet
from bindesc.models.rounding import EXACT, round_weights
from bindesc.orientation import halve
from bindesc.packing import pack_bits
from bindesc.runtime import Runtime
from bindesc.weights import golden_patches, load_model, read_model, save_model

SHAPES = [
    CompactConfig(channels=(16, 16), strides=(2, 2), bits=64),
    CompactConfig(channels=(32, 48, 64, 96), strides=(2, 2, 1, 2)),
    CompactConfig(channels=(24, 80, 112), strides=(2, 2, 2), bits=128),
    CompactConfig(channels=(8, 16, 40), strides=(1, 2, 2), bits=32),
    CompactConfig(channels=(16, 32, 32), strides=(2, 2, 1), bits=64, log_polar=True),
]


def trained(config, seed=0):
    """A network with statistics of its own in every normalisation."""
    torch.manual_seed(seed)
    network = CompactNet(config).train()
    for _ in range(3):
        network(torch.from_numpy(varied(64, seed)).float()[:, None])
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d) and layer.affine:
            torch.nn.init.normal_(layer.bias, std=0.3)
            torch.nn.init.uniform_(layer.weight, 0.3, 2)
    return network.eval()


def varied(count, seed=1):
    """Patches with structure, and the extremes: flat, almost flat, checkerboards, one pixel."""
    rng = np.random.default_rng(seed)
    patches = golden_patches()[rng.integers(0, 64, count)]
    patches = np.clip(patches + rng.normal(0, 20, patches.shape), 0, 255).astype(np.uint8)
    grid = np.indices((32, 32)).sum(0) % 2
    extremes = [grid * 255, grid + 127, np.zeros((32, 32)), np.full((32, 32), 255), grid * 0]
    extremes[4] = extremes[4].copy()
    extremes[4][5, 7] = 1
    for i, extreme in enumerate(extremes[:count]):
        patches[i] = extreme
    return patches


@pytest.fixture(scope="module", params=SHAPES, ids=lambda c: "-".join(map(str, c.channels)))
def layers(request):
    return quantise(trained(request.param), varied(128, 2))


def core(layers):
    tuples = [(a.weights, a.bias, a.multiplier, a.stride) for a in layers]
    return _cpu.Network(tuples, INPUT_SCALE, layers[0].circular)


@pytest.mark.parametrize("isa", [name for name, usable in _cpu.isas().items() if usable])
@pytest.mark.parametrize("count", [1, 7, 8, 33])
def test_the_core_equals_numpy(layers, isa, count, monkeypatch):
    monkeypatch.setenv("BINDESC_ISA", isa)
    patches = varied(count)
    expected = activations(layers, patches)
    for threads in (1, 2, 5):
        assert (core(layers).activations(patches, threads) == expected).all()
        assert (core(layers).describe(patches, threads) == pack_bits(expected >= 0)).all()


@pytest.mark.parametrize("isa", [name for name, usable in _cpu.isas().items() if usable])
@pytest.mark.parametrize("weight", [64, 65, 127])
def test_pairs_of_products_beyond_16_bits(layers, weight, isa, monkeypatch):
    """AVX2 adds two products in 16 bits, where 255 * 65 + 255 * 65 does not fit."""
    monkeypatch.setenv("BINDESC_ISA", isa)
    sign = np.random.default_rng(0).choice([-1, 1], layers[0].weights.shape)
    first = replace(layers[0], weights=np.int8(weight * sign))
    extreme = [first, *(replace(a, weights=np.full_like(a.weights, weight)) for a in layers[1:])]
    patches = varied(9)
    assert (core(extreme).activations(patches, 1) == activations(extreme, patches)).all()


@pytest.mark.parametrize("isa", [name for name, usable in _cpu.isas().items() if usable])
@pytest.mark.parametrize("weight", [15, 16, 17])
def test_sums_of_eight_products_beyond_16_bits(layers, weight, isa, monkeypatch):
    """AVX2 adds up to eight products in 16 bits, where eight of 255 * 17 do not fit."""
    monkeypatch.setenv("BINDESC_ISA", isa)
    for sign in (1, -1):
        extreme = [replace(a, weights=np.full_like(a.weights, sign * weight)) for a in layers]
        bright = np.full_like(layers[0].bias, 2**20)  # all activations are 255 after it
        extreme[0] = replace(layers[0], bias=bright)
        patches = varied(9)
        assert (core(extreme).activations(patches, 1) == activations(extreme, patches)).all()


def test_quantised_sums_of_eight_products_fit_16_bits(layers):
    for layer in layers[1:]:
        outputs = len(layer.weights)
        runs = layer.weights.reshape(outputs, -1, 4, 2, 2).astype(int)  # run, four, pair, weight
        positive, negative = runs.clip(min=0).sum((2, 4)), runs.clip(max=0).sum((2, 4))
        assert 80 < max(positive.max(), -negative.min()) <= 128
    rows = layers[0].weights.reshape(len(layers[0].weights), 3, 3).astype(int)
    first = rows[:, :, :2]
    assert 100 < max(first.clip(min=0).sum(2).max(), -first.clip(max=0).sum(2).min()) <= 128


def test_rounding_weights_together_changes_sums_less():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(2000, 1))
    inputs = (common + rng.normal(0, 0.5, (2000, 48))).clip(min=0)[:, None]
    weights = rng.normal(size=(16, 1, 48))
    whole, unit = round_weights(weights, np.zeros(16), inputs)
    nearest = np.rint(weights / unit[:, None, None])
    error = [
        np.square(inputs[:, 0] @ (w * unit[:, None, None] - weights)[:, 0].T).mean()
        for w in (whole, nearest)
    ]
    assert error[0] < 0.5 * error[1]
    assert np.abs(whole - nearest).max() > 0


def test_channels_that_are_compared_get_one_unit():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 1, 32)) * np.arange(1, 17)[:, None, None]
    inputs = rng.random((100, 1, 32))
    _, unit = round_weights(weights, np.zeros(16), inputs, one_unit=True)
    assert (unit == unit[0]).all()
    assert np.ptp(round_weights(weights, np.zeros(16), inputs)[1]) > 0


def test_torch_equals_numpy(layers):
    patches = varied(33)
    found = IntegerNet(layers)(torch.from_numpy(patches))
    assert (found.numpy() == activations(layers, patches)).all()


def turning(channels=(16, 24, 40), seed=0):
    """An orientation network with statistics and directions of its own."""
    torch.manual_seed(seed)
    network = OrientationNet(channels).train()
    torch.nn.init.normal_(network.scores.weight, std=0.1)
    for _ in range(3):
        network(torch.from_numpy(varied(64)).float()[:, None])
    return network.eval()


@pytest.mark.parametrize("isa", [name for name, usable in _cpu.isas().items() if usable])
def test_an_orientation_network_is_the_same_everywhere(isa, monkeypatch):
    monkeypatch.setenv("BINDESC_ISA", isa)
    patches = halve(varied(40))
    layers = quantise(turning(), patches, one_unit=True)
    expected = activations(layers, patches)
    assert (core(layers).activations(patches, 2) == expected).all()
    assert (IntegerNet(layers)(torch.from_numpy(patches)).numpy() == expected).all()


def test_frames_in_integers_are_those_of_the_network():
    patches = varied(300)[5:]
    network = turning()
    with torch.no_grad():
        exact = network(torch.from_numpy(patches).float()[:, None]).numpy()
    found = activations(quantise(network, halve(patches), one_unit=True), halve(patches))
    assert not found[:, 4:].any()
    x, y = exact[:, :2].T
    difference = np.degrees(np.arctan2(found[:, 1], found[:, 0]) - np.arctan2(y, x))
    assert np.median(np.abs((difference + 180) % 360 - 180)) < 2
    share, whole = (
        np.stack([v[:, 2], v[:, 3]]) / np.linalg.norm(v, axis=1) for v in (exact, found[:, :4])
    )
    assert np.linalg.norm(share, axis=0).mean() > 0.05
    assert np.median(np.linalg.norm(share - whole, axis=0)) < 0.02


def test_no_patch_gives_no_code(layers):
    codes = core(layers).describe(varied(1)[:0], 2)
    assert codes.shape == (0, len(layers[-1].bias) // 8)


def test_most_bits_are_those_of_the_network():
    network = trained(SHAPES[1])
    patches = varied(300)[5:]  # without the extremes
    with torch.no_grad():
        floats = network(torch.from_numpy(patches).float()[:, None]).numpy() >= 0
    integers = activations(quantise(network, varied(256, 2)[5:]), patches) >= 0
    assert (floats != integers).mean() < 0.02


def test_sums_are_exact_in_float32(layers):
    for layer in layers:
        reach = 255 * np.abs(layer.weights.astype(np.int64)).sum((1, 2, 3)) + np.abs(layer.bias)
        assert reach.max() < EXACT


def test_large_weights_are_made_smaller_to_stay_exact():
    weights = np.ones((16, 4, 4, 256))
    windows = np.random.default_rng(0).random((50, 4, 4, 256))
    layer = quantise_layer(weights, np.full(16, 3.0), 1, 0.01, None, 0, windows)
    assert 255 * np.abs(layer.weights.astype(np.int64)).sum((1, 2, 3)).max() < EXACT
    assert layer.weights.max() > 10


def test_patches_are_normalised():
    patches = varied(20)[5:]
    values = (normalise(patches).astype(float) - 128) / INPUT_SCALE
    assert np.abs(values.mean((1, 2))).max() < 0.02
    assert np.abs(values.std((1, 2)) - 1).max() < 0.05
    assert (normalise(np.full((1, 32, 32), 77, np.uint8)) == 128).all()


def test_layers_survive_a_file(layers):
    same = from_tensors(to_tensors(layers))
    assert len(same) == len(layers)
    patches = varied(4)
    assert (activations(same, patches) == activations(layers, patches)).all()


def test_a_missing_tensor_is_named(layers):
    tensors = to_tensors(layers)
    del tensors["int8.1.bias"]
    with pytest.raises(ValueError, match=r"int8\.1\.bias"):
        from_tensors(tensors)


def test_a_model_file_runs_in_integers(tmp_path):
    network = trained(SHAPES[0])
    path = tmp_path / "m.safetensors"
    manifest = save_model(path, network, calibration=calibration(varied(64)))
    assert len(manifest.golden["patches"]) == 64
    runtime = Runtime(path)
    assert runtime.verify()
    patches = varied(40)
    stored = load_model(path)[0]
    expected = pack_bits(activations(quantise(stored, varied(64)), patches) >= 0)
    assert (runtime.describe(patches) == expected).all()
    # Another device would take torch; "cpu:0" stands for it here.
    assert (Runtime(path, "cpu:0").describe(patches) == expected).all()


def test_a_model_file_holds_an_orientation(tmp_path):
    network = trained(replace(SHAPES[0], log_polar=True, orientation=(16, 16)))
    network.orientation = turning((16, 16))
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="calibration"):
        save_model(path, network)
    save_model(path, network, calibration=calibration(varied(64)))
    cpu, other = Runtime(path), Runtime(path, "cpu:0")
    assert cpu.verify()
    assert other.verify()
    _, tensors = read_model(path)
    cpu._adapt = None
    assert not cpu.verify()  # the golden codes are those of adapted patches
    assert any(name.startswith("orientation.int8.") for name in tensors)
    stored = load_model(path)[0]
    assert torch.equal(
        stored.orientation.layers[0].weight.half(), network.orientation.layers[0].weight.half()
    )


def test_describing_in_integers_needs_no_torch(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, trained(SHAPES[0]), calibration=calibration(varied(64)))
    program = (
        "import sys, numpy, bindesc\n"
        f"bindesc.create(model={str(path)!r}).detectAndCompute("
        "numpy.random.default_rng(0).integers(0, 256, (200, 200), numpy.uint8), None)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def changed(layers, position, **values):
    parts = [dict(vars(layer)) for layer in layers]
    parts[position] |= values
    return [(p["weights"], p["bias"], p["multiplier"], p["stride"]) for p in parts]


@pytest.mark.parametrize(
    ("position", "values", "message"),
    [
        (1, {"weights": np.zeros((16, 3, 3, 8), np.int8)}, r"layers\[1\].*16 inputs"),
        (1, {"weights": np.zeros((16, 5, 5, 16), np.int8)}, r"layers\[1\].*3x3"),
        (1, {"stride": 3}, r"layers\[1\].*stride"),
        (0, {"bias": np.zeros(8, np.int32)}, r"layers\[0\].*one bias"),
        (0, {"multiplier": None}, r"layers\[0\].*multipliers"),
        (2, {"multiplier": np.ones(64, np.float32)}, r"layers\[2\].*multipliers"),
        (0, {"multiplier": np.full(16, 128, np.float32)}, r"layers\[0\].*from 0 to 128"),
        (0, {"multiplier": np.full(16, np.nan, np.float32)}, r"layers\[0\].*from 0 to 128"),
        (2, {"weights": np.zeros((64, 3, 3, 16), np.int8)}, r"layers\[2\].*8x8"),
    ],
)
def test_layers_that_do_not_fit_are_refused(position, values, message):
    fitting = quantise(trained(SHAPES[0]), varied(16))
    with pytest.raises(ValueError, match=message):
        _cpu.Network(changed(fitting, position, **values), INPUT_SCALE)


def test_wrong_types_are_refused():
    network = core(quantise(trained(SHAPES[0]), varied(16)))
    with pytest.raises(TypeError):
        network.describe(np.zeros((2, 32, 32)), 1)
    with pytest.raises(ValueError, match=r"\(N, 32, 32\)"):
        network.describe(np.zeros((2, 31, 32), np.uint8), 1)
    with pytest.raises(ValueError, match=r"\(N, 32, 32\)"):
        network.activations(np.zeros((2, 16, 16), np.uint8), 1)
    with pytest.raises(ValueError, match="threads"):
        network.describe(np.zeros((2, 32, 32), np.uint8), 0)
