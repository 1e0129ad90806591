"""An orientation network learns its own steadier turns, from patches without labels.

How it turns a patch depends on where the patch happens to lie on its grid: half the columns go when
the patch is halved, half of those by a stride. The mean over several positions, and over the patch
turned over, depends on that far less, and a second look at the adapted patch corrects the first
turn. A network that has learnt to turn so at one look does it at no cost. How it stretches patches
stays as it was: the codes have learnt with that.

After Radosavovic et al., "Data distillation: towards omni-supervised learning", CVPR 2018.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..log_polar import DIRECTIONS
from ..models.compact import CompactNet
from ..models.integer import ORIENTATION_OUTPUTS
from ..models.orientation import OrientationNet, adapt_patches, frames, rotations
from ..weights import load_model, save_model
from .descent import descend
from .metric import WEIGHTS, calibration_patches, split_groups
from .pairs import PairSet, open_pairs
from .run import Run
from .validation import validate

_POSITIONS = 4  # columns that become one, halved and by the stride of 2
_MOST_MOVED = 2  # columns; the detector's orientation is off by no more than that for most points
_CHUNK = 1000  # patches at once


@dataclass(frozen=True)
class SelfTeachingConfig:
    """How an orientation network is taught by itself.

    Attributes:
        steps: optimiser steps; the learning rate falls to zero over them.
        batch: patches a step.
        patches: most patches of the set that are used.
        learning_rate: highest learning rate, of Adam.
        warmup: steps over which it rises to that.
        weight_decay: decoupled weight decay.
        stretch_weight: of the squared differences from the stretches as they were.
        held_out_every: one photo in so many is kept for validation, one at least.
        seed: of the choice of patches and of the batches.
    """

    steps: int = 5000
    batch: int = 1024
    patches: int = 120_000
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    stretch_weight: float = 10.0
    held_out_every: int = 16
    seed: int = 0


def train(
    data_folder: Path,
    output: Path,
    config: SelfTeachingConfig,
    *,
    initial: str,
    resume: bool = False,
    device: str = "cpu",
    command: str = "",
) -> dict[str, float]:
    """Teach a model's orientation network and write ``model.safetensors`` into ``output``.

    Args:
        data_folder: what ``bindesc patches build --model`` made.
        output: folder of the run.
        config: see :class:`SelfTeachingConfig`; a resumed run must be given the same.
        initial: name or path of the model, which is its own teacher; the same in a resumed run.
        resume: go on from the checkpoint in ``output``.
        device: a torch device.
        command: the command line, for the model's manifest.

    Returns:
        The last validation, see :func:`bindesc.training.validation.validate`.

    Raises:
        FileNotFoundError, FileExistsError: see :func:`open_pairs` and :class:`Run`.
        ValueError: the model has no orientation network, the set does not hold what one sees or
            has one photo only, or the checkpoint is of another configuration or model.
        FloatingPointError: the loss is not finite; the last checkpoint stays.
    """
    model = load_model(initial)[0]
    if not isinstance(model, CompactNet) or model.orientation is None:
        raise ValueError(f"{initial}: has no orientation network")
    data = open_pairs(data_folder)
    if data.seen_by is None:
        raise ValueError(f"{data_folder}: needs a set that was made with --model")
    training, held_out = split_groups(data, config.held_out_every)
    if not (len(training) and len(held_out)):
        raise ValueError(f"{data_folder}: needs two photos at least, to hold one out")
    settings = {**asdict(config), "initial": initial}  # the teacher must stay the same too
    with Run(output, resume=resume) as run:
        state = run.load(settings) if resume else None
        model.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        network = model.orientation
        teacher = copy.deepcopy(network).eval().requires_grad_(False)
        patches = _choose(data, training, config)
        turns = _turns(teacher, patches)

        def loss(step: int) -> Tensor:
            drawn, wanted = draw_patches(patches, turns, config, step)
            seen = drawn.to(device).float()
            return answer_loss(
                network(seen), wanted.to(device), teacher(seen), config.stretch_weight
            )

        scores = descend(
            run,
            network,
            loss,
            steps=config.steps,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            config=settings,
            state=state,
            validate=lambda: validate(model, data, held_out),
        )
        calibration = calibration_patches(model, data, training)
        save_model(output / WEIGHTS, model, command=command, calibration=calibration)
        return scores


@torch.no_grad()
def steady_outputs(network: OrientationNet, patches: Tensor) -> Tensor:
    """An orientation network's outputs ``(N, 4)``, the mean of eight looks.

    At log-polar patches ``(N, 1, 32, 32)`` float, at four positions, as they are and turned over.
    The detector's orientation counts as often as the network's own.
    """
    trust = F.pad(network.trust, (0, ORIENTATION_OUTPUTS - 1))
    total = torch.zeros(len(patches), ORIENTATION_OUTPUTS, device=patches.device)
    for columns in range(_POSITIONS):
        total += _move(network(patches.roll(columns, 3)) - trust, -columns)
        mirrored = network(patches.flip(3).roll(columns, 3)) - trust
        total += _turn_over(_move(mirrored, -columns))
    return total / (2 * _POSITIONS) + trust


@torch.no_grad()
def steady_turns(network: OrientationNet, patches: Tensor) -> Tensor:
    """Where the network is to turn log-polar patches, ``(N, 1, 32, 32)`` float: ``(N, 2)``.

    The mean directions, turned on by those of a second look, which sees the patches adapted.
    """
    first = steady_outputs(network, patches)
    second = steady_outputs(network, adapt_patches(patches, frames(first)).round())
    return (rotations(second[:, :2]) @ first[:, :2, None])[:, :, 0]


def answer_loss(given: Tensor, turns: Tensor, before: Tensor, stretch_weight: float) -> Tensor:
    """How far outputs ``(N, 4)`` turn otherwise than wanted, and stretch otherwise than before.

    Args:
        given: ``(N, 4)`` outputs.
        turns: ``(N, 2)`` wanted directions, of any length.
        before: ``(N, 4)`` outputs whose stretches are to stay.
        stretch_weight: see :class:`SelfTeachingConfig`.

    Returns:
        Scalar. A difference of directions by an angle costs ``1 - cos(angle)``, at most 1.2; one
        of stretches, as shares of the outputs' length, its square times the weight.
    """
    cosine = F.cosine_similarity(given[:, :2], turns)
    bent = (F.normalize(given, dim=1) - F.normalize(before, dim=1))[:, 2:]
    return ((1 - cosine).clamp(max=1.2) + stretch_weight * bent.square().sum(1)).mean()


def draw_patches(
    patches: Tensor, turns: Tensor, config: SelfTeachingConfig, step: int
) -> tuple[Tensor, Tensor]:
    """The batch of one step: ``(B, 1, 32, 32)`` uint8 and ``(B, 2)`` turns.

    Half of the batches are turned over, and all moved by up to two columns; the turns go along. A
    function of the seed and the step alone.
    """
    rng = np.random.default_rng([config.seed, step])
    rows = torch.from_numpy(rng.integers(len(patches), size=config.batch))
    columns = int(rng.integers(-_MOST_MOVED, _MOST_MOVED + 1))
    seen, wanted = patches[rows], turns[rows]
    if rng.random() < 0.5:
        seen, wanted = seen.flip(3), _turn_over(wanted)
    return seen.roll(columns, 3), _move(wanted, columns)


def _choose(data: PairSet, groups: NDArray[np.intp], config: SelfTeachingConfig) -> Tensor:
    """``(N, 1, 32, 32)`` uint8: both patches of pairs drawn at random."""
    rng = np.random.default_rng([config.seed])
    chosen = np.sort(rng.permutation(data.rows(groups))[: max(config.patches // 2, 1)])
    return torch.from_numpy(data.patches[chosen]).flatten(0, 1)[:, None]


def _turns(network: OrientationNet, patches: Tensor) -> Tensor:
    device = network.trust.device
    parts = tqdm(patches.split(_CHUNK), desc="turns", dynamic_ncols=True)
    return torch.cat([steady_turns(network, part.to(device).float()).cpu() for part in parts])


def _move(outputs: Tensor, columns: int) -> Tensor:
    """Outputs, or directions alone, of patches whose columns are moved on by so many.

    Stretches turn twice as far.
    """
    parts = []
    for times, part in enumerate(outputs.split(2, dim=1), 1):
        angle = times * columns * 2 * math.pi / DIRECTIONS
        cosine, sine = math.cos(angle), math.sin(angle)
        parts.append(part @ part.new_tensor([[cosine, sine], [-sine, cosine]]))
    return torch.cat(parts, 1)


def _turn_over(outputs: Tensor) -> Tensor:
    """Outputs, or directions alone, of patches that are turned over, top to bottom."""
    signs = outputs.new_tensor([1, -1])
    return outputs * signs.repeat(outputs.shape[1] // 2)
