"""The orientation network: how to turn a keypoint, so that two views of it agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..log_polar import DIRECTIONS
from .integer import ORIENTATION_OUTPUTS, ORIENTATION_SIDE
from .layers import NormalisePatches, convolutions, fold_batch_norm, normalise_patches

_TRUST = 3.0  # in the detector's orientation, at first


def orientation_strides(channels: Sequence[int]) -> list[int]:
    """Of the convolutions with so many output channels: 1, then 2 each."""
    return [1] + [2] * (len(channels) - 1)


class OrientationNet(nn.Module):
    """Log-polar patches ``(N, 1, 32, 32)`` float to ``(N, 2)`` float: (x, y), of any length.

    (x, y), y down, is where the keypoint's orientation should point, in the patch that was cut at
    the orientation which the detector gave it. An untrained network leaves the patch as it is.

    The rows of the patch go round, and so do those of every map: where the keypoint is turned, all
    of them move along. Each column of the last map gets a score, and (x, y) is the sum of the
    columns' directions, weighted by it, and of the detector's. So the network knows by its shape
    that the orientation has to turn with the patch.

    After Yi et al., "Learning to assign orientations to feature points", CVPR 2016.

    Args:
        channels: output channels of each 3x3 convolution, one to three; all but the first have
            stride 2. The first sees the patch at half its side.

    Raises:
        ValueError: there are more.
    """

    directions: Tensor

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        if not 1 <= len(channels) <= 3:
            raise ValueError(f"orientation: one to three convolutions, got {len(channels)}")
        strides = orientation_strides(channels)
        self.layers = nn.Sequential(*convolutions(1, channels, strides, circular=True))
        side = ORIENTATION_SIDE // math.prod(strides)
        self.scores = nn.Conv2d(channels[-1], 1, (side, 1), bias=False)
        nn.init.zeros_(self.scores.weight)
        self.trust = nn.Parameter(torch.tensor([_TRUST]))
        angle = (torch.arange(side) + 0.5) * (2 * math.pi / side) - math.pi
        directions = torch.stack([angle.cos(), angle.sin()])
        self.register_buffer("directions", directions, persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Directions."""
        maps = self.layers(normalise_patches(F.avg_pool2d(patches, 2)))
        return self.scores(maps)[:, 0, 0] @ self.directions.T + self._detector()

    def for_inference(self) -> nn.Sequential:
        """The same function of halved patches, ``(N, 1, 16, 16)``, in evaluation mode."""
        folded = fold_batch_norm(self.layers)
        side = self.directions.shape[1]
        last = nn.Conv2d(self.scores.in_channels, ORIENTATION_OUTPUTS, side)
        # (2, 1, 1, D) times (1, C, D, 1)
        last.weight.data = self.directions[:, None, None] * self.scores.weight.data
        last.bias.data = self._detector().data  # type: ignore[union-attr]
        return nn.Sequential(NormalisePatches(), *folded, last, nn.Flatten()).eval()

    def _detector(self) -> Tensor:
        return torch.cat([self.trust, torch.zeros_like(self.trust)])


def turn_patches(patches: Tensor, directions: Tensor) -> Tensor:
    """Turn log-polar patches as :func:`bindesc.orientation.turn_patches` does, by any angle.

    Args:
        patches: ``(N, 1, RINGS, DIRECTIONS)`` float.
        directions: ``(N, 2)``, which come to point right; the result is differentiable by them.

    Returns:
        The same shape as ``patches``.
    """
    turn = torch.atan2(directions[:, 1], directions[:, 0]) * (DIRECTIONS / (2 * math.pi))
    column = torch.arange(DIRECTIONS, device=turn.device) + turn[:, None]
    left = column.floor()
    part = (column - left)[:, None, None]
    rows = patches.shape[2]

    def at(index: Tensor) -> Tensor:
        return patches.gather(3, (index % DIRECTIONS)[:, None, None].expand(-1, 1, rows, -1))

    whole = left.long()
    return torch.lerp(at(whole), at(whole + 1), part)
