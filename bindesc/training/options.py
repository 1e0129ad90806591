"""What the kinds of ``bindesc train`` share: options, and what is printed."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..arguments import at_least, not_negative, positive, torch_device

if TYPE_CHECKING:
    from ..models.bingan import BinGanConfig
    from ..models.retrieval import RetrievalConfig
    from .gan_step import GanConfig


def add_run_options(
    parser: argparse.ArgumentParser,
    learning_rate: float,
    initial: str = "name or path of a model to start from",
) -> None:
    """What every kind of training takes."""
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--init", metavar="MODEL", help=initial)
    parser.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    parser.add_argument(
        "--learning-rate", type=positive, default=learning_rate, help="(%(default)s)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="(%(default)s)")


def add_gan_options(parser: argparse.ArgumentParser, lambda_bre: float) -> None:
    """What both kinds of BinGAN take."""
    add_run_options(parser, learning_rate=3e-4)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=at_least(0), help="stop after so many in all")
    length.add_argument("--minutes", type=not_negative, help="stop after so long, from now")
    parser.add_argument("--batch", type=at_least(1), default=25, help="images a step (%(default)s)")
    parser.add_argument(
        "--lambda-dmr",
        type=not_negative,
        default=0.05,
        help="weight of distance matching (%(default)s)",
    )
    parser.add_argument(
        "--lambda-bre",
        type=not_negative,
        default=lambda_bre,
        help="weight of the bits' entropy (%(default)s)",
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="convolutions in bfloat16: less memory; faster on some processors, and on GPUs with "
        "large batches",
    )
    add_device_option(parser)


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Where to train."""
    parser.add_argument(
        "--device",
        type=torch_device,
        default="cpu",
        help="torch device, such as cuda (%(default)s)",
    )


def gan_config(args: argparse.Namespace, model: BinGanConfig | RetrievalConfig) -> GanConfig:
    """The options of :func:`add_gan_options` for a network."""
    from .gan_step import GanConfig

    return GanConfig(
        model=model,
        batch=args.batch,
        learning_rate=args.learning_rate,
        lambda_dmr=args.lambda_dmr,
        lambda_bre=args.lambda_bre,
        bfloat16=args.bfloat16,
        seed=args.seed,
    )


def command_line() -> str:
    """The command that runs, for a model's manifest."""
    return shlex.join(["bindesc", *sys.argv[1:]])


def print_scores(path: Path, scores: dict[str, float]) -> None:
    """One line on what a training wrote."""
    told = ", ".join(f"{k} {v:.4f}" for k, v in scores.items())
    print(f"{path}: {told or 'written; nothing was left to do'}")
