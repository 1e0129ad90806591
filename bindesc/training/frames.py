"""Patches cut anew out of wider ones: as the orientation network says, and displaced by noise.

A frame ``(2, 3)`` takes a patch's coordinates (u, v, 1), from its centre in its samples, to those
of the wide patch, from the centre in the same unit.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..log_polar import REACH, places, ring_spacing
from ..models.integer import ORIENTATION_SIDE, STRETCH
from ..patches import PATCH_SIDE
from .pairs import centre


def cut(wide: Tensor, frames: Tensor) -> Tensor:
    """Cut ``(N, 1, 32, 32)`` patches out of ``(N, 1, S, S)`` ones at ``(N, 2, 3)`` frames."""
    offset = torch.arange(PATCH_SIDE, device=frames.device) - (PATCH_SIDE - 1) / 2
    v, u = torch.meshgrid(offset, offset, indexing="ij")
    samples = torch.stack([u, v, torch.ones_like(u)]).flatten(1)
    grid = (frames @ samples).mT.unflatten(1, (PATCH_SIDE, PATCH_SIDE)) / (wide.shape[-1] / 2)
    return F.grid_sample(wide, grid, padding_mode="border", align_corners=False)


def cut_log_polar(wide: Tensor, frames: Tensor) -> Tensor:
    """Log-polar patches ``(N, 1, RINGS, DIRECTIONS)`` out of ``(N, 1, S, S)`` ones, as :func:`cut`.

    Rings whose samples lie far apart are read from smaller images, as
    :meth:`bindesc.patches.PatchCutter.cut_log_polar` does.
    """
    radius, centre_pixel = PATCH_SIDE / 2 * REACH, (wide.shape[-1] - 1) / 2
    at = torch.from_numpy(places() * radius).to(frames)
    level = np.maximum(np.floor(np.log2(ring_spacing() * radius) + 0.5), 0)
    rings = []
    for current in range(int(level.max()) + 1):
        if current:
            # A pixel i is centred on pixel 2 i of the level before.
            wide = F.conv2d(F.pad(wide, (2, 2, 2, 2), mode="reflect"), _blur(wide), stride=2)
            frames = frames / 2
        xy = at[:, torch.from_numpy(np.flatnonzero(level == current)).to(at.device)]
        shape = xy.shape[1:]
        pixel = frames[:, :, :2] @ xy.flatten(1) + frames[:, :, 2:] + centre_pixel / 2**current
        grid = (2 * pixel + 1) / wide.shape[-1] - 1
        grid = grid.mT.unflatten(1, shape)
        rings.append(F.grid_sample(wide, grid, padding_mode="border", align_corners=False))
    return torch.cat(rings, 2)


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


def cut_for(network: nn.Module, wide: Tensor, frames: Tensor) -> Tensor:
    """What a network describes, ``(N, 1, 32, 32)``, out of ``(N, 1, S, S)`` patches at frames."""
    return (cut_log_polar if _sees_log_polar(network) else cut)(wide, frames)


def oriented(network: nn.Module, wide: Tensor) -> Tensor:
    """What a network describes, ``(N, 1, 32, 32)``, out of ``(N, 1, S, S)`` patches.

    They are turned and stretched, if the network has an orientation network.
    """
    frames = torch.eye(2, 3, device=wide.device).expand(len(wide), 2, 3)
    orientation = getattr(network, "orientation", None)
    if orientation is None and not _sees_log_polar(network):
        inner: Tensor = centre(wide)
        return inner
    if orientation is not None:
        frames = adapt_frames(frames, orientation(reduce(centre(wide))))
    return cut_for(network, wide, frames)


def _sees_log_polar(network: nn.Module) -> bool:
    return bool(getattr(getattr(network, "config", None), "log_polar", False))


def _blur(image: Tensor) -> Tensor:
    """The kernel ``(1, 1, 5, 5)`` of cv2.pyrDown."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device) / 16
    return (line[:, None] * line)[None, None]
