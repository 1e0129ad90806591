"""Errors of keypoints, beside those that the detector makes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..patches import PATCH_SIDE


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
) -> NDArray[np.float32]:
    """Where the keypoints of both patches of each pair are put: ``(groups * pairs, 2, 2, 3)``."""
    shape = groups * pairs, 2
    noisy = np.repeat(rng.random(groups) < noise.share, pairs)[:, None]
    size = np.exp(noisy * rng.normal(0, noise.scale, shape))
    offset = noisy[..., None] * rng.normal(0, noise.offset * PATCH_SIDE, (*shape, 2))
    turn = np.radians(noisy * rng.normal(0, noise.turn, shape))
    x, y = size * np.cos(turn), size * np.sin(turn)
    rows = [x, -y, offset[..., 0]], [y, x, offset[..., 1]]
    return np.stack([np.stack(row, -1) for row in rows], -2).astype(np.float32)
