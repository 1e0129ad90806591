"""Patches cut anew out of wider ones: as the orientation network says, and displaced by noise.

A frame ``(2, 3)`` takes a patch's coordinates (u, v, 1), from its centre in its samples, to those
of the wide patch, from the centre in the same unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.integer import ORIENTATION_SIDE, STRETCH
from ..patches import PATCH_SIDE
from .pairs import centre


@dataclass(frozen=True)
class FrameNoise:
    """Normal errors of keypoints, beside those that the detector makes.

    Attributes:
        share: of the groups of a batch that get them.
        offset: deviation along x and y, as a share of the described patch's side.
        scale: deviation of the logarithm of the size.
        turn: deviation of the angle, degrees.
    """

    share: float = 0.0
    offset: float = 0.04
    scale: float = 0.08
    turn: float = 8.0


def draw_frames(
    rng: np.random.Generator, noise: FrameNoise, groups: int, pairs: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where the keypoints of both patches of each pair are put.

    Returns:
        ``(groups * pairs, 2, 2, 3)`` frames, displaced and of another size, and
        ``(groups * pairs, 2, 2)`` directions to turn them to afterwards: an orientation network
        would undo errors of the angle that it sees.
    """
    shape = groups * pairs, 2
    noisy = np.repeat(rng.random(groups) < noise.share, pairs)[:, None]
    frames = np.zeros((*shape, 2, 3), np.float32)
    frames[..., 0, 0] = frames[..., 1, 1] = np.exp(noisy * rng.normal(0, noise.scale, shape))
    offset = rng.normal(0, noise.offset * PATCH_SIDE, (*shape, 2))
    frames[..., 2] = noisy[..., None] * offset
    turn = np.radians(noisy * rng.normal(0, noise.turn, shape))
    return frames, np.stack([np.cos(turn), np.sin(turn)], -1).astype(np.float32)


def cut(wide: Tensor, frames: Tensor) -> Tensor:
    """Cut ``(N, 1, 32, 32)`` patches out of ``(N, 1, S, S)`` ones at ``(N, 2, 3)`` frames."""
    offset = torch.arange(PATCH_SIDE, device=frames.device) - (PATCH_SIDE - 1) / 2
    v, u = torch.meshgrid(offset, offset, indexing="ij")
    places = torch.stack([u, v, torch.ones_like(u)]).flatten(1)
    grid = (frames @ places).mT.unflatten(1, (PATCH_SIDE, PATCH_SIDE)) / (wide.shape[-1] / 2)
    return F.grid_sample(wide, grid, padding_mode="border", align_corners=False)


def turn_frames(frames: Tensor, directions: Tensor) -> Tensor:
    """Turn ``(N, 2, 3)`` frames, so that ``(N, 2)`` directions in them come to point right."""
    cosine, sine = F.normalize(directions, dim=1).unbind(1)
    return _map_first(frames, cosine, -sine, sine, cosine)


def adapt_frames(frames: Tensor, outputs: Tensor) -> Tensor:
    """Turn and stretch ``(N, 2, 3)`` frames by ``(N, 4)`` outputs of an orientation network."""
    p, q = stretches(outputs).unbind(1)
    scale = (1 - p * p - q * q).rsqrt()
    stretched = _map_first(frames, (1 + p) * scale, q * scale, q * scale, (1 - p) * scale)
    return turn_frames(stretched, outputs[:, :2])


def stretches(outputs: Tensor) -> Tensor:
    """``(N, 2)`` p and q of ``(N, 4)`` outputs of an orientation network."""
    return STRETCH * F.normalize(outputs, dim=1)[:, 2:]


def _map_first(frames: Tensor, *matrix: Tensor) -> Tensor:
    """Frames that take coordinates through a matrix first, given row by row."""
    linear = torch.stack(matrix, 1).unflatten(1, (2, 2))
    return torch.cat([frames[:, :, :2] @ linear, frames[:, :, 2:]], 2)


def reduce(patches: Tensor) -> Tensor:
    """``(N, 1, 32, 32)`` patches as the orientation network sees them, ``(N, 1, 16, 16)``."""
    return F.avg_pool2d(patches, PATCH_SIDE // ORIENTATION_SIDE)


def oriented(network: nn.Module, wide: Tensor) -> Tensor:
    """The patches ``(N, 1, 32, 32)`` that a network describes, out of ``(N, 1, S, S)`` ones.

    They are turned and stretched, if the network has an orientation network.
    """
    orientation = getattr(network, "orientation", None)
    inner: Tensor = centre(wide)
    if orientation is None:
        return inner
    upright = torch.eye(2, 3, device=wide.device).expand(len(wide), 2, 3)
    return cut(wide, adapt_frames(upright, orientation(reduce(inner))))
