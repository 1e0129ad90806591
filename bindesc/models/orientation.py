"""The orientation network: how to turn and stretch a keypoint, so that two views of it agree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .integer import ORIENTATION_OUTPUTS, ORIENTATION_SIDE
from .layers import convolutions, normalise_patches


def orientation_strides(channels: Sequence[int]) -> list[int]:
    """Of the convolutions with so many output channels: 1, then 2 each."""
    return [1] + [2] * (len(channels) - 1)


class OrientationNet(nn.Module):
    """Patches ``(N, 1, 16, 16)`` float to ``(N, 4)`` float: (x, y, z, w), of any length.

    (x, y), y down, is where the keypoint's orientation should point, in the patch that was cut at
    the orientation which the detector gave it. After that turn the patch is stretched along its
    original axes by ``[[1 + p, q], [q, 1 - p]]``, divided by the root of the determinant, with
    ``(p, q) = STRETCH (z, w) / |(x, y, z, w)|``. An untrained network leaves the patch as it is.

    After Yi et al., "Learning to assign orientations to feature points", CVPR 2016, and Mishkin et
    al., "Repeatability is not enough: learning affine regions via discriminability", ECCV 2018.

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
        last = nn.Conv2d(
            channels[-1], ORIENTATION_OUTPUTS, ORIENTATION_SIDE // 2 ** (len(channels) - 1)
        )
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        last.bias.data = last.bias.new_tensor([1.0, 0.0, 0.0, 0.0])
        self.layers = nn.Sequential(*convolutions(1, channels, strides), last, nn.Flatten())

    def forward(self, patches: Tensor) -> Tensor:
        """Directions and stretches."""
        return self.layers(normalise_patches(patches))

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *more: Any) -> None:
        """A network that only turns is one whose stretch is zero."""
        for name in ("weight", "bias"):
            key = f"{prefix}layers.{len(self.layers) - 2}.{name}"
            if key in state and len(state[key]) == ORIENTATION_OUTPUTS // 2:
                nothing = state[key].new_zeros(ORIENTATION_OUTPUTS // 2, *state[key].shape[1:])
                state[key] = torch.cat([state[key], nothing])
        super()._load_from_state_dict(state, prefix, *more)
