"""The compact descriptor network: a small all-convolutional net whose signs are the code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class CompactConfig:
    """The shape of a compact network.

    Attributes:
        channels: output channels of each 3x3 convolution.
        strides: its stride, 1 or 2; the strides bring 32 pixels down to the last map.
        bits: length of the code.
        support: side of the described patch in the image, over what the detector's
            ``SCALE_FACTORS`` entry gives.
    """

    channels: tuple[int, ...] = (32, 48, 64, 96)
    strides: tuple[int, ...] = (2, 2, 1, 2)
    bits: int = 256
    support: float = 1.0


def normalise_patches(patches: Tensor) -> Tensor:
    """Give each patch zero mean and unit deviation, which cancels gain and offset of the light.

    Args:
        patches: ``(N, 1, 32, 32)`` float, any range. A flat patch becomes zeros.
    """
    centred, deviation = centre_patches(patches)
    return centred / (deviation + 1e-3)


def centre_patches(patches: Tensor) -> tuple[Tensor, Tensor]:
    """``(N, C, H, W)`` patches less the mean of each, and ``(N, 1, 1, 1)`` their deviations."""
    centred = patches - patches.mean(dim=(1, 2, 3), keepdim=True)
    return centred, centred.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()


class CompactNet(nn.Module):
    """Patches ``(N, 1, 32, 32)`` float to activations ``(N, bits)`` float; bit = activation >= 0.

    The last batch normalisation has no affine part: each bit's threshold is the mean of its
    activation over the training data, so that every bit is set about half of the time.
    """

    def __init__(self, config: CompactConfig | None = None):
        super().__init__()
        self.config = config = config or CompactConfig()
        side = 32
        for stride in config.strides:
            side = -(-side // stride)
        self.layers = nn.Sequential(
            *convolutions(1, config.channels, config.strides),
            nn.Conv2d(config.channels[-1], config.bits, side, bias=False),
            nn.BatchNorm2d(config.bits, affine=False),
            nn.Flatten(),
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Activations before the sign."""
        return self.layers(normalise_patches(patches))

    def for_inference(self) -> nn.Sequential:
        """The same function in evaluation mode, without batch normalisation."""
        return nn.Sequential(NormalisePatches(), *fold_batch_norm(self.layers)).eval()


class NormalisePatches(nn.Module):
    """:func:`normalise_patches` as a layer."""

    def forward(self, patches: Tensor) -> Tensor:
        """The same shape, each patch of mean 0 and deviation 1."""
        return normalise_patches(patches)


def convolutions(
    inputs: int, channels: Sequence[int], strides: Sequence[int]
) -> Iterator[nn.Module]:
    """3x3 convolutions, each with its batch normalisation and ReLU."""
    for outputs, stride in zip(channels, strides, strict=True):
        yield nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        yield nn.BatchNorm2d(outputs)
        yield nn.ReLU(inplace=True)
        inputs = outputs


def fold_batch_norm(layers: Iterable[nn.Module]) -> nn.Sequential:
    """The same function in evaluation mode, each normalisation folded into its convolution."""
    folded: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d):
            convolution = folded[-1]
            assert isinstance(convolution, nn.Conv2d)
            folded[-1] = nn.utils.fusion.fuse_conv_bn_eval(convolution.eval(), layer.eval())
        else:
            folded.append(layer)
    return nn.Sequential(*folded).eval()


def multiply_adds(config: CompactConfig) -> int:
    """Multiply-accumulate operations for one patch."""
    total, inputs, side = 0, 1, 32
    for outputs, stride in zip(config.channels, config.strides, strict=True):
        side = -(-side // stride)
        total += side * side * 9 * inputs * outputs
        inputs = outputs
    return total + side * side * inputs * config.bits
