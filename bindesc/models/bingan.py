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
from .weight_norm import WeightNormConv2d, WeightNormConvTranspose2d

NOISE = 100  # length of the generator's input


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
        h: ``(N, 36 * wide)``, the high-dimensional layer, the last 3x3 convolution's map.
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


class ThresholdedDiscriminator(PatchDiscriminator):
    """A patch discriminator with a threshold of its own for every bit: bit = f >= threshold.

    The paper takes the sign of f. As f is an average of LeakyReLU outputs, it leans to one side of
    zero, the more so the less the network is trained; a median over data as threshold sets each bit
    half of the time.
    """

    threshold: Tensor

    def __init__(self, config: BinGanConfig | None = None):
        super().__init__(config)
        self.register_buffer("threshold", torch.zeros(self.config.bits))

    def forward(self, patches: Tensor) -> Tensor:
        """Activations minus thresholds."""
        return super().forward(patches) - self.threshold

    def for_inference(self) -> nn.Sequential:
        """The same function in evaluation mode, as plain convolutions."""
        return nn.Sequential(*super().for_inference(), Shift(-self.threshold)).eval()


class Shift(nn.Module):
    """Adds a fixed vector.

    Args:
        by: ``(K,)``.
    """

    by: Tensor

    def __init__(self, by: Tensor):
        super().__init__()
        self.register_buffer("by", by.detach().clone())

    def forward(self, activations: Tensor) -> Tensor:
        """``(N, K)`` in and out."""
        return activations + self.by


@torch.no_grad()
def median_thresholds(network: PatchDiscriminator, patches: Tensor) -> ThresholdedDiscriminator:
    """The same network with the medians of f over patches as thresholds.

    Args:
        network: stays as it is.
        patches: ``(N, 1 or inputs, 32, 32)`` float, 0 to 255.
    """
    parameter = next(network.parameters())
    copy = ThresholdedDiscriminator(network.config).to(parameter.device)
    copy.load_state_dict(network.state_dict() | {"threshold": copy.threshold})
    copy.threshold.zero_()
    f = [copy.eval()(part.to(parameter.device)) for part in patches.split(64)]
    copy.threshold.copy_(torch.cat(f).median(0).values)
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
