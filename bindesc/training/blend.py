"""Weights between those that a training began with and those that it ended with.

They keep more of what the first ones knew of other data, and often are the better ones on both:
Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn


@torch.no_grad()
def blend(
    model: nn.Module,
    initial: Mapping[str, Tensor],
    share: float,
    forward: Callable[[int], object],
    batches: int = 40,
) -> None:
    """Replace a model's weights by a mean of them and of others.

    The statistics of batch normalisation, of which there is no mean, are taken anew (Izmailov et
    al., "Averaging weights leads to wider optima and better generalization", UAI 2018).

    Args:
        model: a network or a part of one, whose weights are changed; it is left in training mode.
        initial: the other weights, a state of such a model.
        share: of them, 0 to 1.
        forward: runs all of the model on a batch, by its number.
        batches: how many batches the statistics are taken from.
    """
    for name, value in model.named_parameters():
        value.lerp_(initial[name], share)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    model.train()
    for batch in range(batches):
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
