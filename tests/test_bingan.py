from dataclasses import replace

import numpy as np
import pytest
import torch
from pictures import textured_gray
from torch import nn

from bindesc.models.bingan import (
    NOISE,
    BinGanConfig,
    Generator,
    PatchDiscriminator,
    SetContrast,
    ToImages,
    principal_components,
)
from bindesc.models.half_dropout import HalfDropout
from bindesc.models.weight_norm import (
    WeightNormConv2d,
    WeightNormConvTranspose2d,
    initialise_from_data,
)
from bindesc.runtime import Runtime
from bindesc.training.losses import (
    activation_correlation,
    discriminator_loss,
    distance_matching,
    feature_matching,
    marginal_entropy,
    signs,
    soft_sign,
)
from bindesc.weights import WeightsError, golden_patches, load_model, load_weights, save_model

SMALL = BinGanConfig(narrow=8, wide=8, bits=16, pooled=8)


def initialised(config=SMALL):
    torch.manual_seed(0)
    network = PatchDiscriminator(config)
    patches = torch.from_numpy(golden_patches()[:, None]).float()
    patches = patches.expand(-1, config.inputs, -1, -1)
    initialise_from_data(network, lambda: network.layers(patches / 127.5 - 1))
    return network.eval()


def textured_patches():
    """``(300, 32, 32)`` uint8."""
    photo = textured_gray(480, 640)
    return np.stack(
        [photo[y : y + 32, x : x + 32] for y in range(0, 440, 31) for x in range(0, 600, 30)]
    )


# Networks.


@pytest.mark.parametrize("inputs", [1, 3])
def test_the_published_discriminator(inputs):
    network = PatchDiscriminator(BinGanConfig(inputs=inputs)).eval()
    convolutions = [m for m in network.modules() if isinstance(m, WeightNormConv2d)]
    assert [c.out_channels for c in convolutions] == [96, 96, 96, 128, 128, 128, 128, 256, 128, 2]
    assert [c.stride[0] for c in convolutions] == [1, 1, 2, 1, 1, 2, 1, 1, 1, 1]
    assert [c.kernel_size[0] for c in convolutions] == [3] * 7 + [1] * 3
    with torch.no_grad():
        out = network.layers(torch.zeros(2, inputs, 32, 32))
    assert out.h.shape == (2, 4608)
    assert out.f.shape == (2, 256)
    assert out.penultimate.shape == (2, 128)
    assert out.logits.shape == (2, 2)


