import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from pictures import write_cifar10

import bindesc
from bindesc.cli import main
from bindesc.models.bingan import BinGanConfig, PatchDiscriminator
from bindesc.models.retrieval import RetrievalConfig, RetrievalDiscriminator
from bindesc.models.weight_norm import WeightNormConv2d, initialise_from_data
from bindesc.retrieval import DEFAULT_BITS, LENGTHS, encode_images, open_images_model
from bindesc.runtime import Runtime
from bindesc.training import gan_step
from bindesc.training.gan import WEIGHTS, train
from bindesc.training.gan_step import Gan, GanConfig
from bindesc.weights import WeightsError, load_model, save_model

SMALL = RetrievalConfig(narrow=8, wide=8, bits=16)
CONFIG = GanConfig(model=SMALL, generator_width=16, batch=8, lambda_bre=0.001)


def images(count, seed=0):
    """Blurred noise: neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
    return noise.repeat(4, 1).repeat(4, 2)


def initialised(config=SMALL):
    torch.manual_seed(0)
    network = RetrievalDiscriminator(config).eval()
    data = torch.from_numpy(images(64)).permute(0, 3, 1, 2) / 127.5 - 1
    initialise_from_data(network, lambda: network.layers(data))
    return network


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(path, initialised())
    return path


def same(a, b, prefix):
    return all(torch.equal(a[k], b[k]) for k in a if k.startswith(prefix))


# The network.


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_published_network(bits):
    network = RetrievalDiscriminator(RetrievalConfig(bits=bits)).eval()
    layers = [m for m in network.modules() if isinstance(m, WeightNormConv2d)]
    assert [c.out_channels for c in layers] == [96] * 3 + [192] * 6 + [bits, 2]
    assert [c.stride[0] for c in layers] == [1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1]
    assert [c.kernel_size[0] for c in layers] == [3] * 7 + [1] * 4
    with torch.no_grad():
        out = network.layers(torch.zeros(2, 3, 32, 32))
    assert out.h.shape == (2, 192)
    assert out.f.shape == out.penultimate.shape == (2, bits)
    assert out.logits.shape == (2, 2)


def test_only_the_gains_of_the_linear_layers_are_trained():
    named = RetrievalDiscriminator(SMALL).named_parameters()
    gains = {name for name, _ in named if "gain" in name}
    assert gains == {"head.code.gain", "head.classify.gain"}


def test_f_takes_both_signs_and_starts_at_a_deviation_of_a_tenth():
    with torch.no_grad():
        f = initialised()(torch.from_numpy(images(64)).permute(0, 3, 1, 2).float())
    assert f.mean(0).abs().max() < 1e-4
    assert f.std(0, correction=0).sub(0.1).abs().max() < 1e-3


def test_the_plain_network_computes_the_same():
    network = initialised()
    data = torch.from_numpy(images(5, 1)).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        assert torch.allclose(network(data), network.for_inference()(data), atol=1e-5)


# Model files and codes.


def test_a_model_file_verifies_itself(model):
    network, manifest = load_model(model)
    assert manifest.architecture == "bingan-retrieval"
    assert network.config == SMALL
    assert len(manifest.golden["patches"]) > 0
    assert Runtime(model).verify()


def test_codes_are_the_signs_of_f(model):
    data = images(7, 1)
    with torch.no_grad():
        f = load_model(model)[0](torch.from_numpy(data).permute(0, 3, 1, 2).float())
    clear = (f.abs() > 1e-4).all(1).numpy()
    expected = np.packbits(f.numpy() >= 0, axis=1)
    assert clear.sum() > 3
    assert (bindesc.encode_images(data, bits=16, model=model)[clear] == expected[clear]).all()
    assert len(np.unique(expected, axis=0)) > 3


@pytest.mark.parametrize("bits", LENGTHS)
def test_the_shipped_models(bits):
    data = images(70, 2)
    codes = encode_images(data, bits)
    assert codes.shape == (70, bits // 8)
    assert (encode_images(data, model=f"images-{bits}") == codes).all()
    assert len(np.unique(codes, axis=0)) > 20
    assert (encode_images(data[:, :, ::-1], bits) != codes).mean() < 0.5  # mirrored: alike
    if bits == DEFAULT_BITS:
        assert (encode_images(data) == codes).all()


@pytest.mark.parametrize("name", ["model", "images-64"])
def test_codes_do_not_depend_on_batch_or_threads(name, request):
    path = request.getfixturevalue("model") if name == "model" else name
    data = images(70, 2)
    runtime = open_images_model(path)
    expected = encode_images(data, model=runtime)
    assert expected.shape == (70, runtime.descriptor_bytes)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert (encode_images(data, model=runtime) == expected).all()
            parts = [encode_images(data[i : i + 40], model=runtime) for i in (0, 40)]
            assert (np.concatenate(parts) == expected).all()
    finally:
        torch.set_num_threads(threads)
    assert encode_images(data[:0], model=runtime).shape == (0, runtime.descriptor_bytes)


def test_codes_depend_on_colour_order(model):
    data = images(20, 1)
    assert (encode_images(data, model=model) != encode_images(data[..., ::-1], model=model)).any()


def test_errors(model, tmp_path):
    with pytest.raises(WeightsError, match="bits: models of 16, 32, 64 bits come with bindesc"):
        encode_images(images(2), bits=128)
    for given in (model, Runtime(model)):
        with pytest.raises(WeightsError, match="bits: m has 16, got 64"):
            encode_images(images(2), bits=64, model=given)
    with pytest.raises(WeightsError, match="compact model for patches, wanted one for images"):
        encode_images(images(2), model="compact")
    for wrong in (images(2)[..., 0], images(2)[:, :16], images(2).astype(float), images(1)[0]):
        with pytest.raises(ValueError, match=r"expected \(N, 32, 32, 3\) uint8 RGB"):
            encode_images(wrong, model=model)
    with pytest.raises(WeightsError, match="whole images and not keypoints"):
        _ = Runtime(model).support


def test_a_patch_model_takes_colour_only_with_three_inputs(tmp_path):
    config = BinGanConfig(inputs=3, narrow=8, wide=8, bits=16, pooled=8)
    save_model(tmp_path / "rgb.safetensors", PatchDiscriminator(config))
    assert Runtime(tmp_path / "rgb.safetensors").describe(images(3)).shape == (3, 2)
    with pytest.raises(ValueError, match=r"expected \(N, 32, 32\) uint8"):
        Runtime("bingan-256").describe(images(3))


def test_the_import_loads_no_torch():
    program = "import sys; from bindesc import encode_images; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"


# Training.


def test_a_step_changes_the_discriminator_and_matches_f():
    trainer = Gan(CONFIG)
    trainer.initialise(images(64), discriminator=True)
    before = {k: v.clone() for k, v in trainer.discriminator.state_dict().items()}
    losses = trainer.discriminator_step(images(8)) | trainer.generator_step(images(8))
    assert set(losses) == {"D", "DMR", "ME", "MAC", "G"}
    assert np.isfinite(list(losses.values())).all()
    after = trainer.discriminator.state_dict()
    for name in ("trunk.1.weight", "top.0.weight", "head.code.gain", "head.classify.weight"):
        assert not torch.equal(before[name], after[name])


def test_training_resumes_and_starts_from_another_length(tmp_path):
    data = images(64)
    first = tmp_path / "first"
    train(data, first, CONFIG, steps=2)
    train(data, first, CONFIG, steps=3, resume=True)
    old = load_model(first / WEIGHTS)[0].state_dict()

    longer = replace(CONFIG, model=replace(SMALL, bits=32))
    train(data, tmp_path / "second", longer, steps=0, initial=str(first / WEIGHTS))
    network, _ = load_model(tmp_path / "second" / WEIGHTS)
    assert network.config.bits == 32
    assert same(old, network.state_dict(), "trunk")
    assert same(old, network.state_dict(), "top")
    # The new layer was set from data.
    with torch.no_grad():
        f = network(torch.from_numpy(data).permute(0, 3, 1, 2).float())
    assert 0.05 < f.std() < 0.2


def test_training_starts_from_no_other_network(tmp_path, model):
    wider = replace(CONFIG, model=replace(SMALL, wide=16, bits=32))
    with pytest.raises(WeightsError, match=r"has .*wide=8.*, wanted .*wide=16"):
        train(images(64), tmp_path / "a", wider, steps=0, initial=str(model))
    patches = GanConfig(model=BinGanConfig(narrow=8, wide=8, bits=16, pooled=8), batch=8)
    with pytest.raises(WeightsError, match="wanted BinGanConfig"):
        train(images(64)[..., 0], tmp_path / "b", patches, steps=0, initial=str(model))


def test_a_pca_code_is_for_patches(tmp_path):
    with pytest.raises(ValueError, match="code: only that of a model for patches"):
        train(images(64), tmp_path, CONFIG, steps=0, code="pca")


def test_the_command(tmp_path, capsys, monkeypatch, model):
    """From the batches on disk to a model that describes images."""
    monkeypatch.setattr(gan_step, "GanConfig", partial(GanConfig, generator_width=16))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    write_cifar10(folder, [images(6, k) for k in range(1, 6)])
    run = tmp_path / "run"
    options = ["--bits", "32", "--steps", "1", "--batch", "4", "--init", str(model)]
    command = ["train", "retrieval", "--data", str(tmp_path), "--out", str(run), *options]
    assert main(command) == 0
    assert str(run / WEIGHTS) in capsys.readouterr().out
    assert encode_images(images(3), bits=32, model=run / WEIGHTS).shape == (3, 4)

    command[3] = str(tmp_path / "none")
    assert main(command) == 2
    assert "no such folder" in capsys.readouterr().err
