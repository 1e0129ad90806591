"""The compact descriptor network: a small all-convolutional net whose signs are the code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from .integer import ORIENTATION_OUTPUTS, ORIENTATION_SIDE
from .layers import NormalisePatches, convolutions, fold_batch_norm, normalise_patches
from .orientation import OrientationNet, adapt_patches, frames, orientation_strides

_LEAST_SIDE = 4  # of a map in the C++ core
_MOST_INPUTS = 2**14  # of the last layer: products with int8 then stay far below 2^24


@dataclass(frozen=True)
class CompactConfig:
    """The shape of a compact network.

    Attributes:
        channels: output channels of each 3x3 convolution.
        strides: its stride, 1 or 2; the strides bring 32 pixels down to the last map.
        bits: length of the code.
        support: side of the described patch in the image, over what the detector's
            ``SCALE_FACTORS`` entry gives.
        log_polar: the network sees log-polar patches, see :mod:`bindesc.log_polar`, whose last ring
            is ``REACH`` times as wide; otherwise it sees the patch itself.
        orientation: output channels of the 3x3 convolutions of the network that turns and stretches
            log-polar patches, see :class:`bindesc.models.orientation.OrientationNet`; none where
            they stay as they are.

    Raises:
        ValueError: the shape cannot run in integers, or patches that are adapted are not log-polar.
    """

    channels: tuple[int, ...] = (16, 24, 32, 48)
    strides: tuple[int, ...] = (2, 2, 1, 2)
    bits: int = 256
    support: float = 1.0
    log_polar: bool = False
    orientation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"channels: expected positive numbers, got {self.channels}")
        if len(self.strides) != len(self.channels):
            raise ValueError(
                f"strides: {len(self.strides)} for {len(self.channels)} channels; one for each"
            )
        if not set(self.strides) <= {1, 2} or self.last_side < _LEAST_SIDE:
            raise ValueError(
                f"strides: expected 1 or 2 each, and 2 three times at most, got {self.strides}"
            )
        inputs = self.last_side**2 * self.channels[-1]
        if inputs > _MOST_INPUTS:
            raise ValueError(
                f"channels, strides: the last layer would have {inputs} inputs, of at most "
                f"{_MOST_INPUTS}; more cannot be summed exactly"
            )
        if self.orientation and not self.log_polar:
            raise ValueError("orientation: adapts log-polar patches; choose log_polar too")

    @property
    def last_side(self) -> int:
        """Of the map that the last layer spans, samples."""
        return 32 // math.prod(self.strides)


class CompactNet(nn.Module):
    """Patches ``(N, 1, 32, 32)`` float to activations ``(N, bits)`` float; bit = activation >= 0.

    Log-polar patches are ``(N, 1, RINGS, DIRECTIONS)``, which is the same shape.

    The last batch normalisation has no affine part: each bit's threshold is the mean of its
    activation over the training data, so that every bit is set about half of the time.

    Attributes:
        orientation: what turns and stretches the patches first, or None.
    """

    def __init__(self, config: CompactConfig | None = None):
        super().__init__()
        self.config = config = config or CompactConfig()
        self.layers = nn.Sequential(
            *convolutions(1, config.channels, config.strides, circular=config.log_polar),
            nn.Conv2d(config.channels[-1], config.bits, config.last_side, bias=False),
            nn.BatchNorm2d(config.bits, affine=False),
            nn.Flatten(),
        )
        self.orientation = OrientationNet(config.orientation) if config.orientation else None

    def forward(self, patches: Tensor) -> Tensor:
        """Activations before the sign."""
        if self.orientation is not None:
            patches = adapt_patches(patches, frames(self.orientation(patches)))
        return self.describe(patches)

    def describe(self, patches: Tensor) -> Tensor:
        """The activations of patches that are adapted already."""
        return self.layers(normalise_patches(patches))

    def for_inference(self) -> nn.Sequential:
        """The function of :meth:`describe` in evaluation mode, without batch normalisation."""
        return nn.Sequential(NormalisePatches(), *fold_batch_norm(self.layers)).eval()


def multiply_adds(config: CompactConfig) -> int:
    """Multiply-accumulate operations for one keypoint."""
    total, inputs, side = _convolution_cost(32, config.channels, config.strides)
    total += side * side * inputs * config.bits
    if config.orientation:
        strides = orientation_strides(config.orientation)
        more, inputs, side = _convolution_cost(ORIENTATION_SIDE, config.orientation, strides)
        total += more + side * side * inputs * ORIENTATION_OUTPUTS
    return total


def _convolution_cost(
    side: int, channels: Sequence[int], strides: Sequence[int]
) -> tuple[int, int, int]:
    """Multiply-adds of 3x3 convolutions, and the channels and the side of what they make."""
    total, inputs = 0, 1
    for outputs, stride in zip(channels, strides, strict=True):
        side = -(-side // stride)
        total += side * side * 9 * inputs * outputs
        inputs = outputs
    return total, inputs, side
