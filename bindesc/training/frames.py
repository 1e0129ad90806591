"""Patches cut anew out of wider ones, displaced by noise.

A frame ``(2, 3)`` takes a patch's coordinates (u, v, 1), from its centre in its samples, to those
of the wide patch, from the centre in the same unit.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..log_polar import INNER_RADIUS, REACH, RING_RATIO, places, ring_spacing
from ..models.orientation import read_log_polar
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


def cut_again(patches: Tensor, frames: Tensor) -> Tensor:
    """Log-polar patches ``(N, 1, RINGS, DIRECTIONS)`` at ``(N, 2, 3)`` frames, out of such patches.

    What lies beyond the last ring looks like it.
    """
    at = torch.from_numpy(places()).to(frames)  # over the last radius
    offset = frames[:, :, 2:] / (PATCH_SIDE / 2 * REACH)
    x, y = (frames[:, :, :2] @ at.flatten(1) + offset).unflatten(2, at.shape[1:]).unbind(1)
    radius = torch.hypot(x, y).clamp_min(INNER_RADIUS)
    row = (radius / INNER_RADIUS).log() / math.log(RING_RATIO)
    return read_log_polar(patches, torch.atan2(y, x), row)


def cut_for(network: nn.Module, wide: Tensor, frames: Tensor | None = None) -> Tensor:
    """What a network describes, ``(N, 1, 32, 32)``, out of ``(N, 1, S, S)`` patches.

    ``frames`` are upright by default.
    """
    log_polar = bool(getattr(getattr(network, "config", None), "log_polar", False))
    if frames is None and not log_polar:
        inner: Tensor = centre(wide)
        return inner
    if frames is None:
        frames = torch.eye(2, 3, device=wide.device).expand(len(wide), 2, 3)
    return (cut_log_polar if log_polar else cut)(wide, frames)


def _blur(image: Tensor) -> Tensor:
    """The kernel ``(1, 1, 5, 5)`` of cv2.pyrDown."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=image.device) / 16
    return (line[:, None] * line)[None, None]
