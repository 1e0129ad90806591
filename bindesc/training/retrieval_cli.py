"""The command ``bindesc train retrieval``: parse, call, print."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_gan_options, command_line, gan_config, print_scores


def add_retrieval(kinds: Any) -> None:
    """Add the kind to those of ``bindesc train``; torch is imported when it runs."""
    parser = kinds.add_parser(
        "retrieval",
        help="BinGAN codes of whole images, from CIFAR-10 without labels",
        description="Train the retrieval network of BinGAN on the training images of CIFAR-10; "
        "their labels are not used.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="CIFAR-10: Python or binary batches, or JPEG sheets",
    )
    parser.add_argument(
        "--bits", type=int, choices=(16, 32, 64), required=True, help="length of the code"
    )
    add_gan_options(parser, lambda_bre=0.001)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from ..models.retrieval import RetrievalConfig
    from ..weights import read_model
    from .cifar10 import read_cifar10
    from .distributed import join
    from .gan import WEIGHTS, train

    model = RetrievalConfig(bits=args.bits)
    if args.init is not None:
        manifest, _ = read_model(args.init)
        if manifest.architecture == "bingan-retrieval":
            model = replace(RetrievalConfig(**manifest.config), bits=args.bits)
    images, _ = read_cifar10(args.data, "train")
    config = gan_config(args, model)
    with join(args.device) as (ranks, device):
        scores = train(
            images,
            args.out,
            config,
            steps=args.steps,
            minutes=args.minutes,
            resume=args.resume,
            initial=args.init,
            device=device,
            command=command_line(),
            ranks=ranks,
        )
        if ranks.rank == 0:
            print_scores(args.out / WEIGHTS, scores)
    return 0
