"""Training losses, each a small pure function of codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SOFTNESS = 1e-3  # gamma of soft_sign in BinGAN


def relax_bits(activations: Tensor, sharpness: float) -> Tensor:
    """Differentiable stand-in for the bits: ``tanh(sharpness * a)``, scaled to unit length.

    Args:
        activations: ``(N, K)`` float, before the sign.
        sharpness: the larger, the closer to the sign.

    Returns:
        ``(N, K)`` float rows of unit length; the inner product of two is near ``1 - 2 d / K`` for
        codes at Hamming distance d.
    """
    return F.normalize(torch.tanh(sharpness * activations), dim=1)


def hardest_triplet(first: Tensor, second: Tensor, negative: Tensor, margin: Tensor) -> Tensor:
    """Hardest-in-batch triplet loss, with a mask of which pairs may be negatives.

    Mishchuk et al., "Working hard to know your neighbor's margins", NeurIPS 2017, equation 3.

    Args:
        first: ``(N, K)`` unit rows; row i belongs to row i of ``second``.
        second: ``(N, K)`` unit rows.
        negative: ``(N, N)`` bool, symmetric: i and j show different points.
        margin: ``(N, N)`` float, symmetric: how much longer than a positive distance each negative
            one has to be.

    Returns:
        ``(N,)`` of each pair: ``max(0, d_positive - (d_negative - margin))`` with the least
        ``d_negative - margin`` from either end of the pair to any negative.
    """

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (2 - 2 * a @ b.T).clamp_min(1e-6).sqrt()

    cross = distance(first, second)
    positive = cross.diagonal()
    spare = (cross - margin).masked_fill(~negative, float("inf"))
    hardest = torch.minimum(spare.amin(0), spare.amin(1))
    return (positive - hardest).clamp_min(0)


def missed_matches(
    first: Tensor, second: Tensor, weight: Tensor, temperature: float = 0.03
) -> Tensor:
    """How likely each pair is not to be a match of mutual nearest neighbours.

    A point chooses its partner at random, by a softmax of the inner products over the temperature.
    A pair is a match with the probability p that both choose each other (Tyszkiewicz et al.,
    "DISK", NeurIPS 2020, section 3).

    Args:
        first: ``(N, K)`` unit rows; row i belongs to row i of ``second``.
        second: ``(N, K)`` unit rows.
        weight: ``(N, N)`` float, how much the chance of each other point counts: 1, or 0 for none
            at all. The diagonal is not looked at.
        temperature: the lower, the more the nearest points alone count.

    Returns:
        ``(N,)`` of each pair: ``1 - p - 0.025 log(p)``. Were it for the first part alone, pairs
        that are far from being a match would not learn.
    """
    similarity = first @ second.T / temperature
    chosen = (similarity + weight.log()).diagonal_scatter(similarity.diagonal())
    chance = chosen.log_softmax(0).diagonal() + chosen.log_softmax(1).diagonal()
    return 1 - chance.exp() - 0.025 * chance


def false_positives(
    first: Tensor, second: Tensor, unrelated: Tensor, missed: float = 0.1, width: float = 0.06
) -> Tensor:
    """The share of unrelated points that are as near as true pairs which are far apart.

    Args:
        first: ``(N, K)`` unit rows; row i belongs to row i of ``second``.
        second: ``(N, K)`` unit rows.
        unrelated: ``(N, N)`` bool, which points are of different places; 4,096 pairs of them at
            least are looked at, if there are so many.
        missed: the share of the true pairs, those that are farthest apart, each of which is a
            threshold.
        width: of the soft thresholds, an inner product.

    Returns:
        Scalar, 0 to 1, the mean over the thresholds; 0 if no points are unrelated.
    """
    if not unrelated.any():
        return first.new_zeros(())
    similarity = first @ second.T
    others = similarity[unrelated]
    others = others[:: max(len(others) // 4096, 1)]
    true = similarity.diagonal()
    thresholds = true.topk(max(int(missed * len(true)), 1), largest=False).values
    return torch.sigmoid((others - thresholds[:, None]) / width).mean()


def signs(activations: Tensor) -> Tensor:
    """The code as -1 and 1, without gradient; 0 counts as positive, as in bit = a >= 0."""
    return torch.where(activations.detach() >= 0, 1.0, -1.0).to(activations.dtype)


def soft_sign(activations: Tensor) -> Tensor:
    """Differentiable stand-in for the sign: ``a / (|a| + gamma)``, gamma = 0.001."""
    return activations / (activations.abs() + SOFTNESS)


def distance_matching(f: Tensor, h: Tensor) -> Tensor:
    """Distance matching regulariser (DMR): short codes keep the distances of long ones.

    Zieba et al., "BinGAN", NeurIPS 2018, equation 4: the mean over pairs ``k != j`` of
    ``|b_h,k . b_h,j / M - s_f,k . s_f,j / K|`` with ``b = sign`` and ``s = soft_sign``.

    Args:
        f: ``(N, K)`` float, the low-dimensional layer, N at least 2.
        h: ``(N, M)`` float, the high-dimensional layer; it gets no gradient.

    Returns:
        Scalar, 0 to 2.
    """
    long, short = signs(h), soft_sign(f)
    gap = long @ long.T / h.shape[1] - short @ short.T / f.shape[1]
    return gap.abs()[_pairs(gap)].mean()


def marginal_entropy(f: Tensor) -> Tensor:
    """First part of the binarisation representation entropy (BRE): bits are set half of the time.

    Cao et al., "Improving GAN training via binarized representation entropy (BRE)
    regularization", ICLR 2018, and BinGAN: ``L_ME = mean over k of (batch mean of s_f,k)^2``.

    Args:
        f: ``(N, K)`` float.

    Returns:
        Scalar, 0 to 1.
    """
    return soft_sign(f).mean(0).square().mean()


def activation_correlation(f: Tensor, h: Tensor, beta: float = 2.0) -> Tensor:
    """Second part of the adjusted BRE: different patches get codes that are not correlated.

    BinGAN: ``L_MAC = sum over k != j of alpha_kj |s_f,k . s_f,j| / (Z K)`` with
    ``alpha_kj = exp(-|b_h,k . b_h,j| / (beta M))`` and, as in the authors' program,
    ``Z = N (N - 1)``. The weights spare pairs that look alike.

    Args:
        f: ``(N, K)`` float, N at least 2.
        h: ``(N, M)`` float; it gets no gradient.
        beta: the larger, the more alike the weights.

    Returns:
        Scalar, 0 to 1.
    """
    long, short = signs(h), soft_sign(f)
    weight = torch.exp(-(long @ long.T).abs() / (beta * h.shape[1]))
    product = weight * (short @ short.T).abs() / f.shape[1]
    return product[_pairs(product)].mean()


def residual_maps(first: Tensor, second: Tensor, linear: Tensor) -> Tensor:
    """How two views of a point still differ where each has a frame of its own.

    Args:
        first: ``(N, 2, 2)`` linear parts of the frames in the first view's patches.
        second: the same of the second view.
        linear: ``(N, 2, 2)`` from coordinates of the first patch to those of the second.

    Returns:
        ``(N, 2, 2)`` multiples of ``second^-1 linear first``: of the unit map if the frames agree.
    """
    a, b, c, d = second.flatten(1).unbind(1)
    adjugate = torch.stack([d, -b, -c, a], 1).unflatten(1, (2, 2))
    return adjugate @ linear @ first


def turn_loss(residual: Tensor) -> Tensor:
    """``(N, 2, 2)`` residual maps to ``(N,)`` costs of their rotations.

    A rotation by an angle costs ``1 - cos(angle)``, at most 1.2, so that points that have no
    orientation do not count for much.
    """
    return (1 - turn_cosine(residual)).clamp(max=1.2)


def stretch_loss(residual: Tensor) -> Tensor:
    """``(N, 2, 2)`` residual maps to ``(N,)`` costs of their shapes.

    Turns and sizes are free. With the map divided to determinant 1 and its singular values s and
    1 / s, it costs ``(s - 1 / s)^2``, at most 1.
    """
    size = torch.linalg.det(residual).clamp_min(1e-6)
    return (residual.square().sum((1, 2)) / size - 2).clamp(max=1)


def turn_cosine(linear: Tensor) -> Tensor:
    """``(N,)`` cosine of the angle by which ``(N, 2, 2)`` maps turn."""
    a, b, c, d = linear.flatten(1).unbind(1)
    return (a + d) / torch.hypot(a + d, c - b).clamp_min(1e-6)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Two-class loss of a discriminator with K logits and an implied class "generated".

    Salimans et al., "Improved techniques for training GANs", NeurIPS 2016, section 5, the
    unsupervised part. With ``l = logsumexp(logits)``, the probability of "real" is ``sigmoid(l)``:
    ``L = -E[l(real)] / 2 + E[softplus(l(real))] / 2 + E[softplus(l(fake))] / 2``.

    Args:
        real: ``(N, C)`` logits of data.
        fake: ``(N, C)`` logits of generated images.

    Returns:
        Scalar, at least 0.
    """
    on_real, on_fake = torch.logsumexp(real, 1), torch.logsumexp(fake, 1)
    return (F.softplus(on_real) - on_real).mean() / 2 + F.softplus(on_fake).mean() / 2


