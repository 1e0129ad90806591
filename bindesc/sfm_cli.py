"""The command ``bindesc sfm``: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .arguments import at_least

_DESCRIPTION = """Reconstruct the 3D points and camera poses of a folder of photos with COLMAP.
A stopped run goes on when it is started again; one with other settings needs another output."""
_SHARDS = """Large collections: start `bindesc sfm PHOTOS -o OUT --shard I/N` for I = 1 to N, on any
machines that share OUT; when all have ended, start them again to match; then run the command
without --shard, which does whatever is left, and maps."""

EXIT_OK, EXIT_TOO_FEW = 0, 3

# Lowe's (IJCV 2004). Binary codes lose more good matches by such a test than verification gains:
# on a training scene (lund, ORB, five next photos) the largest model had 21 photos without it and
# 6 at 0.9.
_SIFT_RATIO = 0.8

_MOST_THREADS = 1024


def register(
    commands: Any,
    add_feature_options: Callable[[argparse.ArgumentParser], None],
    add_resize: Callable[[argparse.ArgumentParser], None],
    descriptors: tuple[str, ...],
) -> None:
    """Add the command to the ``argparse`` sub-parsers; the work is imported when it runs."""
    parser = commands.add_parser(
        "sfm", help="reconstruct a folder of photos", description=_DESCRIPTION, epilog=_SHARDS
    )
    parser.set_defaults(run=_run)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="folder")
    add_resize(parser)
    add_feature_options(parser)
    parser.set_defaults(n_kpts=2000)
    parser.add_argument(
        "--descriptor",
        choices=descriptors,
        default="bindesc",
        help="what describes the detector's keypoints (default: bindesc)",
    )
    matching = parser.add_argument_group("matching")
    matching.add_argument(
        "--pairs",
        default="exhaustive",
        metavar="RULE",
        help="exhaustive; sequential[:overlap], each photo with the next 10 by name; similar[:k], "
        "each with the 20 that look most like it (default: exhaustive)",
    )
    matching.add_argument(
        "--ratio",
        type=float,
        metavar="R",
        help="nearest < R * second nearest, 0 to 1 (default: no such test; 0.8 for sift)",
    )
    mapping = parser.add_argument_group("mapping")
    mapping.add_argument(
        "--camera",
        choices=("shared", "per-image"),
        default="shared",
        help="shared: photos of one size and focal length are of one camera (default: shared)",
    )
    mapping.add_argument(
        "--camera-model", default="SIMPLE_RADIAL", metavar="MODEL", help="(default: SIMPLE_RADIAL)"
    )
    mapping.add_argument("--seed", type=int, default=0, help="(default: 0)")
    mapping.add_argument(
        "--threads", type=at_least(1), metavar="N", help="of the mapping (default: every core)"
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="describe and match only the I-th of N shares, see below"
    )


def _run(args: argparse.Namespace) -> int:
    from . import cloud, colmap, sfm
    from .collection import Rules
    from .commands import feature_settings, make_extractor
    from .folder import WHOLE, Shard

    shard = WHOLE if args.shard is None else Shard.parse(args.shard)
    if args.shard is None:  # shares need neither of these
        colmap.import_pycolmap()
        cloud.import_figure()
    ratio = _SIFT_RATIO if args.ratio is None and args.descriptor == "sift" else args.ratio
    settings = sfm.SfmSettings(
        feature_settings(args, args.descriptor),
        args.pairs,
        Rules(
            norm="l2" if args.descriptor == "sift" else "hamming",
            ratio=ratio,
            long_side=args.resize,
            seed=args.seed,
        ),
        args.camera == "shared",
        args.camera_model,
    )
    report = sfm.describe(
        args.folder,
        args.out,
        lambda: make_extractor(args, args.descriptor),
        settings,
        _progress,
        shard,
    )
    for line in report.unreadable:
        print(f"skipped {line}", file=sys.stderr)
    print(
        f"{report.extracted} images described ({report.keypoints} keypoints), "
        f"{report.kept} already done, {len(report.unreadable)} unreadable"
    )
    try:
        collection = sfm.match(args.folder, args.out, settings, _progress, shard)
        print(_count_pairs(collection))
        if args.shard is not None:
            print("every share is done; run this without --shard to map")
            return EXIT_OK
        threads = -1 if args.threads is None else min(args.threads, _MOST_THREADS)
        models = sfm.reconstruct(args.folder, collection, settings, _progress, threads)
    except sfm.UnfinishedError as waiting:
        print(f"share {args.shard} is done; {waiting}: run all shares again")
        return EXIT_OK
    except sfm.TooFewError as error:
        print(f"bindesc: {error}", file=sys.stderr)
        return EXIT_TOO_FEW
    for number, model in enumerate(models):
        print(
            f"sparse/{number}: {model.num_reg_images()} of {len(collection.names)} images, "
            f"{model.num_points3D()} points, "
            f"mean track {model.compute_mean_track_length():.2f} images, "
            f"mean reprojection error {model.compute_mean_reprojection_error():.2f} px"
        )
    print(f"wrote {args.out}/sparse, points.ply, points.png, database.db")
    return EXIT_OK


def _count_pairs(collection: Any) -> str:
    pairs = list(collection.verified())
    related = [pair for pair in pairs if pair.geometry.model is not None]
    inliers = sum(int(pair.geometry.inliers.sum()) for pair in related)
    matches = sum(len(pair.pairs) for pair in related)
    text = f"{len(pairs)} pairs matched, {len(related)} of them verified"
    if related:
        text += f" ({inliers / len(related):.0f} inliers of {matches / len(related):.0f} matches)"
    return text


@contextmanager
def _progress(stage: str, steps: int) -> Iterator[Callable[[], object]]:
    from tqdm import tqdm

    with tqdm(desc=stage, total=steps, unit="image") as bar:
        yield bar.update
