"""Training losses, each a small pure function of codes."""

from __future__ import annotations

import torch
from torch import Tensor


def relax_bits(activations: Tensor, sharpness: float) -> Tensor:
    """Differentiable stand-in for the bits: ``tanh(sharpness * a)``, scaled to unit length.

    Args:
        activations: ``(N, K)`` float, before the sign.
        sharpness: the larger, the closer to the sign.

    Returns:
        ``(N, K)`` float rows of unit length; the inner product of two is near ``1 - 2 d / K`` for
        codes at Hamming distance d.
    """
    return torch.nn.functional.normalize(torch.tanh(sharpness * activations), dim=1)


def hardest_triplet(first: Tensor, second: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """Hardest-in-batch triplet loss, with a mask of which pairs may be negatives.

    Mishchuk et al., "Working hard to know your neighbor's margins", NeurIPS 2017, equation 3.

    Args:
        first: ``(N, K)`` unit rows; row i belongs to row i of ``second``.
        second: ``(N, K)`` unit rows.
        negative: ``(N, N)`` bool, symmetric: i and j show different points.
        margin: the least gap between a positive and its hardest negative distance.

    Returns:
        Scalar: mean of ``max(0, margin + d_positive - d_negative)``, where ``d_negative`` is the
        least distance from either end of the pair to any negative.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (2 - 2 * a @ b.T).clamp_min(1e-6).sqrt()

    cross = distance(first, second)
    positive = cross.diagonal()
    far = cross.masked_fill(~negative, float("inf"))
    hardest = torch.minimum(far.amin(0), far.amin(1))
    return (margin + positive - hardest).clamp_min(0).mean()
