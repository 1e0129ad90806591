"""The training loop of BinGAN: batches, checkpoints, log, samples."""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from ..files import atomic_path
from ..models.bingan import NOISE, BinGanConfig, Generator, PatchDiscriminator, principal_components
from ..models.retrieval import RetrievalDiscriminator
from ..weights import WeightsError, load_model, save_model
from .distributed import Ranks
from .gan_step import Discriminator, Gan, GanConfig
from .memory import keep_freed_memory
from .pairs import PairSet
from .run import Run
from .scores import bit_bias, bit_correlation
from .validation import BestModel

WEIGHTS = "model.safetensors"
SAMPLES = "samples.png"
INITIAL_SAMPLES = 500  # that gains and biases are set from
_VALIDATED = 512
_PCA_SAMPLES = 8192
_SHEET = (8, 16)  # rows and columns of generated patches


def draw_batch(count: int, batch: int, seed: int, step: int) -> NDArray[np.intp]:
    """Which patches step ``step`` sees: every pass over the data is a new permutation.

    Returns:
        ``(batch,)`` indices below ``count``, ascending; the rest of a pass is left out.
    """
    epoch, position = divmod(step, count // batch)
    order = _permutation(count, seed, epoch)
    return np.sort(order[position * batch : (position + 1) * batch])


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, epoch]).permutation(count)


