"""The commands ``bindesc patches`` and ``bindesc train``: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arguments import at_least, not_negative, positive
from .images_cli import add_images
from .options import (
    add_device_option,
    add_gan_options,
    add_run_options,
    command_line,
    gan_config,
    print_scores,
)
from .retrieval_cli import add_retrieval

if TYPE_CHECKING:
    from ..models.bingan import BinGanConfig
    from ..models.compact import CompactConfig
    from .phototour import Summary

WIDE_MARGIN = 1.75  # a square turns in one 1.42 times as wide; the rest is for shifts
WIDE_TURN = 180.0  # degrees; those that differ by much teach an orientation network only
PATCHES = "patches"  # in the folder of a run, the set that it made


def register(commands: Any) -> None:
    """Add the two commands to the ``argparse`` sub-parsers; torch is imported when one runs."""
    patches = commands.add_parser("patches", help="make sets of training patches")
    actions = patches.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="pairs of patches from a folder of photos")
    build.add_argument(
        "photos",
        type=Path,
        help="folder of photos, a sub-folder a place; for phototour without --colmap a folder of "
        "sequences with img1.*, img2.*, ... and homographies H1to2p, ...",
    )
    build.add_argument(
        "--format",
        choices=("pairs", "phototour"),
        default="pairs",
        help="a set for training, or a test folder in the PhotoTour format, which of the options "
        "takes --support, --seed, and for photos --colmap and --partners (%(default)s)",
    )
    build.add_argument("--out", type=Path, required=True, help="folder to make")
    build.add_argument(
        "--views", type=at_least(1), default=8, help="view pairs a photo (%(default)s)"
    )
    build.add_argument(
        "--colmap",
        type=Path,
        action="append",
        default=[],
        metavar="MODEL",
        help="COLMAP model of the photos of a place, to pair them with each other; repeatable",
    )
    build.add_argument(
        "--partners",
        type=at_least(0),
        default=8,
        help="other photos of the place that a photo is paired with (%(default)s)",
    )
    build.add_argument("--pairs", type=at_least(1), default=160, help="pairs a view (%(default)s)")
    build.add_argument(
        "--detectors",
        default="orb",
        help="detectors to draw from, by comma; repeat one to weight it (%(default)s)",
    )
    build.add_argument(
        "--support", type=positive, default=1.0, help="patch side over the detector's (%(default)s)"
    )
    build.add_argument(
        "--narrow",
        action="store_true",
        help="patches no wider than described, of pairs whose angles agree better: a third of the "
        "size, but not for log-polar patches or with noise",
    )
    build.add_argument(
        "--model",
        default="",
        help="name or path of a model: store the patches that its networks see, sampled from the "
        "photo as they are later; the best for training a model like it",
    )
    build.add_argument(
        "--noise",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="with --model, share of the views whose keypoints get errors in place and size "
        "(%(default)s)",
    )
    build.add_argument(
        "--hard",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="share of the views that are tilted or blurred more strongly than a detector bears "
        "(%(default)s)",
    )
    build.add_argument("--workers", type=at_least(1), default=2, help="processes (%(default)s)")
    build.add_argument("--seed", type=at_least(0), default=0, help="(%(default)s)")
    build.set_defaults(run=_build)

    train = commands.add_parser("train", help="train a model")
    kinds = train.add_subparsers(dest="kind", required=True)
    compact = kinds.add_parser("compact", help="the compact descriptor, from pairs of patches")
    compact.add_argument("pairs", type=Path, help="folder made by 'bindesc patches build'")
    add_run_options(compact, learning_rate=2e-3)
    compact.add_argument("--steps", type=at_least(0), default=4000, help="(%(default)s)")
    compact.add_argument(
        "--batch-photos", type=at_least(1), default=4, help="photos in a batch (%(default)s)"
    )
    compact.add_argument(
        "--batch-pairs", type=at_least(1), default=128, help="pairs of each of them (%(default)s)"
    )
    add_device_option(compact)
    for name in ("--channels", "--strides"):
        compact.add_argument(name, type=_numbers, default=(), help="of each convolution, by comma")
    compact.add_argument(
        "--orientation",
        type=_numbers,
        default=(),
        metavar="CHANNELS",
        help="of each convolution of the orientation network, by comma (default: there is none)",
    )
    compact.add_argument(
        "--noise",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="share of the views whose keypoints get errors in place, size and angle (%(default)s)",
    )
    compact.add_argument(
        "--loss",
        choices=("triplet", "matches"),
        default="triplet",
        help="hardest triplets, from any start, or mutual nearest neighbours, to go on from a "
        "trained model (%(default)s)",
    )
    compact.add_argument(
        "--initial-share",
        type=_share,
        default=0.0,
        metavar="SHARE",
        help="share of the --init model's weights in the mean with the trained ones that is kept: "
        "what it knew of other photos stays (%(default)s)",
    )
    compact.set_defaults(run=_train_compact)
    _add_orientation(kinds)
    _add_bingan(kinds)
    add_images(kinds)
    add_retrieval(kinds)


def _add_orientation(kinds: Any) -> None:
    orientation = kinds.add_parser(
        "orientation",
        help="the orientation network of a compact model, by its own steadier turns",
        description="Teach a model's orientation network to turn a patch at one look as 16 looks "
        "together do. Needs no labels; codes and stretches stay as they are.",
    )
    orientation.add_argument(
        "pairs", type=Path, help="folder made by 'bindesc patches build --model'"
    )
    add_run_options(
        orientation, learning_rate=2e-3, initial="name or path of the model (%(default)s)"
    )
    orientation.add_argument("--steps", type=at_least(0), default=5000, help="(%(default)s)")
    orientation.add_argument(
        "--batch", type=at_least(2), default=1024, help="patches a step (%(default)s)"
    )
    orientation.add_argument(
        "--patches",
        type=at_least(2),
        default=120_000,
        help="most patches of the set to use (%(default)s)",
    )
    add_device_option(orientation)
    orientation.set_defaults(run=_train_orientation, init="compact")


def _add_bingan(kinds: Any) -> None:
    bingan = kinds.add_parser(
        "bingan",
        help="the BinGAN descriptor, from patches without labels",
        description="Train BinGAN on unlabelled patches: of a set made before, or cut here from "
        "photos and sheets (kept in RUN/patches).",
    )
    bingan.add_argument(
        "patches", type=Path, nargs="?", help="set of patches or pairs made before", metavar="SET"
    )
    source = bingan.add_argument_group("instead of a set; both can be given several times")
    source.add_argument(
        "--images",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="photos, cut at their ORB keypoints",
    )
    source.add_argument(
        "--brown",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="sheets of patches in the PhotoTour format",
    )
    source.add_argument(
        "--per-photo", type=at_least(1), default=300, help="most patches of a photo (%(default)s)"
    )
    source.add_argument(
        "--support",
        type=positive,
        help="patch side over ORB's size (default: that of the --init model, else 1)",
    )
    source.add_argument(
        "--hold-out",
        type=at_least(0),
        default=16,
        metavar="N",
        help="keep every Nth photo for validation, 0 none (%(default)s)",
    )
    add_gan_options(bingan, lambda_bre=0.01)
    bingan.add_argument(
        "--keep",
        choices=("best", "last"),
        default="best",
        help="which checkpoint becomes the model: with the most correct matches on held-out "
        "photos, or the last (%(default)s)",
    )
    bingan.add_argument(
        "--code",
        choices=("published", "pca"),
        default="published",
        help="what is read off the network: the published code, or one from the principal "
        "components of the layer below, which matches far better (%(default)s)",
    )
    bingan.add_argument(
        "--validate-minutes",
        type=not_negative,
        default=10.0,
        metavar="MIN",
        help="least time between validations on held-out photos (%(default)s)",
    )
    bingan.set_defaults(run=_train_bingan)


def _build(args: argparse.Namespace) -> int:
    if args.format == "phototour":
        made = _build_phototour(args)
        print(f"{args.out}: {made.patches} patches of {made.points} points, {made.pairs} pairs")
        return 0
    from .pairing import Tolerance
    from .pairs import PairSettings, build_pairs

    if args.model and (args.narrow or args.support != 1.0):
        raise ValueError("--model: says itself how wide patches are; leave --support and --narrow")
    if args.noise and not args.model:
        raise ValueError("--noise: goes with --model; other sets get errors in training")
    settings = PairSettings(
        views=args.views,
        partners=args.partners,
        pairs_per_view=args.pairs,
        min_pairs=min(args.pairs, PairSettings.min_pairs),
        detectors=tuple(args.detectors.split(",")),
        support=args.support,
        margin=1.0 if args.narrow else WIDE_MARGIN,
        model=args.model,
        noise=args.noise,
        hard=args.hard,
        tolerance=Tolerance() if args.narrow else Tolerance(turn=WIDE_TURN),
        seed=args.seed,
    )
    summary = build_pairs(args.photos, args.out, settings, models=args.colmap, workers=args.workers)
    for path, reason in summary["skipped"].items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
    print(f"{args.out}: {summary['count']} pairs in {len(summary['groups'])} groups")
    return 0


def _build_phototour(args: argparse.Namespace) -> Summary:
    if args.colmap:
        from .phototour_photos import build_from_photos

        return build_from_photos(
            args.photos,
            args.out,
            args.colmap,
            partners=args.partners,
            support=args.support,
            seed=args.seed,
        )
    from .phototour import build_phototour

    return build_phototour(args.photos, args.out, support=args.support, seed=args.seed)


def _train_compact(args: argparse.Namespace) -> int:
    from ..log_polar import REACH
    from ..models.compact import CompactConfig
    from .metric import MetricConfig, train
    from .noise import FrameNoise
    from .pairs import open_pairs

    data = open_pairs(args.pairs)
    known = data.seen_by if args.init is None else args.init
    if known is not None:
        model = _config_of(known)
    else:
        model = CompactConfig(log_polar=data.settings.margin >= REACH)
    if data.seen_by is None:
        model = replace(model, support=data.settings.support)
    shape = {
        name: numbers
        for name in ("channels", "strides", "orientation")
        if (numbers := getattr(args, name))
    }
    config = MetricConfig(
        model=replace(model, **shape),
        steps=args.steps,
        photos=args.batch_photos,
        pairs=args.batch_pairs,
        learning_rate=args.learning_rate,
        noise=FrameNoise(share=args.noise),
        loss=args.loss,
        initial_share=args.initial_share,
        seed=args.seed,
    )
    return _train_on_pairs(train, args, config)


def _train_orientation(args: argparse.Namespace) -> int:
    from .self_teaching import SelfTeachingConfig, train

    config = SelfTeachingConfig(
        steps=args.steps,
        batch=args.batch,
        patches=args.patches,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    return _train_on_pairs(train, args, config)


def _train_on_pairs(
    train: Callable[..., dict[str, float]], args: argparse.Namespace, config: object
) -> int:
    from .metric import WEIGHTS

    scores = train(
        args.pairs,
        args.out,
        config,
        resume=args.resume,
        initial=args.init,
        device=args.device,
        command=command_line(),
    )
    print_scores(args.out / WEIGHTS, scores)
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected positive numbers by comma, got {text!r}")
    return tuple(map(int, parts))


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"a share lies in 0 to 1, got {text}")
    return value


def _config_of(model: str | Path) -> CompactConfig:
    """The shape of a compact network; of another model, which training refuses, the default."""
    from ..models.compact import CompactConfig
    from ..weights import load_model

    config = getattr(load_model(model)[0], "config", None)
    return config if isinstance(config, CompactConfig) else CompactConfig()


def _train_bingan(args: argparse.Namespace) -> int:
    from .distributed import join
    from .gan import WEIGHTS, train
    from .patch_images import open_held_out, open_patches
    from .validation import report

    with join(args.device) as (ranks, device):
        if ranks.rank == 0:
            _patch_set(args)
        ranks.wait()
        folder = args.patches or args.out / PATCHES
        patches, support = open_patches(folder)
        held_out = open_held_out(folder)
        config = gan_config(args, _bingan_config(args.init, support))
        scores = train(
            patches,
            args.out,
            config,
            steps=args.steps,
            minutes=args.minutes,
            resume=args.resume,
            initial=args.init,
            device=device,
            command=command_line(),
            held_out=held_out,
            keep=args.keep,
            code=args.code,
            minutes_between_validations=args.validate_minutes,
            ranks=ranks,
        )
        if ranks.rank == 0:
            print_scores(args.out / WEIGHTS, scores)
            print("no held-out photos" if held_out is None else report(args.out, args.keep))
    return 0


def _bingan_config(initial: str | None, support: float) -> BinGanConfig:
    """The published network, or that of the model to start from."""
    from ..models.bingan import BinGanConfig
    from ..weights import read_model

    if initial is not None:
        manifest, _ = read_model(initial)
        if manifest.architecture.startswith("bingan"):
            return BinGanConfig(**manifest.config | {"support": support})
    return BinGanConfig(support=support)


def _patch_set(args: argparse.Namespace) -> None:
    """Check the source of patches; a new run without a set makes one."""
    from ..weights import read_model
    from .patch_images import PatchSettings, build_patches, is_set_of

    initial = None if args.init is None else read_model(args.init)[0]
    if initial is not None and initial.architecture not in ("bingan", "bingan-pca"):
        raise ValueError(f"--init: {args.init} is a {initial.architecture} model, not a BinGAN")
    folders = args.images + args.brown
    if (args.patches is None) != bool(folders):
        raise ValueError("give either a set of patches, or --images and --brown folders")
    if args.patches is not None or args.resume:
        return
    support = args.support
    if support is None:
        support = 1.0 if initial is None else float(initial.config["support"])
    settings = PatchSettings(
        per_photo=args.per_photo, support=support, held_out_every=args.hold_out
    )
    output = args.out / PATCHES
    if is_set_of(output, settings, folders):  # of a run that ended before its first checkpoint
        return
    summary = build_patches(output, settings, photos=args.images, brown=args.brown)
    for path, reason in summary["skipped"].items():
        print(f"skipped {path}: {reason}", file=sys.stderr)
