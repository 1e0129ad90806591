"""Layers that the small convolutional networks share, and the contrast of patches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    variance = centred.square().mean(dim=(1, 2, 3), keepdim=True)
    return centred, variance.clamp_min(1e-12).sqrt()  # at 0 the root has no gradient


class NormalisePatches(nn.Module):
    """:func:`normalise_patches` as a layer."""

    def forward(self, patches: Tensor) -> Tensor:
        """The same shape, each patch of mean 0 and deviation 1."""
        return normalise_patches(patches)


def go_round(maps: Tensor) -> Tensor:
    """``(N, C, H, W)`` maps with a column more at either end, which holds that of the other end."""
    return torch.cat([maps[..., -1:], maps, maps[..., :1]], -1)


class CircularConvolution(nn.Conv2d):
    """A 3x3 convolution with a border of one, of zeros above and below; rows go round."""

    def forward(self, input: Tensor) -> Tensor:
        """As :class:`torch.nn.Conv2d`."""
        return F.conv2d(go_round(input), self.weight, self.bias, self.stride, (1, 0))


def convolutions(
    inputs: int, channels: Sequence[int], strides: Sequence[int], *, circular: bool = False
) -> Iterator[nn.Module]:
    """3x3 convolutions with a border of one, each with its batch normalisation and ReLU."""
    kind = CircularConvolution if circular else nn.Conv2d
    for outputs, stride in zip(channels, strides, strict=True):
        yield kind(inputs, outputs, 3, stride, padding=1, bias=False)
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
