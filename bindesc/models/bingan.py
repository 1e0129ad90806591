"""BinGAN: a generator of patches, and a discriminator with a binary code inside.

Zieba, Semberecki, El-Gaaly and Trzcinski, "BinGAN: Learning Compact Binary Descriptors with a
Regularized GAN", NeurIPS 2018 (arXiv 1806.06778), the networks for patch matching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .half_dropout import HalfDropout
from .layers import centre_patches
from .weight_norm import WeightNormConv2d, WeightNormConvTranspose2d

NOISE = 100  # length of the generator's input
MAP_PIXELS = 36  # of the last 3x3 convolution

# Grey levels: the mean and deviation of photos' patches, and a deviation that may be noise.
_MEAN, _DEVIATION, _NOISE = 110.0, 45.0, 4.0


@dataclass(frozen=True)
class BinGanConfig:
    """The shape of a patch discriminator; the defaults are the published ones.

    Attributes:
        inputs: channels of a patch, 1 (grey) or 3.
        narrow: channels of the three convolutions at 32x32 pixels.
        wide: channels of the four convolutions after them.
        bits: length of the code: channels of the first 1x1 convolution.
        pooled: channels of the second, which the logits are computed from.
        support: side of the described patch in the image, over what the detector's
            ``SCALE_FACTORS`` entry gives.
    """

    inputs: int = 1
    narrow: int = 96
    wide: int = 128
    bits: int = 256
    pooled: int = 128
    support: float = 1.0


class Layers(NamedTuple):
    """What the discriminator computes, from the input to the output.

    Attributes:
        h: ``(N, MAP_PIXELS * wide)``, the high-dimensional layer, the last 3x3 convolution's map.
        f: ``(N, bits)`` float32, the low-dimensional layer; bit = f >= 0.
        penultimate: ``(N, pooled)`` float32, for feature matching.
        logits: ``(N, 2)`` float32.
    """

    h: Tensor
    f: Tensor
    penultimate: Tensor
    logits: Tensor


class PatchDiscriminator(nn.Module):
    """Patches ``(N, inputs, 32, 32)``, 0 to 255, to activations ``(N, bits)``; bit = f >= 0.

    A network with three inputs takes ``(N, 1, 32, 32)`` grey patches too, as three equal channels.
    """

    def __init__(self, config: BinGanConfig | None = None):
        super().__init__()
        self.config = config = config or BinGanConfig()
        self.to_images = ToImages(config.inputs)
        self.trunk = build_trunk(config.inputs, config.narrow, config.wide)
        self.code = nn.Sequential(*block(config.wide, config.bits, kernel=1, padding=0))
        self.top = nn.Sequential(*block(config.bits, config.pooled, kernel=1, padding=0))
        self.classify = WeightNormConv2d(config.pooled, 2, 1, init_std=0.1, train_gain=True)

    def layers(self, images: Tensor) -> Layers:
        """All layers that the losses need.

        Args:
            images: ``(N, inputs, 32, 32)`` float, -1 to 1.
        """
        trunk = self.trunk(images)
        code = self.code(trunk)
        pooled = average(self.top(code))
        logits = self.classify(pooled[:, :, None, None]).flatten(1).float()
        return Layers(h=trunk.flatten(1), f=average(code), penultimate=pooled, logits=logits)

    def forward(self, patches: Tensor) -> Tensor:
        """Activations before the sign."""
        return average(self.code(self.trunk(self.to_images(patches))))

    def for_inference(self) -> nn.Sequential:
        """The same function in evaluation mode, as plain convolutions."""
        layers = plain_layers(*self.trunk, *self.code)
        return nn.Sequential(self.to_images, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


class PrincipalDiscriminator(PatchDiscriminator):
    """A code from the principal components of h instead of f: bit = activation >= 0.

    A variant that is not in the paper. f is an average over the whole patch, which forgets where
    things are, and its 256 values vary together (ten directions hold nine tenths of the variance
    over patches). h keeps the places. Its components, as many as there are bits, are divided by the
    roots of their deviations and turned into random directions: as they are, the signs of the weak
    ones would count as much as those of the strong ones. The contrast of a patch is set before the
    network sees it, so that light matters less.
    """

    def __init__(self, config: BinGanConfig | None = None):
        super().__init__(config)
        self.set_contrast = SetContrast()
        self.components = nn.Linear(MAP_PIXELS * self.config.wide, self.config.bits)

    def forward(self, patches: Tensor) -> Tensor:
        """Activations, of mean 0 over the patches that the components were made from."""
        images = self.to_images(self.set_contrast(patches))
        return self.components(self.trunk(images).flatten(1))

    def for_inference(self) -> nn.Sequential:
        """The same function in evaluation mode, as plain convolutions."""
        layers = plain_layers(*self.trunk)
        whole = [self.set_contrast, self.to_images, *layers, nn.Flatten(), self.components]
        return nn.Sequential(*whole).eval()


class SetContrast(nn.Module):
    """Gives patches, 0 to 255, the mean and the deviation that photos' patches have on average."""

    def forward(self, patches: Tensor) -> Tensor:
        """``(N, C, 32, 32)`` float in and out; a flat patch becomes plain grey."""
        centred, deviation = centre_patches(patches)
        return centred * (_DEVIATION / (deviation + _NOISE)) + _MEAN


