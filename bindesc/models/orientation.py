"""The orientation network: how far to turn a keypoint, so that two views of it agree."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .integer import ORIENTATION_SIDE
from .layers import convolutions, normalise_patches


def orientation_strides(channels: Sequence[int]) -> list[int]:
    """Of the convolutions with so many output channels: 1, then 2 each."""
    return [1] + [2] * (len(channels) - 1)


class OrientationNet(nn.Module):
    """Patches ``(N, 1, 16, 16)`` float to directions ``(N, 2)`` float, of any length.

    A direction (x, y), y down, is where the keypoint's orientation should point, in the patch that
    was cut at the orientation which the detector gave it. An untrained network leaves that as it
    is. After Yi et al., "Learning to assign orientations to feature points", CVPR 2016.

    Args:
        channels: output channels of each 3x3 convolution, one to three; all but the first have
            stride 2.

    Raises:
        ValueError: there are more.
    """

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        if not 1 <= len(channels) <= 3:
            raise ValueError(f"orientation: one to three convolutions, got {len(channels)}")
        strides = orientation_strides(channels)
        last = nn.Conv2d(channels[-1], 2, ORIENTATION_SIDE // 2 ** (len(channels) - 1))
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        last.bias.data = last.bias.new_tensor([1.0, 0.0])
        self.layers = nn.Sequential(*convolutions(1, channels, strides), last, nn.Flatten())

    def forward(self, patches: Tensor) -> Tensor:
        """Directions."""
        return self.layers(normalise_patches(patches))
