"""The orientation network: how to turn and stretch a keypoint, so that two views of it agree."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..log_polar import DIRECTIONS, RING_RATIO, RINGS, directions
from .integer import MOST_STRETCH, ORIENTATION_OUTPUTS, ORIENTATION_SIDE
from .layers import (
    NormalisePatches,
    convolutions,
    fold_batch_norm,
    go_round,
    normalise_patches,
)

_TRUST = 3.0  # in the detector's orientation, at first


def orientation_strides(channels: Sequence[int]) -> list[int]:
    """Of the convolutions with so many output channels: the second's is 2."""
    return [2 if i == 1 else 1 for i in range(len(channels))]


class OrientationNet(nn.Module):
    """Log-polar patches ``(N, 1, 32, 32)`` float to ``(N, 4)`` float: (x, y, z, w), of any length.

    (x, y), y down, is where the keypoint's orientation should point, in the patch that was cut at
    the orientation which the detector gave it. (z, w) is how the area around the keypoint should be
    stretched, see :func:`frames`. An untrained network leaves the patch as it is.

    The rows of the patch go round, and so do those of every map: where the keypoint is turned, all
    of them move along. Each column of the last map gets two scores. (x, y) is the sum of the
    columns' directions, weighted by the first one, and of the detector's; (z, w) that of the
    directions at twice the angle, weighted by the second one. So the network knows by its shape
    that both have to turn with the patch, and that a stretch is the same after half a turn.

    After Yi et al., "Learning to assign orientations to feature points", CVPR 2016, and Mishkin et
    al., "Repeatability is not enough: learning affine regions via discriminability", ECCV 2018.

    Args:
        channels: output channels of each 3x3 convolution, one to three; the second has stride 2.
            The first sees the patch at half its side.

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
        self.scores = nn.Conv2d(channels[-1], 2, (side, 1), bias=False)
        nn.init.zeros_(self.scores.weight)
        self.trust = nn.Parameter(torch.tensor([_TRUST]))
        angle = (torch.arange(side) + 0.5) * (2 * math.pi / side) - math.pi
        harmonics = [torch.stack([(k * angle).cos(), (k * angle).sin()]) for k in (1, 2)]
        self.register_buffer("directions", torch.stack(harmonics), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """Directions and stretches."""
        maps = self.layers(normalise_patches(F.avg_pool2d(patches, 2)))
        sums = torch.einsum("nkd,kcd->nkc", self.scores(maps)[:, :, 0], self.directions)
        return sums.flatten(1) + self._detector()

    def for_inference(self) -> nn.Sequential:
        """The same function of halved patches, ``(N, 1, 16, 16)``, in evaluation mode."""
        folded = fold_batch_norm(self.layers)
        side = self.directions.shape[2]
        last = nn.Conv2d(self.scores.in_channels, ORIENTATION_OUTPUTS, side)
        # (2, 2, 1, 1, D) times (2, 1, C, D, 1)
        weights = self.directions[:, :, None, None] * self.scores.weight.data[:, None]
        last.weight.data = weights.flatten(0, 1)
        last.bias.data = self._detector().data  # type: ignore[union-attr]
        return nn.Sequential(NormalisePatches(), *folded, last, nn.Flatten()).eval()

    def _detector(self) -> Tensor:
        return F.pad(self.trust, (0, ORIENTATION_OUTPUTS - 1))


def rotations(directions: Tensor) -> Tensor:
    """``(N, 2, 2)`` that take right to ``(N, 2)`` directions of any length."""
    cosine, sine = F.normalize(directions, dim=1).unbind(1)
    return torch.stack([cosine, -sine, sine, cosine], 1).unflatten(1, (2, 2))


def frames(outputs: Tensor) -> Tensor:
    """The network's outputs as linear maps of the plane.

    Args:
        outputs: ``(N, 4)``: x, y, z, w.

    Returns:
        ``(N, 2, 2)`` of determinant 1, from coordinates in the adapted patch, from its centre, to
        those in the patch that the network saw: right becomes (x, y), then all is stretched by
        ``[[1 + p, q], [q, 1 - p]] / sqrt(1 - p^2 - q^2)``, where ``(p, q) =
        MOST_STRETCH (z, w) / |(x, y, z, w)|``.
    """
    turn = rotations(outputs[:, :2])
    p, q = (MOST_STRETCH * F.normalize(outputs, dim=1)[:, 2:]).unbind(1)
    stretch = torch.stack([1 + p, q, q, 1 - p], 1).unflatten(1, (2, 2))
    return stretch @ turn / (1 - p * p - q * q).sqrt()[:, None, None]


def adapt_patches(patches: Tensor, frames: Tensor) -> Tensor:
    """Turn and stretch log-polar patches as :func:`bindesc.orientation.adapt_patches` does.

    A linear map takes each direction to another one, and the points on it to as many times their
    distance: each column comes from another place in the row, and from so many rings farther out.

    Args:
        patches: ``(N, 1, RINGS, DIRECTIONS)`` float.
        frames: ``(N, 2, 2)``, any such maps; the result is differentiable by them.

    Returns:
        The same shape as ``patches``.
    """
    to = frames.new_tensor(directions())
    x, y = (frames @ to).unbind(1)
    farther = torch.hypot(x, y).log() / math.log(RING_RATIO)
    row = torch.arange(RINGS, device=frames.device)[:, None] + farther[:, None]
    return read_log_polar(patches, torch.atan2(y, x)[:, None], row)


def read_log_polar(patches: Tensor, angle: Tensor, row: Tensor) -> Tensor:
    """Log-polar patches between their samples, by bilinear interpolation.

    Args:
        patches: ``(N, 1, RINGS, DIRECTIONS)`` float.
        angle: ``(N, H, W)`` directions, radians, -pi to pi; ``(N, 1, W)`` if all rows have them.
        row: ``(N, H, W)`` rings; beyond the first and the last one it is as there.

    Returns:
        ``(N, 1, H, W)``.
    """
    column = (angle / (2 * math.pi) + 0.5) * DIRECTIONS - 0.5
    # Rows go round: column i is now the one at i + 1.
    x, y = (2 * column + 3) / (DIRECTIONS + 2) - 1, (2 * row + 1) / RINGS - 1
    grid = torch.stack(torch.broadcast_tensors(x, y), -1)
    return F.grid_sample(go_round(patches), grid, padding_mode="border", align_corners=False)