def feature_matching(real: Tensor, fake: Tensor) -> Tensor:
    """The generator's loss: generated images have the same mean features as data.

    Salimans et al. 2016, section 3.1: ``|E[real] - E[fake]|^2``, here divided by the number of
    features.

    Args:
        real: ``(N, P)`` features of data.
        fake: ``(N, P)`` features of generated images.

    Returns:
        Scalar, at least 0.
    """
    return (real.mean(0) - fake.mean(0)).square().mean()


def _pairs(matrix: Tensor) -> Tensor:
    """``(N, N)`` bool: everything but the diagonal."""
    return ~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)


def normalised_cross_entropy(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent: of all views in the batch, each is nearest to the other view of its own image.

    Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020,
    equation 1. On relaxed bits: Qiu et al., "Unsupervised hashing with contrastive information
    bottleneck", IJCAI 2021.

    Args:
        first: ``(N, K)`` unit rows; row i shows the same image as row i of ``second``.
        second: ``(N, K)`` unit rows.
        temperature: divides the inner products; the lower, the more the nearest others count.

    Returns:
        Scalar, at least 0.
    """
    views = torch.cat([first, second])
    logits = views @ views.T / temperature
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool), float("-inf"))
    other = torch.arange(len(views)).roll(len(first))
    return F.cross_entropy(logits, other)
