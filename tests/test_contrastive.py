import math
import os
import shutil
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pictures import textured, write_cifar10

import bindesc
from bindesc.cli import main
from bindesc.models.compact_retrieval import CompactRetrievalConfig, CompactRetrievalNet
from bindesc.runtime import Runtime
from bindesc.training.contrastive import (
    ContrastiveConfig,
    JointNetwork,
    draw_batch,
    set_thresholds,
    train,
)
from bindesc.training.image_views import random_colours, random_views
from bindesc.training.losses import normalised_cross_entropy
from bindesc.training.run import CHECKPOINT, read_log, warm_cosine
from bindesc.weights import WeightsError, load_model

SMALL = CompactRetrievalConfig(channels=(8, 8, 8), strides=(2, 2, 2))
CONFIG = ContrastiveConfig(model=SMALL, epochs=2, batch=8, warmup=2)
FILES = ["images-16.safetensors", "images-32.safetensors", "images-64.safetensors"]


def images(count, seed=0):
    """Blurred noise: neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return noise.repeat(4, 1).repeat(4, 2)


def to_tensor(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2).float()


# The network.


def test_the_plain_network_computes_the_same():
    torch.manual_seed(0)
    network = CompactRetrievalNet(SMALL)
    network(to_tensor(images(64)))  # sets the statistics of the normalisations
    network.eval()
    data = to_tensor(images(5, 1))
    plain = network.for_inference()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules())
    with torch.no_grad():
        assert network(data).shape == (5, 64)
        assert torch.allclose(network(data), plain(data), atol=1e-5)


def test_all_lengths_share_one_trunk():
    model = JointNetwork(CONFIG)
    assert [network.config.bits for network in model.networks] == [16, 32, 64]
    assert len({id(network.trunk) for network in model.networks}) == 1
    model.eval()
    data = to_tensor(images(3))
    with torch.no_grad():
        for out, network in zip(model(data), model.networks, strict=True):
            assert torch.equal(out, network(data))


# Views.


def test_views_are_images_and_depend_on_the_generator_alone():
    data = to_tensor(images(40))
    first, again, other = (random_views(np.random.default_rng(s), data) for s in (0, 0, 1))
    assert first.shape == data.shape and first.min() >= 0 and first.max() <= 255
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(first, data)


def test_a_ramp_shows_the_cut_out():
    """Red is x and green is y, in pixels."""
    y, x = np.mgrid[:32, :32].astype(np.float32)
    data = torch.from_numpy(np.stack([x, y, 0 * x])).expand(300, -1, -1, -1).contiguous()
    plain = np.tile(np.eye(3, dtype=np.float32), (300, 1, 1)), np.ones(300, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bindesc.training.image_views.random_colours", lambda *_: plain)
        views = random_views(np.random.default_rng(0), data).numpy()
    inner = views[:, :, 1:-1, 1:-1]
    step_x = np.diff(inner[:, 0], axis=2).mean((1, 2))
    step_y = np.diff(inner[:, 1], axis=1).mean((1, 2))
    assert 0.4 < (step_x < 0).mean() < 0.6  # mirrored
    assert (step_y > 0).all()
    area = np.abs(step_x) * step_y
    assert 0.17 < area.min() < 0.3 and 0.9 < area.max() <= 1.01
    aspect = np.abs(step_x) / step_y
    assert 0.7 < aspect.min() < 0.85 and 1.2 < aspect.max() < 1.4


def test_colours_keep_grey_grey():
    matrix, contrast = random_colours(np.random.default_rng(0), 500)
    grey = matrix @ np.ones(3, np.float32)
    assert np.abs(grey - grey[:, :1]).max() < 1e-2
    assert 0.59 < grey.min() < 0.65 and 1.35 < grey.max() < 1.42
    assert contrast.min() >= 0.6 and contrast.max() <= 1.4
    kept = np.abs(matrix - np.eye(3)).max((1, 2)) < 1e-5
    flat = np.abs(matrix - matrix[:, :1]).max((1, 2)) < 1e-2
    assert 0.1 < kept.mean() < 0.25 and 0.15 < flat.mean() < 0.25


# The loss.


def test_the_loss_is_that_of_the_definition():
    first, second = torch.nn.functional.normalize(torch.randn(2, 3, 4), dim=2)
    views = torch.cat([first, second]).numpy()
    total = 0.0
    for i in range(6):
        similar = np.exp(views @ views[i] / 0.5)
        total -= math.log(similar[(i + 3) % 6] / (similar.sum() - similar[i]))
    assert normalised_cross_entropy(first, second, 0.5).item() == pytest.approx(total / 6, rel=1e-5)


def test_the_learning_rate_rises_and_falls():
    rates = [warm_cosine(step, 20, 1.0, 4) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1 and rates[-1] < 0.01
    assert sorted(rates[4:], reverse=True) == rates[4:]


# Training.


def test_a_batch_is_two_views_of_images_of_which_an_epoch_shows_each_once():
    data = np.zeros((24, 32, 32, 3), np.uint8)
    data += np.arange(1, 25, dtype=np.uint8)[:, None, None, None] * 10
    plain = replace(CONFIG, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bindesc.training.contrastive.random_views", lambda rng, batch: batch)
        batches = [draw_batch(data, plain, step) for step in range(6)]
    for batch in batches:
        assert batch.shape == (16, 3, 32, 32) and torch.equal(batch[:8], batch[8:])
    numbers = [batch[:8, 0, 0, 0] for batch in batches]
    for epoch in (numbers[:3], numbers[3:]):
        assert sorted(torch.cat(epoch).tolist()) == [10.0 * k for k in range(1, 25)]
    assert not torch.equal(torch.cat(numbers[:3]), torch.cat(numbers[3:]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "run"
    train(images(64), output, CONFIG, command="bindesc train images")
    return output


def test_a_run_writes_a_model_of_each_length(run):
    trunks = []
    for name, bits in zip(FILES, (16, 32, 64), strict=True):
        network, manifest = load_model(run / name)
        assert (manifest.name, manifest.architecture) == (f"images-{bits}", "compact-retrieval")
        trunks.append(network.state_dict()["trunk.0.weight"])
        assert Runtime(run / name).verify()
        codes = bindesc.encode_images(images(64), bits, run / name)
        assert codes.shape == (64, bits // 8)
        # The thresholds were set on these images.
        set_bits = np.unpackbits(codes, axis=1).mean(0)
        assert set_bits.min() > 0.2 and set_bits.max() < 0.8
    assert torch.equal(trunks[0], trunks[1]) and torch.equal(trunks[0], trunks[2])
    assert read_log(run)[-1]["step"] == 16


def test_the_loss_falls(tmp_path):
    rates = replace(CONFIG, epochs=12, learning_rate=1e-2)
    losses = [
        train(images(64), tmp_path / str(n), replace(rates, epochs=n))["loss"] for n in (1, 12)
    ]
    assert losses[1] < losses[0] - 0.1


def test_a_stopped_run_goes_on_to_the_same_models(run, tmp_path, monkeypatch):
    def terminate_at_5(data, config, step):
        if step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw_batch(data, config, step)

    with monkeypatch.context() as patch:
        patch.setattr("bindesc.training.contrastive.draw_batch", terminate_at_5)
        train(images(64), tmp_path, CONFIG)
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 6
    train(images(64), tmp_path, CONFIG, resume=True, command="bindesc train images")
    for name in FILES:
        assert load_model(tmp_path / name)[1].sha256 == load_model(run / name)[1].sha256
    # A finished one changes nothing.
    train(images(64), tmp_path, CONFIG, resume=True, command="bindesc train images")
    assert load_model(tmp_path / name)[1].sha256 == load_model(run / name)[1].sha256


def test_a_run_starts_from_models(run, tmp_path):
    still = replace(CONFIG, epochs=1, learning_rate=0.0, weight_decay=0.0)
    train(images(64), tmp_path / "a", still, initial=str(run / "images"))
    for name in FILES:
        old, new = (load_model(folder / name)[0] for folder in (run, tmp_path / "a"))
        assert torch.equal(old.trunk[0].weight, new.trunk[0].weight)
        assert torch.equal(old.head[0].weight, new.head[0].weight)
    with pytest.raises(WeightsError, match=r"none-16\.safetensors: no such"):
        train(images(64), tmp_path / "b", CONFIG, initial=str(tmp_path / "none"))


def test_a_finished_run_without_its_log_has_nothing_to_say(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "log.jsonl").unlink()
    assert train(images(64), tmp_path / "run", CONFIG, resume=True) == {}


def test_errors(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="images: 7 are fewer than the batch of 8"):
        train(images(7), tmp_path / "a", CONFIG)
    with pytest.raises(FileExistsError, match="--resume"):
        train(images(64), run, CONFIG)
    with pytest.raises(ValueError, match="another configuration"):
        train(images(64), run, replace(CONFIG, seed=1), resume=True)
    monkeypatch.setattr(
        "bindesc.training.contrastive.normalised_cross_entropy",
        lambda first, *_: first.sum() * float("nan"),
    )
    with pytest.raises(FloatingPointError, match="the loss is nan at step 0"):
        train(images(64), tmp_path / "b", CONFIG)


@pytest.mark.parametrize("count", [1, 2, 511, 512, 513, 514, 1025, 4097])
def test_thresholds_are_the_means_for_any_number_of_images(count):
    model = Mean()
    data = np.zeros((count, 32, 32, 3), np.uint8)
    data[count // 2 :] = 200
    set_thresholds(model, data)
    assert max(model.sizes) <= 512
    assert count == 1 or min(model.sizes) > 1
    used = data[:: max(count // 4096, 1)]
    assert sum(model.sizes) == len(used)
    assert model.norm.running_mean[0].item() == pytest.approx(used.mean(), abs=0.2)


class Mean(torch.nn.Module):
    """Has a normalisation of whole images, and remembers how many came at a time."""

    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3)
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(len(batch))
        return self.norm(batch)


# The command.


def test_the_command_reads_photos_and_cifar10(tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(4):
        cv2.imwrite(str(photos / f"{seed}.png"), textured(60, 80, seed=seed))
    (photos / "bad.jpg").write_bytes(b"no image")
    options = ["--epochs", "1", "--batch", "4"]
    command = ["train", "images", "--data", str(photos), "--out", str(tmp_path / "a"), *options]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "loss" in out and "bad.jpg" in err
    assert sorted(path.name for path in (tmp_path / "a").glob("*.safetensors")) == FILES
    assert main([*command, "--resume"]) == 0

    cifar = tmp_path / "cifar-10-batches-bin"
    cifar.mkdir()
    write_cifar10(cifar, [images(2, k) for k in range(1, 6)])
    command[3:6] = [str(tmp_path), "--out", str(tmp_path / "b")]
    assert main([*command, "--init", "images"]) == 0
    command[3:6] = [str(cifar.parent / "none"), "--out", str(tmp_path / "c")]
    assert main(command) == 2
