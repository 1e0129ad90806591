"""The commands ``bindesc patches`` and ``bindesc train``: parse, call, print."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the two commands to the ``argparse`` sub-parsers; torch is imported when one runs."""
    patches = commands.add_parser("patches", help="make sets of training patches")
    actions = patches.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="pairs of patches from a folder of photos")
    build.add_argument("photos", type=Path, help="folder of photos, a sub-folder a place")
    build.add_argument("--out", type=Path, required=True, help="folder to make")
    build.add_argument("--views", type=int, default=8, help="view pairs a photo (%(default)s)")
    build.add_argument("--pairs", type=int, default=160, help="pairs a view (%(default)s)")
    build.add_argument(
        "--detectors",
        default="orb",
        help="detectors to draw from, by comma; repeat one to weight it (%(default)s)",
    )
    build.add_argument(
        "--support", type=float, default=1.0, help="patch side over the detector's (%(default)s)"
    )
    build.add_argument("--workers", type=int, default=2, help="processes (%(default)s)")
    build.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    build.set_defaults(run=_build)

    train = commands.add_parser("train", help="train a model")
    kinds = train.add_subparsers(dest="kind", required=True)
    compact = kinds.add_parser("compact", help="the compact descriptor, from pairs of patches")
    compact.add_argument("pairs", type=Path, help="folder made by 'bindesc patches build'")
    compact.add_argument("--out", type=Path, required=True, help="folder of the run")
    compact.add_argument("--steps", type=int, default=4000, help="(%(default)s)")
    compact.add_argument("--learning-rate", type=float, default=2e-3, help="(%(default)s)")
    compact.add_argument("--channels", default="", help="of each convolution, by comma")
    compact.add_argument("--strides", default="", help="of each convolution, by comma")
    compact.add_argument("--init", help="name or path of a model to start from")
    compact.add_argument("--resume", action="store_true", help="go on from the run's checkpoint")
    compact.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    compact.set_defaults(run=_train_compact)


def _build(args: argparse.Namespace) -> int:
    from .pairs import PairSettings, build_pairs

    settings = PairSettings(
        views=args.views,
        pairs_per_view=args.pairs,
        detectors=tuple(args.detectors.split(",")),
        support=args.support,
        seed=args.seed,
    )
    summary = build_pairs(args.photos, args.out, settings, workers=args.workers)
    for path, reason in summary["skipped"].items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{args.out}: {summary['count']} pairs in {len(summary['groups'])} groups")
    return 0


def _train_compact(args: argparse.Namespace) -> int:
    from ..models.compact import CompactConfig
    from .metric import WEIGHTS, MetricConfig, train
    from .pairs import open_pairs

    model = CompactConfig(support=open_pairs(args.pairs).settings.support)
    if args.channels:
        model = replace(model, channels=tuple(int(c) for c in args.channels.split(",")))
    if args.strides:
        model = replace(model, strides=tuple(int(s) for s in args.strides.split(",")))
    config = MetricConfig(
        model=model, steps=args.steps, learning_rate=args.learning_rate, seed=args.seed
    )
    scores = train(
        args.pairs,
        args.out,
        config,
        resume=args.resume,
        initial=args.init,
        command=shlex.join(["bindesc", *sys.argv[1:]]),
    )
    print(f"{args.out / WEIGHTS}: " + ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
    return 0
