import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from bindesc.models.compact import CompactConfig, CompactNet, multiply_adds
from bindesc.runtime import Runtime
from bindesc.weights import (
    WeightsError,
    golden_patches,
    list_models,
    load_model,
    load_weights,
    model_path,
    save_model,
)

SMALL = CompactConfig(channels=(8, 8), strides=(2, 2), bits=64)


def untrained(config=SMALL):
    torch.manual_seed(0)
    return CompactNet(config)


@pytest.mark.parametrize("name", list_models())
def test_shipped_models_give_their_golden_bytes(name):
    runtime = Runtime(name)
    assert len(runtime.manifest.golden["patches"]) >= 8
    assert runtime.manifest.name == name
    assert runtime.manifest.command.startswith("bindesc train")
    assert runtime.verify()
    assert model_path(name).stat().st_size < (2.5e6 if name == "compact" else 5e6)


def test_there_is_a_default_model():
    assert "compact" in list_models()


def test_golden_patches_are_the_same_everywhere():
    patches = golden_patches()
    assert patches.shape == (64, 32, 32)
    assert patches.std() > 30
    assert int(patches.astype(np.int64).sum()) == GOLDEN_SUM


GOLDEN_SUM = 7997843


def test_a_saved_model_comes_back(tmp_path):
    network = untrained()
    manifest = save_model(tmp_path / "m.safetensors", network, command="bindesc train")
    loaded, read = load_model(tmp_path / "m.safetensors")
    assert read == manifest
    assert loaded.config == SMALL
    for key, value in network.state_dict().items():
        assert torch.allclose(loaded.state_dict()[key].float(), value.float(), atol=1e-3)
    assert Runtime(tmp_path / "m.safetensors").verify()


def test_every_flipped_byte_is_found(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, untrained())
    data = bytearray(path.read_bytes())
    positions = np.random.default_rng(0).integers(0, len(data), 150).tolist()
    for position in [0, 7, 8, 9, len(data) - 1, *positions]:
        changed = data.copy()
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        with pytest.raises(WeightsError, match=r"m\.safetensors"):
            load_model(path)


@pytest.mark.parametrize("length", [0, 5, 100, 5000])
def test_a_truncated_file_is_refused(tmp_path, length):
    path = tmp_path / "m.safetensors"
    save_model(path, untrained())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(WeightsError, match="damaged"):
        load_model(path)


def test_a_missing_model_names_what_there_is(tmp_path):
    with pytest.raises(WeightsError, match="compact"):
        load_model("bigger")
    with pytest.raises(WeightsError, match="no such"):
        load_model(tmp_path / "m.safetensors")


def test_weights_of_another_configuration_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model(path, untrained())
    other = CompactNet(CompactConfig(channels=(8, 16), strides=(2, 2), bits=64))
    with pytest.raises(WeightsError, match="wanted"):
        load_weights(other, path)
    same = CompactNet(SMALL)
    load_weights(same, path)
    assert torch.equal(same.layers[0].weight, load_model(path)[0].layers[0].weight)


def test_saving_replaces_a_file_only_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    save_model(path, untrained())
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(path, untrained(), command="other")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e6])  # float16 ends at 65504
def test_weights_that_are_not_finite_are_not_written(tmp_path, value):
    network = untrained()
    network.layers[0].weight.data[0, 0, 0, 0] = value
    with pytest.raises(FloatingPointError, match="not finite in float16"):
        save_model(tmp_path / "m.safetensors", network)
    assert list(tmp_path.iterdir()) == []


def test_folding_changes_nothing_but_rounding():
    network = untrained().train()
    images = torch.from_numpy(golden_patches()[:, None]).float()
    network(images)
    network.eval()
    with torch.no_grad():
        expected = network(images)
        folded = network.for_inference()(images)
    assert torch.allclose(folded, expected, atol=1e-4)


def test_multiply_adds_by_hand():
    code = 16 * 16 * 9 * 8 + 8 * 8 * 9 * 8 * 8 + 8 * 8 * 8 * 64
    assert multiply_adds(SMALL) == code
    orientation = 16 * 16 * 9 * 4 + 8 * 8 * 9 * 4 * 8 + 8 * 8 * 8 * 4
    turning = replace(SMALL, log_polar=True, orientation=(4, 8))
    assert multiply_adds(turning) == code + orientation


def test_the_same_bytes_for_any_batch_and_thread_count(tmp_path):
    runtime = Runtime("compact")
    patches = np.random.default_rng(1).integers(0, 256, (150, 32, 32), np.uint8)
    expected = runtime.describe(patches)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            for batch in (1, 7, 64, 65, 150):
                parts = [runtime.describe(patches[i : i + batch]) for i in range(0, 150, batch)]
                assert (np.concatenate(parts) == expected).all()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "patches",
    [np.zeros((2, 32, 31), np.uint8), np.zeros((2, 32, 32)), np.zeros((32, 32), np.uint8)],
)
def test_bad_patches_are_refused(patches):
    with pytest.raises(ValueError, match="patches:"):
        Runtime("compact").describe(patches)


def test_flat_patches_are_described():
    patches = np.stack([np.full((32, 32), v, np.uint8) for v in (0, 128, 255)])
    codes = Runtime("compact").describe(patches)
    assert (codes == codes[0]).all()


def test_a_copied_model_file_works_by_path(tmp_path):
    path = shutil.copy(model_path("compact"), tmp_path / "mine.safetensors")
    patches = golden_patches()
    assert (Runtime(path).describe(patches) == Runtime("compact").describe(patches)).all()