@torch.no_grad()
def principal_components(network: PatchDiscriminator, patches: Tensor) -> PrincipalDiscriminator:
    """The same network with a code from the principal components of h over patches.

    Args:
        network: stays as it is.
        patches: ``(N, 1 or inputs, 32, 32)`` float, 0 to 255; N at least the bits of the code.

    Raises:
        ValueError: too few patches.
    """
    bits = network.config.bits
    if len(patches) < bits:
        raise ValueError(f"a code of {bits} bits needs as many patches, got {len(patches)}")
    parameter = next(network.parameters())
    copy = PrincipalDiscriminator(network.config).to(parameter.device).eval()
    copy.load_state_dict(network.state_dict(), strict=False)
    parts = [copy.set_contrast(part.to(parameter.device)) for part in patches.split(64)]
    h = torch.cat([copy.trunk(copy.to_images(part)).flatten(1) for part in parts])
    mean = h.mean(0)
    with torch.random.fork_rng(devices=[]):  # the method starts from random directions
        torch.manual_seed(0)
        _, deviations, directions = torch.svd_lowrank(h - mean, q=min(bits + 32, len(h)), niter=3)
        turned = torch.linalg.qr(torch.randn(bits, bits)).Q.to(h.device)
    scaled = directions[:, :bits] * (deviations[0] / deviations[:bits]).sqrt()
    weight = turned @ scaled.T
    copy.components.weight.copy_(weight)
    copy.components.bias.copy_(-weight @ mean)
    return copy


class Generator(nn.Module):
    """Noise ``(N, 100)``, uniform in [0, 1), to images ``(N, outputs, 32, 32)`` in (-1, 1).

    Args:
        outputs: channels of an image.
        width: channels at 4x4 pixels; each doubling of the side halves them.
    """

    def __init__(self, outputs: int = 1, width: int = 512):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NOISE, 16 * width, bias=False),
            nn.BatchNorm1d(16 * width),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, (width, 4, 4)),
            *_upsample(width, width // 2),
            *_upsample(width // 2, width // 4),
            WeightNormConvTranspose2d(width // 4, outputs, 5, init_std=0.1, train_gain=True),
            nn.Tanh(),
        )
        for layer in self.layers:
            if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, std=0.05)

    def forward(self, noise: Tensor) -> Tensor:
        """Images."""
        return self.layers(noise)


class ToImages(nn.Module):
    """Values 0 to 255 to -1 to 1; one channel is repeated where more are wanted.

    Args:
        channels: of the images, 1 or 3.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, patches: Tensor) -> Tensor:
        """``(N, 1 or channels, 32, 32)`` float to ``(N, channels, 32, 32)``."""
        return (patches / 127.5 - 1).expand(-1, self.channels, -1, -1)


def build_trunk(inputs: int, narrow: int, wide: int) -> nn.Sequential:
    """The 3x3 convolutions of a discriminator: 32x32 pixels to a 6x6 map.

    Args:
        inputs: channels of the images.
        narrow: channels of the first three convolutions.
        wide: channels of the other four.
    """
    return nn.Sequential(
        nn.Dropout(0.2),
        *block(inputs, narrow),
        *block(narrow, narrow),
        *block(narrow, narrow, stride=2),
        HalfDropout(),
        *block(narrow, wide),
        *block(wide, wide),
        *block(wide, wide, stride=2),
        HalfDropout(),
        *block(wide, wide, padding=0),
    )


def block(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, padding: int = 1
) -> list[nn.Module]:
    """A convolution with normalised weights and its LeakyReLU."""
    convolution = WeightNormConv2d(inputs, outputs, kernel, stride=stride, padding=padding)
    return [convolution, nn.LeakyReLU(0.2, inplace=True)]


def _upsample(inputs: int, outputs: int) -> list[nn.Module]:
    """Twice the height and width."""
    return [
        nn.ConvTranspose2d(inputs, outputs, 5, 2, padding=2, output_padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def average(maps: Tensor) -> Tensor:
    """Global average, in float32 also under autocast."""
    return maps.float().mean((2, 3))


def plain_layers(*layers: nn.Module) -> list[nn.Module]:
    """The same function in evaluation mode: plain convolutions, no dropout."""
    return [
        _plain_convolution(layer) if isinstance(layer, WeightNormConv2d) else layer
        for layer in layers
        if not isinstance(layer, nn.Dropout)
    ]


def _plain_convolution(layer: WeightNormConv2d) -> nn.Conv2d:
    plain = nn.utils.skip_init(
        nn.Conv2d,
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        layer.stride,
        layer.padding,
    )
    assert isinstance(plain, nn.Conv2d)
    plain.load_state_dict({"weight": layer.normalised_weight(), "bias": layer.bias})
    return plain