@torch.no_grad()
def validate(gan: Gan, patches: NDArray[np.uint8]) -> dict[str, float]:
    """How well the bits of patches are used.

    Returns:
        ``bit_bias``: mean distance of a bit's frequency from one half, 0 to 0.5;
        ``bit_correlation``: mean absolute correlation of two bits, 0 to 1.
    """
    gan.discriminator.eval()
    parts = np.array_split(patches, -(-len(patches) // 64))
    f = torch.cat([gan.discriminator.layers(gan.to_images(part)).f for part in parts])
    gan.discriminator.train()
    bits = (f >= 0).cpu().numpy()
    return {"bit_bias": bit_bias(bits), "bit_correlation": bit_correlation(bits)}


@torch.no_grad()
def draw_samples(generator: Generator, path: Path) -> None:
    """Write a PNG of 8 x 16 generated patches, always of the same noise."""
    rows, columns = _SHEET
    noise = torch.rand(rows * columns, NOISE, generator=torch.Generator().manual_seed(0))
    generator.eval()
    images = generator(noise.to(next(generator.parameters()).device)).float().cpu()
    generator.train()
    values = ((images + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    side, channels = values.shape[2:]
    grid = values.reshape(rows, columns, side, side, channels).swapaxes(1, 2)
    sheet = grid.reshape(rows * side, columns * side, channels)[:, :, ::-1]  # OpenCV has BGR
    with atomic_path(path) as temporary:
        if not cv2.imwrite(str(temporary), sheet):
            raise OSError(f"cannot write {path}")


def train(
    patches: NDArray[np.uint8],
    output: Path,
    config: GanConfig,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    resume: bool = False,
    initial: str | None = None,
    device: str = "cpu",
    command: str = "",
    held_out: PairSet | None = None,
    keep: Literal["best", "last"] = "best",
    code: Literal["published", "pca"] = "published",
    minutes_between_validations: float = 10.0,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Train BinGAN on patches and write the discriminator as ``model.safetensors``.

    With held-out pairs, the file is the checkpoint of the best accuracy on them so far, from the
    first one (before any step) on; otherwise the last one, written at the end.

    Args:
        patches: ``(N, 32, 32)`` uint8, or ``(N, 32, 32, 3)`` for three input channels; may be
            memory-mapped.
        output: folder of the run.
        config: see :class:`GanConfig`; a resumed run must be given the same.
        steps: stop after so many, counted from the start of the run.
        minutes: stop after so long, counted from this call; one of the two is needed.
        resume: go on from the checkpoint in ``output``; on one CPU thread bit for bit as if the
            run had not been interrupted.
        initial: name or path of a model that the discriminator starts from. One for images may
            have another code length: then the layer of f and what follows start anew.
        device: a torch device.
        command: the command line, for the model's manifest.
        held_out: pairs of patches that are validated on at the start, at the end and in between.
        keep: ``"last"`` writes the last checkpoint although there are held-out pairs.
        code: of the model: ``"published"``, or ``"pca"``, see :class:`PrincipalDiscriminator`.
        minutes_between_validations: least time between validations on held-out pairs.
        ranks: the processes that train together, all with the same arguments; rank 0 writes.

    Returns:
        The last log line: means of the losses since the one before, and :func:`validate`; empty
        on other ranks than 0.

    Raises:
        FileNotFoundError, FileExistsError: see :class:`Run`.
        ValueError: the patches do not fit, or the checkpoint or ``initial`` is of another
            configuration.
        FloatingPointError: a loss or weight is not finite; the last checkpoint stays.
    """
    ranks = ranks or Ranks()
    _check(patches, config, ranks)
    if code == "pca":
        _check_pca(patches, config)
    if steps is None and minutes is None:
        raise ValueError("steps, minutes: one of the two is needed")
    keep_freed_memory()
    with Run(output, resume=resume, writes=ranks.rank == 0) as run:
        gan = Gan(config, device, ranks)
        step = 0
        if resume:
            state = run.load(asdict(config))
            step = int(state["step"])
            with run.told_as_damaged():
                gan.restore(state)
        else:
            fresh = True if initial is None else _start_from(initial, gan.discriminator)
            gan.initialise(spread(patches, INITIAL_SAMPLES), discriminator=fresh)

        validated = spread(patches, _VALIDATED)
        best = None if held_out is None else BestModel(output / WEIGHTS, run, held_out, command)
        checked, checked_at = -1, time.monotonic()
        history: list[dict[str, float]] = []
        line: dict[str, float] = {}

        def save() -> None:
            nonlocal line
            if not run.writes:
                return
            for network in (gan.discriminator, gan.generator):
                if not all(torch.isfinite(p).all() for p in network.parameters()):
                    raise FloatingPointError(f"a weight is not finite at step {step}")
            names = history[0] if history else {}
            means = {k: sum(h[k] for h in history) / len(history) for k in names}
            line = means | validate(gan, validated)
            run.log(step, **line)
            history.clear()
            run.save({"step": step, "config": asdict(config), **gan.state()})
            draw_samples(gan.generator, output / SAMPLES)

        def model() -> Discriminator:
            if code == "published":
                return gan.discriminator
            assert isinstance(gan.discriminator, PatchDiscriminator)
            values = torch.from_numpy(spread(patches, _PCA_SAMPLES))
            values = values.reshape(*values.shape[:3], -1).permute(0, 3, 1, 2).float()
            return principal_components(gan.discriminator, values)

        def check(initial: str | None = None) -> None:
            nonlocal checked, checked_at
            if best is None or checked == step or not run.writes:
                return
            # Networks that are built to be saved must not draw from the training's random numbers.
            with torch.random.fork_rng(devices=[]):
                best.offer(step, model() if initial is None else _load(initial).to(gan.device))
            checked, checked_at = step, time.monotonic()

        if not resume:
            save()
        if step == 0 and not any("accuracy" in line for line in run.read_log()):
            check(initial)  # what training must be better than
        end = None if minutes is None else time.monotonic() + 60 * minutes
        total = None if steps is None else steps * config.batch
        with tqdm(
            total=total,
            initial=step * config.batch,
            unit="image",
            dynamic_ncols=True,
            disable=not run.writes,
        ) as bar:
            while steps is None or step < steps:
                over = run.stopping or (end is not None and time.monotonic() >= end)
                if ranks.any(over, gan.device):
                    break
                first = draw_batch(len(patches), config.batch, 2 * config.seed, step)
                second = draw_batch(len(patches), config.batch, 2 * config.seed + 1, step)
                losses = gan.discriminator_step(patches[ranks.share(first)])
                losses |= gan.generator_step(patches[ranks.share(second)])
                if not np.isfinite(list(losses.values())).all():
                    raise FloatingPointError(f"not finite at step {step}: {losses}")
                history.append(losses)
                step += 1
                bar.update(config.batch)
                if step % 10 == 0:
                    left = (
                        {} if end is None else {"left": f"{(end - time.monotonic()) / 60:.1f} min"}
                    )
                    bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items()} | left)
                if run.save_is_due:
                    save()
                    if time.monotonic() - checked_at > 60 * minutes_between_validations:
                        check()
        if history:
            save()
        check()
        if run.writes and (best is None or keep == "last"):
            save_model(output / WEIGHTS, model(), command=command)
        ranks.wait()  # nobody leaves before the files are there
        return line


def _load(model: str) -> Discriminator:
    """A model that can be trained on: a BinGAN discriminator, whatever its code."""
    network, manifest = load_model(model)
    if not isinstance(network, Discriminator):
        raise WeightsError(f"{model}: is a {manifest.architecture} model, wanted bingan")
    return network


def _start_from(model: str, discriminator: Discriminator) -> Literal[False] | nn.Module:
    """Copy a model's weights; returns the layers that it has none for, False if there are none."""
    network = _load(model)
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("components.")}
    wanted = discriminator.config
    fresh: Literal[False] | nn.Module = False
    if isinstance(discriminator, RetrievalDiscriminator) and network.config.bits != wanted.bits:
        fresh = discriminator.head
        state |= {f"head.{name}": value for name, value in fresh.state_dict().items()}
        wanted = replace(wanted, bits=network.config.bits)
    if network.config != wanted:
        raise WeightsError(f"{model}: has {network.config}, wanted {wanted}")
    discriminator.load_state_dict(state)
    return fresh


def _check(patches: NDArray[np.uint8], config: GanConfig, ranks: Ranks) -> None:
    shape = (32, 32) if config.model.inputs == 1 else (32, 32, config.model.inputs)
    if patches.dtype != np.uint8 or patches.shape[1:] != shape:
        raise ValueError(
            f"patches: expected (N, {', '.join(map(str, shape))}) uint8, "
            f"got {patches.shape} {patches.dtype}"
        )
    if config.batch < 2 or len(patches) < config.batch:
        raise ValueError(f"{len(patches)} patches, a batch of {config.batch}: too few (2 at least)")
    if config.batch % ranks.count:
        raise ValueError(
            f"batch: {config.batch} patches cannot be split over {ranks.count} processes"
        )


def _check_pca(patches: NDArray[np.uint8], config: GanConfig) -> None:
    if not isinstance(config.model, BinGanConfig):
        raise ValueError("code: only that of a model for patches can be from a PCA")
    if len(patches) < config.model.bits:
        raise ValueError(
            f"{len(patches)} patches: a PCA needs as many as the code has bits, {config.model.bits}"
        )


def spread(patches: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """``count`` patches or all, evenly spread over the data."""
    return patches[:: max(len(patches) // count, 1)][:count].copy()
