"""Metric learning of the compact network: which points of a batch belong together, by relaxed bits.

The orientation network, where there is one, learns from the same loss, through how patches are
turned and stretched, and from the known map between the two views.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from operator import ge
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..log_polar import REACH
from ..models.compact import CompactConfig, CompactNet
from ..models.integer import CODES, ORIENTATION
from ..models.orientation import adapt_patches, rotations
from ..models.orientation import frames as to_frames
from ..weights import load_model, load_weights, read_model, save_model
from .blend import blend
from .descent import descend
from .frames import cut_again, cut_for
from .losses import (
    false_positives,
    hardest_triplet,
    missed_matches,
    relax_bits,
    residual_maps,
    stretch_loss,
    turn_cosine,
    turn_loss,
)
from .noise import FrameNoise, draw_frames
from .pairs import PairSet, open_pairs
from .precision import autocast
from .run import Run
from .validation import validate

WEIGHTS = "model.safetensors"
_CALIBRATION = 1024  # patches that show how large activations get


@dataclass(frozen=True)
class MetricConfig:
    """How the compact network is trained.

    Attributes:
        model: the network.
        steps: optimiser steps; the learning rate falls to zero over them.
        photos: photos in a batch.
        pairs: pairs of patches from each; hard negatives come from the same photo.
        learning_rate: highest learning rate, of Adam.
        warmup: steps over which it rises to that.
        weight_decay: decoupled weight decay.
        loss: ``"triplet"``, the hardest in the batch, or ``"matches"``, which asks for mutual
            nearest neighbours, for a network that is trained already.
        margin: of the triplet loss, see :meth:`Batch.margins`.
        near: how far two points are apart for more than half of the margin: their distance over
            the side of the patch, and the logarithm of the ratio of their sizes.
        false_positive_weight: in the loss of matches, of :func:`false_positives` among points whose
            keypoints have the same angle and size in both views, but for ``false_positive_noise``.
        false_positive_noise: of those keypoints.
        sharpness: of the relaxed bits at the start and at the end; linear in between.
        orientation_weight: of the orientation network's own loss, :func:`turn_loss`.
        stretch_weight: in that loss, of :func:`stretch_loss`.
        most_turn: pairs whose detector's orientations differ by more, degrees, have that loss only.
        noise: added to the keypoints.
        initial_share: of the weights that the run starts from in the mean with the trained ones,
            which is kept in their place.
        held_out_every: one photo in so many is kept for validation, one at least.
        seed: of the weights and of the batches.
    """

    model: CompactConfig = field(default_factory=CompactConfig)
    steps: int = 4000
    photos: int = 4
    pairs: int = 128
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 1e-4
    loss: Literal["triplet", "matches"] = "triplet"
    margin: float = 1.0
    near: tuple[float, float] = (0.08, 0.15)
    false_positive_weight: float = 3.0
    false_positive_noise: FrameNoise = field(
        default_factory=lambda: FrameNoise(share=1, offset=0.026)
    )
    sharpness: tuple[float, float] = (1.0, 2.0)
    orientation_weight: float = 0.3
    stretch_weight: float = 3.0
    most_turn: float = 60.0
    noise: FrameNoise = field(default_factory=FrameNoise)
    initial_share: float = 0.0
    held_out_every: int = 16
    seed: int = 0


def split_groups(data: PairSet, held_out_every: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Groups for training and for validation.

    Some photos are held out: the groups made of one of them alone are for validation, and no group
    for training shows any of them.
    """
    photos = np.unique(data.photo)
    every = min(held_out_every, len(photos))
    held_out = photos[np.arange(len(photos)) % every == every - 1]
    first, second = np.isin(data.photo, held_out), np.isin(data.partner, held_out)
    return np.flatnonzero(~first & ~second), np.flatnonzero(first & (data.partner == ""))


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        row: ``(N,)`` int64, which pairs of the set.
        group: ``(N,)`` int64, the two views that each is of.
        scene: ``(N,)`` int64, a number for the place.
        xy: ``(N, 2)`` float32, where the points are in the first view, pixels.
        side: ``(N,)`` float32, side of the detector's patch there, pixels.
        mirrored: ``(N,)`` bool, whether the patches are turned over, top to bottom, so that the
            detector's orientation still points to the right; half of the pairs.
        linear: ``(N, 2, 2)`` float32, see :class:`bindesc.training.pairs.Pairs`.
        detected: ``(N,)`` bool, whether a detector gave both keypoints their angles.
        frames: ``(N, 2, 2, 3)`` float32, where keypoints are put in the patches.
        moved: ``(N, 2, 2, 3)`` float32, frames of keypoints with errors, for those that agree.
    """

    row: Tensor
    group: Tensor
    scene: Tensor
    xy: Tensor
    side: Tensor
    mirrored: Tensor
    linear: Tensor
    detected: Tensor
    frames: Tensor
    moved: Tensor

    def negative(self) -> Tensor:
        """``(N, N)`` bool, which may be negatives.

        Other keypoints of the same two views, or those of other places.
        """
        same_row = self.row[:, None] == self.row
        return torch.where(self._same_view(), ~same_row, self.unrelated())

    def unrelated(self) -> Tensor:
        """``(N, N)`` bool, which points are of different places."""
        return self.scene[:, None] != self.scene

    def margins(self, full: float, near: tuple[float, float]) -> Tensor:
        """``(N, N)`` float32, by how much farther than its partner each other point has to be.

        Less for points of the same photo that lie near to each other, as a corner found at two
        scales: ``full (1 - exp(-d^2 / 2))`` with ``d`` their distance and the logarithm of the
        ratio of their sizes in units of ``near``. So codes tell them apart, but need not be as
        unlike as those of different places, which leaves them tolerant of a detector's errors.
        """
        side = (self.side[:, None] * self.side).sqrt()
        offset = (self.xy[:, None] - self.xy).norm(dim=2) / side
        ratio = (self.side[:, None] / self.side).log()
        squared = (offset / near[0]).square() + (ratio / near[1]).square()
        return full * (1 - self._same_view() * torch.exp(-squared / 2))

    def patches(self, source: PatchSource) -> Tensor:
        """``(N, 2, S, S)`` uint8."""
        patches = source.take(self.row)
        # The directions of a log-polar patch stand in a row, turned by half from left to left.
        turned_over = patches.flip(3 if source.log_polar else 2)
        return torch.where(self.mirrored[:, None, None, None], turned_over, patches)

    def _same_view(self) -> Tensor:
        return self.group[:, None] == self.group


class PatchSource:
    """The patches of a set for a device: a GPU's memory holds all of them, if they fit.

    Args:
        data: the set.
        device: where patches are taken to.

    Attributes:
        seen: the patches are what the network sees, and not wide ones.
        log_polar: they are log-polar.
    """

    def __init__(self, data: PairSet, device: torch.device):
        self.seen = data.seen_by is not None
        self.log_polar = data.seen_by is not None and read_model(data.seen_by)[0].log_polar
        self._all: NDArray[np.uint8] | Tensor = data.patches
        self.device = device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if data.patches.nbytes < free // 2:
                self._all = torch.from_numpy(np.array(data.patches)).to(device)

    def take(self, rows: Tensor) -> Tensor:
        """``(N, 2, S, S)`` uint8 of ``(N,)`` int64 rows, on the device."""
        if isinstance(self._all, Tensor):
            return self._all[rows]
        return torch.from_numpy(self._all[rows.cpu().numpy()]).to(self.device)


def draw_batch(data: PairSet, groups: NDArray[np.intp], config: MetricConfig, step: int) -> Batch:
    """The batch of one step, a function of the seed and the step alone."""
    rng = np.random.default_rng([config.seed, step])
    chosen = rng.choice(groups, config.photos, replace=len(groups) < config.photos)
    rows = [
        np.sort(rng.integers(data.start[g], data.end[g], config.pairs))
        if data.end[g] - data.start[g] < config.pairs
        else np.sort(rng.choice(np.arange(data.start[g], data.end[g]), config.pairs, replace=False))
        for g in chosen
    ]
    row = np.concatenate(rows)
    group = np.repeat(chosen, config.pairs)
    _, scene = np.unique(data.scene[chosen], return_inverse=True)
    mirrored = rng.random(len(row)) < 0.5
    linear = data.linear[row]
    linear[mirrored] *= np.array([[1, -1], [-1, 1]], np.float32)
    frames = draw_frames(rng, config.noise, config.photos, config.pairs)
    place = np.repeat(scene, config.pairs), data.xy[row], data.side[row]
    detected = np.repeat(~data.carried[chosen], config.pairs)
    moved = draw_frames(rng, config.false_positive_noise, config.photos, config.pairs)
    arrays = row, group, *place, mirrored, linear, detected, frames, moved
    return Batch(*(torch.from_numpy(array) for array in arrays))


def train(
    data_folder: Path,
    output: Path,
    config: MetricConfig,
    *,
    resume: bool = False,
    initial: str | None = None,
    device: str = "cpu",
    command: str = "",
) -> dict[str, float]:
    """Train a compact network on a set of pairs and write ``model.safetensors`` into ``output``.

    Args:
        data_folder: what ``bindesc patches build`` made.
        output: folder of the run.
        config: see :class:`MetricConfig`; a resumed run must be given the same.
        resume: go on from the checkpoint in ``output``.
        initial: name or path of a model to start from.
        device: a torch device.
        command: the command line, for the model's manifest.

    Returns:
        The last validation.

    Raises:
        FileNotFoundError, FileExistsError: see :func:`open_pairs` and :class:`Run`.
        ValueError: the checkpoint or ``initial`` is of another configuration, the set does not go
            with this one, or there is no ``initial`` to have a share.
        FloatingPointError: the loss is not finite; the last checkpoint stays.
    """
    if config.initial_share and initial is None:
        raise ValueError("initial share: there is no model to start from")
    data = open_pairs(data_folder)
    training, held_out = split_groups(data, config.held_out_every)
    if not (len(training) and len(held_out)):
        raise ValueError(f"{data_folder}: needs two photos at least, to hold one out")
    if data.seen_by is not None:
        _check_seen(data_folder, data.seen_by, config)
    narrow = data.settings.margin <= 1 and bool(config.noise.share)
    too_narrow = data.settings.margin < REACH and config.model.log_polar
    if data.seen_by is None and (narrow or too_narrow):
        raise ValueError(
            f"{data_folder}: log-polar patches and noise need a set that was made without --narrow"
        )
    torch.manual_seed(config.seed)
    model = CompactNet(config.model)
    if initial is not None:
        _start_from(model, initial)
    model.to(torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    source = PatchSource(data, torch.device(device))
    start = {name: value.detach().clone() for name, value in model.named_parameters()}

    def loss(step: int) -> Tensor:
        return _loss(model, source, draw_batch(data, training, config, step), config, step)

    with Run(output, resume=resume) as run:
        scores = descend(
            run,
            model,
            loss,
            steps=config.steps,
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            weight_decay=config.weight_decay,
            config=asdict(config),
            state=run.load(asdict(config)) if resume else None,
            validate=lambda: validate(model, data, held_out),
        )
        if config.initial_share:
            blend(model, start, config.initial_share, loss)
            scores = validate(model, data, held_out)
        calibration = calibration_patches(model, data, training)
        save_model(
            output / WEIGHTS,
            model,
            command=command,
            calibration=calibration,
        )
        return scores


def _check_seen(data_folder: Path, seen_by: Path, config: MetricConfig) -> None:
    """Whether a network is of the kind that is given the patches of a set."""
    if config.noise.share:
        raise ValueError(f"{data_folder}: errors of its keypoints are drawn when it is built")
    known = load_model(seen_by)[0]
    if not isinstance(known, CompactNet):
        raise ValueError(f"{seen_by}: no compact network; the set is damaged")
    for name in ("log_polar", "support"):
        if getattr(config.model, name) != getattr(known.config, name):
            raise ValueError(
                f"{data_folder}: was made with --model, whose {name} is "
                f"{getattr(known.config, name)}, and is for networks like it"
            )


@torch.no_grad()
def calibration_patches(
    model: CompactNet, data: PairSet, groups: NDArray[np.intp]
) -> dict[str, NDArray[np.uint8]]:
    """About a thousand patches, spread evenly over some groups, for :func:`save_model`.

    The model is left in evaluation mode.
    """
    model.eval()
    rows = data.rows(groups)
    chosen = rows[:: max(2 * len(rows) // _CALIBRATION, 1)]
    patches = torch.from_numpy(data.patches[chosen]).flatten(0, 1)[:, None].float()
    seen = cut_for(model, patches) if data.seen_by is None else patches
    inputs = {CODES: seen}
    if model.orientation is not None:
        device = next(model.parameters()).device
        adapted = adapt_patches(seen, to_frames(model.orientation(seen.to(device)).cpu()))
        inputs = {CODES: adapted, ORIENTATION: F.avg_pool2d(seen, 2)}
    return {part: patches[:, 0].round().byte().numpy() for part, patches in inputs.items()}


def _loss(
    model: CompactNet, source: PatchSource, batch: Batch, config: MetricConfig, step: int
) -> Tensor:
    batch = Batch(*(array.to(source.device) for array in batch))
    # First all first patches, then all second ones.
    patches, frames, moved = (
        array.transpose(0, 1).flatten(0, 1)
        for array in (batch.patches(source), batch.frames, batch.moved)
    )
    wide = patches[:, None].float()
    seen = wide if source.seen else cut_for(model, wide, frames)
    upright = frames[:, :, :2]
    own_loss = torch.zeros((), device=source.device)
    if model.orientation is not None:
        with autocast(source.device):
            outputs = model.orientation(seen).float()
        adapted = to_frames(outputs)
        seen = adapt_patches(seen, adapted)
        upright = upright @ (adapted @ rotations(outputs[:, :2]).mT).detach()
        first, second = (frames[:, :, :2] @ adapted).chunk(2)
        residual = residual_maps(first, second, batch.linear)
        turn, stretch = turn_loss(residual), stretch_loss(residual)
        # Angles that were carried over teach to trust those of detectors, which are worse.
        own_loss = (turn * batch.detected + config.stretch_weight * stretch).mean()
    if config.loss == "matches":
        agreeing = _agreeing_frames(upright, batch.linear, moved)
        recut = cut_again(wide, agreeing) if source.seen else cut_for(model, wide, agreeing)
        seen = torch.cat([seen, recut])
    with autocast(source.device):
        activations = model.describe(seen)
    start, end = config.sharpness
    sharpness = start + (end - start) * step / config.steps
    codes = relax_bits(activations.float(), sharpness).split(len(batch.row))
    learnt = turn_cosine(batch.linear) >= math.cos(math.radians(config.most_turn))
    loss = _matches_loss if config.loss == "matches" else _triplet_loss
    return loss(codes, batch, learnt, config) + config.orientation_weight * own_loss


def _triplet_loss(
    codes: Sequence[Tensor], batch: Batch, learnt: Tensor, config: MetricConfig
) -> Tensor:
    first, second = codes
    margins = batch.margins(config.margin, config.near)
    return hardest_triplet(first, second, batch.negative(), margins)[learnt].mean()


def _matches_loss(
    codes: Sequence[Tensor], batch: Batch, learnt: Tensor, config: MetricConfig
) -> Tensor:
    first, second, moved_first, moved_second = codes
    weight = batch.negative() * batch.margins(1.0, config.near)
    missed = missed_matches(first, second, weight)[learnt].mean()
    near = false_positives(moved_first, moved_second, batch.unrelated())
    return missed + config.false_positive_weight * near


def _agreeing_frames(maps: Tensor, linear: Tensor, moved: Tensor) -> Tensor:
    """Frames ``(2 N, 2, 3)`` with the same angle and size in both views, but for their errors.

    Args:
        maps: ``(2 N, 2, 2)``, of the first views and then of the second ones, how their patches are
            stretched; the second ones are turned and resized too.
        linear: ``(N, 2, 2)`` from coordinates of the first patch to those of the second.
        moved: ``(2 N, 2, 3)`` the errors.
    """
    first, second = maps.chunk(2)
    residual = torch.linalg.solve(second, linear @ first)
    a, b, c, d = residual.flatten(1).unbind(1)
    turn = rotations(torch.stack([a + d, c - b], 1))
    size = torch.linalg.det(residual).clamp_min(1e-6).sqrt()[:, None, None]
    agreeing = torch.cat([first, size * second @ turn])
    return torch.cat([agreeing @ moved[:, :, :2], moved[:, :, 2:]], 2)


def _start_from(model: CompactNet, initial: str | Path) -> None:
    """Copy a model's weights into a network like it, or one that has more.

    More channels, and an orientation network where there is none: what is new changes no output
    yet.
    """
    known = load_model(initial)[0]
    if not (isinstance(known, CompactNet) and _has_all_of(model.config, known.config)):
        load_weights(model, initial)  # raises, as it says what differs
        return
    state = model.state_dict()
    for name, old in known.state_dict().items():
        new = state[name]
        if new.shape != old.shape and old.ndim == 4:
            new[: len(old)] = 0  # known channels do not see the new ones
        new[tuple(slice(n) for n in old.shape)] = old


def _has_all_of(config: CompactConfig, known: CompactConfig) -> bool:
    same = replace(config, channels=known.channels, orientation=known.orientation) == known
    return (
        same
        and len(config.channels) == len(known.channels)
        and all(map(ge, config.channels, known.channels))
        and len(known.orientation) in (0, len(config.orientation))
        and all(map(ge, config.orientation, known.orientation))
    )
