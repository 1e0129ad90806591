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
