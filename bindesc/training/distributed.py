"""Several processes that train one network together, started by ``torchrun``.

Each rank computes its share of a joint batch. Whatever depends on the batch as a whole
(regularisers, feature matching, batch normalisation) is computed from the values of all ranks, and
gradients are averaged over them, so that N ranks take the same step as one process with the joint
batch. Only dropout differs: every rank draws its own. All other random numbers are the same on all
ranks, and only rank 0 writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Rows = TypeVar("Rows", bound=Any)


class Ranks:
    """The processes that train together.

    Attributes:
        rank: number of this one; 0 writes.
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1):
        self.rank, self.count = rank, count

    def share(self, rows: Rows) -> Rows:
        """This rank's part of the rows of a joint batch, an array or a tensor."""
        length = len(rows) // self.count
        return rows[self.rank * length : (self.rank + 1) * length]

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, in the order of ranks; gradients flow back to each."""
        return rows if self.count == 1 else _Gather.apply(rows, self)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, without gradient."""
        return values if self.count == 1 else self._sum(values.detach()) / self.count

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set on any rank."""
        return flag if self.count == 1 else bool(self._sum(torch.tensor(float(flag)).to(device)))

    def average_gradients(self, network: nn.Module) -> None:
        """Put the mean of the ranks' gradients in place of each."""
        if self.count == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = self._sum(torch.cat([g.flatten() for g in gradients])) / self.count
        sizes = [g.numel() for g in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def broadcast(self, network: nn.Module) -> None:
        """Give every rank the weights of rank 0."""
        if self.count > 1:
            for value in network.state_dict().values():
                dist.broadcast(value, 0)

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def dropout(self) -> Iterator[None]:
        """Inside, random numbers are this rank's own; the state outside stays the same on all.

        They are seeded from the CPU's random state, which a checkpoint holds, so that dropout on a
        GPU can be resumed too.
        """
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + self.rank)
            yield

    def _sum(self, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total


class _Gather(torch.autograd.Function):
    """Concatenation over the ranks; its gradient is the sum of what all ranks send back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(ranks.count)]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.share(ctx.ranks._sum(gradients[0].contiguous())), None


class JointBatchNorm(_BatchNorm):
    """Batch normalisation over the joint batch, on any device.

    Args:
        channels: of the images or features.
        ranks: who share the batch.
    """

    def __init__(self, channels: int, ranks: Ranks):
        super().__init__(channels)
        self.ranks = ranks

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        """``(N, C, ...)``, the share of this rank, in and out."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        moments = torch.stack([values.mean(axes), values.square().mean(axes)])
        mean, square = self.ranks.gather(moments[None]).mean(0)
        variance = (square - mean.square()).clamp_min(0)
        self._follow(mean.detach(), variance.detach(), values.numel() // input.shape[1])
        scale = self.weight / (variance + self.eps).sqrt()
        shift = self.bias - mean * scale
        return (values * scale.view(shape) + shift.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics, with the unbiased variance as torch has it."""
        joint = count * self.ranks.count
        momentum = self.momentum or 0.0
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * joint / (joint - 1), momentum)
        self.num_batches_tracked += 1


def join_batch_norms(network: nn.Sequential, ranks: Ranks) -> None:
    """Replace the batch normalisations of a network by joint ones; state names stay the same."""
    for name, layer in network.named_children():
        if ranks.count > 1 and isinstance(layer, _BatchNorm):
            joint = JointBatchNorm(layer.num_features, ranks)
            joint.load_state_dict(layer.state_dict())
            setattr(network, name, joint)


@contextmanager
def join(device: str) -> Iterator[tuple[Ranks, str]]:
    """Meet the other processes that ``torchrun`` has started; alone without it.

    Args:
        device: ``"cpu"`` (gloo), or ``"cuda"``, of which each rank takes its own (nccl).

    Yields:
        The ranks, and the device of this one.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(), device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Ranks(dist.get_rank(), count), device
    finally:
        dist.destroy_process_group()
