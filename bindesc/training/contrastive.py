"""Contrastive learning of image codes: two views of an image get codes that are alike.

Chen et al., "A simple framework for contrastive learning of visual representations" (SimCLR), ICML
2020, on relaxed bits as in Qiu et al., "Unsupervised hashing with contrastive information
bottleneck", IJCAI 2021. One trunk serves codes of several lengths, which are learned together.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..models.compact_retrieval import CompactRetrievalConfig, CompactRetrievalNet
from ..weights import SUFFIX, list_models, load_weights, save_model
from .descent import descend
from .image_views import random_views
from .losses import normalised_cross_entropy, relax_bits
from .run import Run

NAME = "images"
_CALIBRATION = 4096  # images that set the thresholds of the bits


@dataclass(frozen=True)
class ContrastiveConfig:
    """How image codes are trained.

    Attributes:
        model: the network; its ``bits`` are those of the longest code.
        lengths: of the codes, bits.
        epochs: passes over the images; the learning rate falls to zero over them.
        batch: images in a step, each in two views.
        learning_rate: highest learning rate, of AdamW.
        warmup: steps over which it rises to that, but at most a tenth of all.
        weight_decay: decoupled weight decay.
        temperature: of the loss.
        sharpness: of the relaxed bits.
        seed: of the weights, the order of the images and the views.
    """

    model: CompactRetrievalConfig = field(default_factory=CompactRetrievalConfig)
    lengths: tuple[int, ...] = (16, 32, 64)
    epochs: int = 24
    batch: int = 256
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    temperature: float = 0.3
    sharpness: float = 1.0
    seed: int = 0


class JointNetwork(nn.Module):
    """A network for each length of code, all with one trunk."""

    def __init__(self, config: ContrastiveConfig):
        super().__init__()
        first, *others = (replace(config.model, bits=bits) for bits in config.lengths)
        self.first = CompactRetrievalNet(first)
        self.others = nn.ModuleList(
            CompactRetrievalNet(other, self.first.trunk) for other in others
        )

    @property
    def networks(self) -> list[CompactRetrievalNet]:
        """One for each length."""
        return [self.first, *cast("list[CompactRetrievalNet]", list(self.others))]

    def forward(self, images: Tensor) -> list[Tensor]:
        """``(N, 3, 32, 32)``, 0 to 255, to activations ``(N, bits)`` for each length."""
        features = self.first.trunk(self.first.to_images(images))
        return [network.head(features) for network in self.networks]


def model_file(prefix: str | Path, bits: int) -> str:
    """The shipped model or the file that ``images`` or ``RUN/images`` names for a length."""
    name = f"{prefix}-{bits}"
    return name if name in list_models() else name + SUFFIX


def draw_batch(images: NDArray[np.uint8], config: ContrastiveConfig, step: int) -> Tensor:
    """Two views of each image of a step, a function of the seed and the step alone.

    Args:
        images: ``(N, 32, 32, 3)`` uint8, at least ``config.batch`` of them.
        config: of the run.
        step: from 0.

    Returns:
        ``(2 * batch, 3, 32, 32)`` float, 0 to 255: all first views, then all second ones.
    """
    epoch, place = divmod(step, len(images) // config.batch)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(images))
    chosen = images[order[place * config.batch :][: config.batch]]
    batch = torch.from_numpy(chosen).permute(0, 3, 1, 2).float()
    rng = np.random.default_rng([config.seed, epoch, place])
    views = random_views(rng, torch.cat([batch, batch]))
    return views.contiguous(memory_format=torch.channels_last)


def train(
    images: NDArray[np.uint8],
    output: Path,
    config: ContrastiveConfig,
    *,
    resume: bool = False,
    initial: str | None = None,
    command: str = "",
) -> dict[str, float]:
    """Train codes of all lengths and write ``images-16.safetensors`` and so on into ``output``.

    Args:
        images: ``(N, 32, 32, 3)`` uint8, RGB.
        output: folder of the run.
        config: a resumed run must be given the same.
        resume: go on from the checkpoint in ``output``.
        initial: models to start from: ``images``, the shipped ones, or ``RUN/images``.
        command: the command line, for the models' manifests.

    Returns:
        The last loss, a running mean.

    Raises:
        FileNotFoundError, FileExistsError: see :class:`Run`.
        ValueError: too few images, or the checkpoint is of another configuration.
        WeightsError: ``initial`` cannot be used.
        FloatingPointError: the loss is not finite; the last checkpoint stays.
    """
    if len(images) < config.batch:
        raise ValueError(
            f"images: {len(images)} are fewer than the batch of {config.batch}; make that smaller"
        )
    steps = config.epochs * (len(images) // config.batch)
    with Run(output, resume=resume, seconds_between_saves=180) as run:
        torch.manual_seed(config.seed)
        model = JointNetwork(config)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if initial is not None:
            for network in model.networks:
                load_weights(network, model_file(initial, network.config.bits))
        state = run.load(asdict(config)) if resume else None
        descend(
            run,
            model,
            lambda step: _loss(model, draw_batch(images, config, step), config),
            steps=steps,
            learning_rate=config.learning_rate,
            warmup=min(config.warmup, steps // 10),
            weight_decay=config.weight_decay,
            config=asdict(config),
            state=state,
        )
        set_thresholds(model, images)
        for network in model.networks:
            name = f"{NAME}-{network.config.bits}"
            save_model(output / (name + SUFFIX), network, command=command)
        lines = run.read_log()
        return {"loss": lines[-1]["loss"]} if lines else {}


def _loss(model: JointNetwork, views: Tensor, config: ContrastiveConfig) -> Tensor:
    """The mean over the lengths."""
    losses = []
    for activations in model(views):
        first, second = relax_bits(activations, config.sharpness).chunk(2)
        losses.append(normalised_cross_entropy(first, second, config.temperature))
    return torch.stack(losses).mean()


@torch.no_grad()
def set_thresholds(model: nn.Module, images: NDArray[np.uint8]) -> None:
    """Take the statistics of all normalisations anew, over whole images in place of views."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
    chosen = torch.from_numpy(images[:: max(len(images) // _CALIBRATION, 1)])
    for part in chosen.tensor_split(math.ceil(len(chosen) / 512)):  # of equal size: equal weight
        model(part.permute(0, 3, 1, 2).float())