def test_only_the_last_gain_is_trained():
    trained = {name for name, _ in PatchDiscriminator(SMALL).named_parameters() if "gain" in name}
    assert trained == {"classify.gain"}


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_published_generator(outputs):
    generator = Generator(outputs)
    widths = [m.out_channels for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert widths == [256, 128, outputs]
    with torch.no_grad():
        images = generator(torch.rand(2, NOISE))
    assert images.shape == (2, outputs, 32, 32)
    assert images.abs().max() <= 1


@pytest.mark.parametrize("layer", [WeightNormConv2d, WeightNormConvTranspose2d])
def test_weights_are_normalised_per_output_channel(layer):
    torch.manual_seed(0)
    first = layer(3, 5, 3)
    second = layer(3, 5, 3)
    second.load_state_dict(first.state_dict())
    axis = 0 if layer is WeightNormConv2d else 1
    factor = torch.arange(1.0, 6.0).reshape(torch.eye(4, dtype=int)[axis].mul(4).add(1).tolist())
    with torch.no_grad():
        second.weight.mul_(factor)
        images = torch.randn(2, 3, 6, 6)
        assert torch.allclose(first(images), second(images), atol=1e-4)
        second.gain.mul_(2)
        assert torch.allclose(2 * first(images), second(images), atol=1e-4)


@pytest.mark.parametrize("layer", [WeightNormConv2d, WeightNormConvTranspose2d])
def test_initialisation_gives_every_channel_mean_0_and_the_wanted_deviation(layer):
    torch.manual_seed(0)
    network = nn.Sequential(layer(3, 5, 3), nn.ReLU(), layer(5, 4, 3, init_std=0.1))
    images = 3 + 2 * torch.randn(20, 3, 8, 8)
    initialise_from_data(network, lambda: network(images))
    with torch.no_grad():
        for output, deviation in ((network[:1](images), 1.0), (network(images), 0.1)):
            assert torch.allclose(output.mean((0, 2, 3)), torch.zeros(()), atol=1e-3)
            found = output.var((0, 2, 3), correction=0).sqrt()
            assert torch.allclose(found, torch.tensor(deviation), rtol=1e-2)


@pytest.mark.parametrize("inputs", [1, 3])
def test_inference_is_the_same_function(inputs):
    network = initialised(replace(SMALL, inputs=inputs))
    patches = torch.from_numpy(golden_patches()[:, None]).float()
    with torch.no_grad():
        expected = network(patches)
        images = (patches / 127.5 - 1).repeat(1, inputs, 1, 1)
        assert torch.allclose(network.layers(images).f, expected)
        plain = network.for_inference()
        assert torch.allclose(plain(patches), expected, atol=1e-5)
    assert not any(isinstance(m, (WeightNormConv2d, nn.Dropout)) for m in plain.modules())


def test_a_model_file_of_bingan_describes_patches(tmp_path):
    network = initialised(BinGanConfig(narrow=8, wide=8, bits=64, pooled=8, support=1.5))
    save_model(tmp_path / "m.safetensors", network, command="bindesc train bingan")
    runtime = Runtime(tmp_path / "m.safetensors")
    assert runtime.manifest.architecture == "bingan"
    assert runtime.support == 1.5
    assert runtime.descriptor_bytes == 8
    assert len(runtime.manifest.golden["patches"]) >= 8
    assert runtime.verify()
    codes = runtime.describe(golden_patches())
    assert len(np.unique(codes, axis=0)) > 32
    again = np.concatenate([runtime.describe(golden_patches()[i : i + 5]) for i in range(0, 64, 5)])
    assert (again == codes).all()


def test_principal_components_are_those_of_numpy():
    network = initialised()
    patches = torch.from_numpy(textured_patches()[:, None]).float()
    found = principal_components(network, patches)
    with torch.no_grad():
        h = network.trunk(ToImages(1)(SetContrast()(patches))).flatten(1).double().numpy()
        components = found(patches).double().numpy()
    centred = h - h.mean(0)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    bits = SMALL.bits
    expected = centred @ directions[:bits].T * np.sqrt(values[0] / values[:bits])
    # The same but for a rotation.
    gram = expected @ expected.T
    np.testing.assert_allclose(components @ components.T, gram, atol=0.05 * np.abs(gram).max())
    np.testing.assert_allclose(components.mean(0), 0, atol=1e-3 * values[0])
    again = principal_components(network, patches)
    assert torch.equal(again.components.weight, found.components.weight)


def test_a_pca_code_ignores_gain_and_offset_of_the_light():
    patches = textured_patches()
    network = principal_components(initialised(), torch.from_numpy(patches[:, None]).float())
    dim = torch.from_numpy(patches[:, None] * 0.6 + 20).float()
    with torch.no_grad():
        bits, dim_bits = (
            network(p) >= 0 for p in (torch.from_numpy(patches[:, None]).float(), dim)
        )
        flat = network(torch.full((1, 1, 32, 32), 7.0))
    assert (bits != dim_bits).float().mean() < 0.06
    assert torch.isfinite(flat).all()


def test_inference_of_a_pca_code_is_the_same_function():
    patches = torch.from_numpy(textured_patches()[:, None]).float()
    network = principal_components(initialised(), patches)
    with torch.no_grad():
        torch.testing.assert_close(network.for_inference()(patches), network(patches))


def test_too_few_patches_for_a_pca_code_are_refused():
    network = initialised()
    with pytest.raises(ValueError, match="16 bits needs as many patches, got 5"):
        principal_components(network, torch.zeros(5, 1, 32, 32))


def test_a_model_of_another_architecture_is_refused(tmp_path):
    save_model(tmp_path / "m.safetensors", initialised())
    state = load_model(tmp_path / "m.safetensors")[0].state_dict()
    with pytest.raises(WeightsError, match="wanted bingan"):
        load_weights(PatchDiscriminator(SMALL), "compact")
    same = PatchDiscriminator(SMALL)
    load_weights(same, tmp_path / "m.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in same.state_dict().items())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dropout_keeps_half(memory_format):
    torch.manual_seed(0)
    images = torch.rand(20, 7, 9, 11).add(1).contiguous(memory_format=memory_format)
    images.requires_grad_()
    dropout = HalfDropout()
    out = dropout(images)
    kept = out != 0
    assert torch.equal(out[kept], 2 * images[kept])
    for axes in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):
        assert (kept.float().mean(axes) - 0.5).abs().max() < 0.1
    assert abs(kept.float().mean() - 0.5) < 0.02
    assert not torch.equal(kept, dropout(images) != 0)
    out.sum().backward()
    assert torch.equal(images.grad, 2.0 * kept)
    assert dropout.eval()(images) is images


# Losses, against loops written from the formulas.


def batch(n=5, k=6, m=9):
    """Activations away from zero, where the soft sign bends too fast for differences."""
    rng = np.random.default_rng(0)
    f, h = (rng.choice([-1, 1], (n, x)) * rng.uniform(0.1, 2, (n, x)) for x in (k, m))
    h[0, 0] = 0  # counts as +1
    return f, h


def soft(a):
    return a / (abs(a) + 0.001)


def bit(a):
    return 1 if a >= 0 else -1


def loop_dot(a, b, function):
    return sum(function(x) * function(y) for x, y in zip(a, b, strict=True))


def loop_dmr(f, h):
    total, n = 0.0, len(f)
    for k in range(n):
        for j in range(n):
            if k != j:
                long = loop_dot(h[k], h[j], bit) / h.shape[1]
                total += abs(long - loop_dot(f[k], f[j], soft) / f.shape[1])
    return total / (n * (n - 1))


def loop_me(f):
    return sum((sum(soft(x) for x in column) / len(f)) ** 2 for column in f.T) / f.shape[1]


def loop_mac(f, h, beta):
    total, n = 0.0, len(f)
    for k in range(n):
        for j in range(n):
            if k != j:
                alpha = np.exp(-abs(loop_dot(h[k], h[j], bit)) / (h.shape[1] * beta))
                total += alpha * abs(loop_dot(f[k], f[j], soft))
    return total / (n * (n - 1) * f.shape[1])


def test_the_regularisers_are_their_formulas():
    f, h = batch()
    tensors = torch.from_numpy(f), torch.from_numpy(h)
    assert np.isclose(distance_matching(*tensors).item(), loop_dmr(f, h))
    assert np.isclose(marginal_entropy(tensors[0]).item(), loop_me(f))
    assert np.isclose(activation_correlation(*tensors).item(), loop_mac(f, h, 2))
    assert np.isclose(activation_correlation(*tensors, beta=0.5).item(), loop_mac(f, h, 0.5))


def test_distance_matching_is_zero_for_equal_codes():
    f, _ = batch()
    f = torch.from_numpy(100 * f)
    assert distance_matching(f, f).item() < 1e-3


def test_the_discriminator_loss_is_its_formula():
    real, fake = np.random.default_rng(0).normal(0, 3, (2, 7, 2))
    expected = 0.0
    for row in real:
        score = np.log(np.exp(row).sum())
        expected += (-0.5 * score + 0.5 * np.log(1 + np.exp(score))) / 7
    for row in fake:
        expected += 0.5 * np.log(1 + np.exp(row).sum()) / 7
    loss = discriminator_loss(torch.from_numpy(real), torch.from_numpy(fake))
    assert np.isclose(loss.item(), expected)


def test_the_discriminator_loss_stays_finite_for_large_logits():
    large = torch.full((2, 2), 1e4)
    assert discriminator_loss(large, -large).item() == pytest.approx(0, abs=1e-6)
    assert discriminator_loss(-large, large).item() == pytest.approx(1e4, rel=1e-3)


def test_feature_matching_is_its_formula():
    real, fake = np.random.default_rng(0).normal(size=(2, 7, 4))
    expected = sum((real[:, i].mean() - fake[:, i].mean()) ** 2 for i in range(4)) / 4
    loss = feature_matching(torch.from_numpy(real), torch.from_numpy(fake))
    assert np.isclose(loss.item(), expected)


def test_gradients_of_the_losses():
    f, h = batch()
    f = torch.from_numpy(f).requires_grad_()
    h = torch.from_numpy(h)
    assert torch.autograd.gradcheck(lambda a: distance_matching(a, h), f)
    assert torch.autograd.gradcheck(marginal_entropy, f)
    assert torch.autograd.gradcheck(lambda a: activation_correlation(a, h), f)
    other = h[:, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(discriminator_loss, (f, other))
    assert torch.autograd.gradcheck(feature_matching, (f, other))


@pytest.mark.parametrize("loss", [distance_matching, activation_correlation])
def test_the_long_codes_get_no_gradient(loss):
    f, h = (torch.from_numpy(a).requires_grad_() for a in batch())
    loss(f, h).backward()
    assert h.grad is None
    assert f.grad.abs().sum() > 0


def test_signs_agree_with_the_bits():
    values = torch.tensor([-1.0, -0.0, 0.0, 1e-9])
    assert signs(values).tolist() == [-1, 1, 1, 1]
    assert torch.allclose(soft_sign(torch.tensor([-1e3, 0.0, 0.001])), torch.tensor([-1, 0, 0.5]))
