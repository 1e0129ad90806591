"""The command ``bindesc train images``: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import at_least
from .options import add_run_options, command_line, print_scores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def add_images(kinds: Any) -> None:
    """Add the kind to those of ``bindesc train``; torch is imported when it runs."""
    parser = kinds.add_parser(
        "images",
        help="codes of whole images, for search, from photos without labels",
        description="Train codes of 16, 32 and 64 bits together by contrastive learning, and write "
        "a model for each length into the run. An image is seen as 32x32 pixels.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="photos; or CIFAR-10, of which the training images are read, without their labels",
    )
    add_run_options(
        parser,
        learning_rate=2e-3,
        initial="models to start from: 'images', those that come with bindesc, or RUN/images",
    )
    parser.add_argument(
        "--epochs", type=at_least(1), default=24, help="passes over the images (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=at_least(1), default=256, help="images a step (%(default)s)"
    )
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from .contrastive import NAME, ContrastiveConfig, train

    config = ContrastiveConfig(
        epochs=args.epochs,
        batch=args.batch,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    scores = train(
        _read(args.data),
        args.out,
        config,
        resume=args.resume,
        initial=args.init,
        command=command_line(),
    )
    print_scores(args.out / f"{NAME}-*.safetensors", scores)
    return 0


def _read(folder: Path) -> NDArray[np.uint8]:
    """``(N, 32, 32, 3)`` uint8."""
    import numpy as np

    from ..folder import find_images
    from ..image_search import read_batches
    from .cifar10 import holds_cifar10, read_cifar10

    if holds_cifar10(folder):
        return read_cifar10(folder, "train")[0]
    unreadable: dict[str, str] = {}
    batches = list(read_batches(folder, find_images(folder), unreadable))
    for line in unreadable.values():
        print(f"skipped {line}", file=sys.stderr)
    empty = np.zeros((0, 32, 32, 3), np.uint8)
    return np.concatenate([empty, *(batch.images for batch in batches)])
