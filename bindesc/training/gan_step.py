"""One training step of BinGAN: the discriminator with its regularisers, then the generator.

Zieba et al., "BinGAN: Learning Compact Binary Descriptors with a Regularized GAN", NeurIPS 2018.
The regularisers act on the data, not on generated images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.bingan import NOISE, BinGanConfig, Generator, PatchDiscriminator
from ..models.retrieval import RetrievalConfig, RetrievalDiscriminator
from ..models.weight_norm import initialise_from_data
from .distributed import Ranks, join_batch_norms
from .losses import (
    activation_correlation,
    discriminator_loss,
    distance_matching,
    feature_matching,
    marginal_entropy,
)

Discriminator = PatchDiscriminator | RetrievalDiscriminator


@dataclass(frozen=True)
class GanConfig:
    """How BinGAN is trained; the defaults are the published ones.

    Attributes:
        model: the discriminator, for patches or for whole images.
        generator_width: channels of the generator at 4x4 pixels.
        batch: patches in a batch of data, and in one of generated images.
        learning_rate: of Adam, constant.
        beta1: of Adam.
        lambda_dmr: weight of the distance matching regulariser; 0 leaves it out.
        lambda_bre: weight of the binarisation representation entropy; 0 leaves it out.
        bfloat16: compute convolutions in bfloat16; weights and losses stay float32. Takes less
            memory; faster on some processors, and on GPUs with large batches.
        seed: of the weights, the batches, the noise and the dropout.
    """

    model: BinGanConfig | RetrievalConfig = field(default_factory=BinGanConfig)
    generator_width: int = 512
    batch: int = 25
    learning_rate: float = 3e-4
    beta1: float = 0.5
    lambda_dmr: float = 0.05
    lambda_bre: float = 0.01
    bfloat16: bool = False
    seed: int = 0


class Gan:
    """Both networks with their optimisers, and one step of each.

    Args:
        config: see :class:`GanConfig`.
        device: a torch device.
        ranks: the processes that train together; each is given its share of every batch.
    """

    def __init__(self, config: GanConfig, device: str = "cpu", ranks: Ranks | None = None):
        self.config = config
        self.ranks = ranks or Ranks()
        self.device = torch.device(device)
        torch.manual_seed(config.seed)
        self.discriminator = _build_discriminator(config.model)
        self.generator = Generator(config.model.inputs, config.generator_width)
        join_batch_norms(self.generator.layers, self.ranks)
        for network in (self.discriminator, self.generator):
            network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

        def adam(network: nn.Module) -> torch.optim.Adam:
            betas = (config.beta1, 0.999)
            return torch.optim.Adam(network.parameters(), config.learning_rate, betas)

        self.discriminator_adam = adam(self.discriminator)
        self.generator_adam = adam(self.generator)

    def discriminator_step(self, patches: NDArray[np.uint8]) -> dict[str, float]:
        """One step of the discriminator on a batch of data; returns the parts of its loss."""
        config, count = self.config, len(patches)
        with torch.no_grad():
            generated = self.generate(self._noise(count))
        with self.ranks.dropout(), self._autocast():
            out = self.discriminator.layers(torch.cat([self.to_images(patches), generated]))
        f, h = self.ranks.gather(out.f[:count]), self.ranks.gather(out.h[:count].detach().float())
        parts = {
            "D": discriminator_loss(out.logits[:count], out.logits[count:]),
            "DMR": distance_matching(f, h),
            "ME": marginal_entropy(f),
            "MAC": activation_correlation(f, h),
        }
        loss = parts["D"] + config.lambda_dmr * parts["DMR"]
        loss = loss + config.lambda_bre * (parts["ME"] + parts["MAC"])
        self._descend(loss, self.discriminator, self.discriminator_adam)
        means = self.ranks.mean(torch.stack(list(parts.values())))
        return dict(zip(parts, means.tolist(), strict=True))

    def generator_step(self, patches: NDArray[np.uint8]) -> dict[str, float]:
        """One step of the generator on a batch of data; returns its loss."""
        self.discriminator.requires_grad_(False)
        generated = self.generate(self._noise(len(patches)))
        with self.ranks.dropout(), self._autocast():
            with torch.no_grad():
                real = self.discriminator.layers(self.to_images(patches)).penultimate
            fake = self.discriminator.layers(generated).penultimate
        loss = feature_matching(self.ranks.gather(real), self.ranks.gather(fake))
        self._descend(loss, self.generator, self.generator_adam)
        self.discriminator.requires_grad_(True)
        return {"G": loss.item()}

    def initialise(self, patches: NDArray[np.uint8], *, discriminator: bool | nn.Module) -> None:
        """Set gains and biases from data, of the generator and, on demand, the discriminator.

        Args:
            patches: see :meth:`to_images`; the same on all ranks.
            discriminator: whether the whole of it, or a module with those of its layers.
        """
        noise = torch.rand(len(patches), NOISE)
        initialise_from_data(self.generator, lambda: self.generate(noise))
        if discriminator:
            images = self.to_images(patches)
            layers = self.discriminator if discriminator is True else discriminator
            initialise_from_data(layers, lambda: self.discriminator.layers(images))
        self.ranks.broadcast(self.generator)
        self.ranks.broadcast(self.discriminator)

    def generate(self, noise: Tensor) -> Tensor:
        """``(N, C, 32, 32)`` images from ``(N, 100)`` noise, -1 to 1."""
        with self._autocast():
            images = self.generator(noise.to(self.device)).float()
        return images.contiguous(memory_format=torch.channels_last)

    def to_images(self, patches: NDArray[np.uint8]) -> Tensor:
        """``(N, 32, 32)`` or ``(N, 32, 32, 3)`` uint8 to ``(N, C, 32, 32)`` float, -1 to 1."""
        channels = patches.reshape(*patches.shape[:3], -1)
        images = torch.from_numpy(channels).to(self.device).permute(0, 3, 1, 2).float()
        images = self.discriminator.to_images(images)
        return images.contiguous(memory_format=torch.channels_last)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for the data."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "generator": self.generator.state_dict(),
            "discriminator_adam": self.discriminator_adam.state_dict(),
            "generator_adam": self.generator_adam.state_dict(),
            "random": torch.get_rng_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what :meth:`state` returned."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.generator.load_state_dict(state["generator"])
        self.discriminator_adam.load_state_dict(state["discriminator_adam"])
        self.generator_adam.load_state_dict(state["generator_adam"])
        torch.set_rng_state(state["random"])

    def _noise(self, count: int) -> Tensor:
        """This rank's share of the joint batch's noise."""
        return self.ranks.share(torch.rand(self.ranks.count * count, NOISE))

    def _descend(self, loss: Tensor, network: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.ranks.average_gradients(network)
        optimiser.step()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)


def _build_discriminator(config: BinGanConfig | RetrievalConfig) -> Discriminator:
    if isinstance(config, RetrievalConfig):
        return RetrievalDiscriminator(config)
    return PatchDiscriminator(config)
