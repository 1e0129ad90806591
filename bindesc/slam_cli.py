"""The commands ``bindesc vocab`` and ``bindesc calibrate``: parse, call, print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import at_least

if TYPE_CHECKING:  # --help needs no NumPy
    import numpy as np
    from numpy.typing import NDArray

    from .image import ImageError


_CODES_A_WORD = 10  # below, a vocabulary knows its images by heart


def register(commands: Any, add_feature_options: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the commands to the ``argparse`` sub-parsers; OpenCV is imported when one runs."""
    vocab = commands.add_parser("vocab", help="visual vocabularies for place recognition")
    actions = vocab.add_subparsers(required=True, metavar="ACTION")
    train = actions.add_parser(
        "train",
        help="a vocabulary from images or features, as ORB-SLAM reads it",
        description="Build a vocabulary tree and write it as text for ORB-SLAM2 and 3 (DBoW2).",
    )
    _add_sources(train)
    train.add_argument("-o", "--out", type=Path, required=True, metavar="TXT", help="to write")
    train.add_argument("-k", type=int, default=10, help="children of a node, 2 to 20 (%(default)s)")
    train.add_argument("-L", type=int, default=5, help="levels, 1 to 10 (%(default)s)")
    train.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    add_feature_options(train)
    train.set_defaults(run=_train)

    query = actions.add_parser("query", help="the images most like a photo")
    query.add_argument("vocabulary", type=Path, metavar="TXT", help="made by 'vocab train'")
    query.add_argument("image", type=Path, metavar="PHOTO")
    _add_sources(query)
    query.add_argument("--top", type=at_least(1), default=5, help="how many to print (%(default)s)")
    add_feature_options(query)
    query.set_defaults(run=_query)

    calibrate = commands.add_parser(
        "calibrate",
        help="distance thresholds for your photos, in place of ORB's",
        description="Measure Hamming distances of matching and other keypoints on synthetic views "
        "of photos, and print the bindesc thresholds that stand for ORB-SLAM's 50 and 100.",
    )
    calibrate.add_argument("images", type=Path, nargs="+", help="photos, or folders of them")
    calibrate.add_argument("--views", type=int, default=2, help="view pairs a photo (%(default)s)")
    calibrate.add_argument("--most", type=int, default=20, help="photos to use (%(default)s)")
    calibrate.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    calibrate.add_argument("--model", default="compact", metavar="NAME|PATH", help="(%(default)s)")
    calibrate.set_defaults(run=_calibrate)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="FOLDER_OR_FEATURES",
        help="images, folders of them, or what 'bindesc extract' wrote of them (.h5, .npz, folder)",
    )


def _train(args: argparse.Namespace) -> int:
    from .files import check_writable
    from .match_options import check_integer
    from .training.vocabulary import train_vocabulary
    from .vocabulary import MAX_BRANCHING, MAX_DEPTH

    check_writable(args.out)
    check_integer("-k", args.k, 2, MAX_BRANCHING)
    check_integer("-L", args.L, 1, MAX_DEPTH)
    check_integer("--seed", args.seed, 0)
    codes = [codes for _, codes in _read(args, args.sources)]
    vocabulary = train_vocabulary(codes, args.k, args.L, args.seed)
    vocabulary.save(args.out)
    count = sum(map(len, codes))
    print(
        f"{args.out}: {len(vocabulary)} words from {count} codes of "
        f"{len(codes)} images, k {args.k}, L {args.L}"
    )
    if count < _CODES_A_WORD * len(vocabulary):
        print(
            f"bindesc: fewer than {_CODES_A_WORD} codes a word tell places apart badly: "
            "give more photos, or a smaller -k or -L",
            file=sys.stderr,
        )
    return 0


def _query(args: argparse.Namespace) -> int:
    from .vocabulary import load_vocabulary

    vocabulary = load_vocabulary(args.vocabulary)
    asked = list(_read(args, [args.image]))
    if len(asked) != 1:
        raise ValueError(f"{args.image}: expected one image, it holds {len(asked)}")
    bag = vocabulary.transform(asked[0][1])
    scores = [
        (bag.score(vocabulary.transform(codes)), name) for name, codes in _read(args, args.sources)
    ]
    scores.sort(key=lambda entry: -entry[0])  # stable: among equals the first
    for score, name in scores[: args.top]:
        print(f"{score:.4f}  {name}")
    if not scores or not scores[0][0]:
        print(f"bindesc: no image shares a word with {args.image}", file=sys.stderr)
        return 3
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .calibrate import measure_distances, report
    from .detectors import create_detector
    from .extractor import create
    from .image import ImageError, read_image, to_gray
    from .match_options import check_integer

    check_integer("--views", args.views, 1)
    check_integer("--most", args.most, 1)
    check_integer("--seed", args.seed, 0)
    paths = [path for source in args.images for path in _image_paths(source)]
    step = max(1, len(paths) / args.most)  # spread over all folders

    def photos() -> Iterator[NDArray[np.uint8]]:
        for i in tqdm(range(min(len(paths), args.most)), unit="photo"):
            path = paths[int(i * step)]
            try:
                yield to_gray(read_image(path))
            except ImageError as error:
                print(f"skipped {error}", file=sys.stderr)

    extractors = {"bindesc": create(model=args.model), "ORB": create_detector("orb", 1000)}
    distances = measure_distances(photos(), extractors, views=args.views, seed=args.seed)
    print(report(distances["bindesc"], distances["ORB"]))
    return 0


def _read(args: argparse.Namespace, sources: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    from tqdm import tqdm

    from .commands import make_extractor

    codes = read_codes(sources, lambda: make_extractor(args, "bindesc"))
    return iter(tqdm(codes, unit="image"))


def _image_paths(source: Path) -> list[Path]:
    from .folder import find_images

    return [source / name for name in find_images(source)] if source.is_dir() else [source]


def read_codes(
    sources: Sequence[Path], make_extractor: Callable[[], Any]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The codes of each image, described here or by ``bindesc extract``.

    Args:
        sources: image files, NPZ or H5 of features, or folders of images or NPZ.
        make_extractor: makes what describes images; called if there is one.

    Yields:
        Name and ``(N, B)`` uint8 of each image. An image in a folder that cannot be read is told
        on stderr and left out.

    Raises:
        ValueError: a source holds neither images nor features, or is damaged.
    """
    from .image import ImageError
    from .threads import in_parallel

    extractor = None
    for stored, alike in groupby(sources, _holds_features):
        if stored:
            for source in alike:
                yield from _stored_codes(source)
            continue
        images = [(path, source) for source in alike for path in _image_paths(source)]
        extractor = extractor or make_extractor()
        codes = in_parallel(partial(_describe, extractor), [path for path, _ in images])
        for (path, source), found in zip(images, codes, strict=True):
            if not isinstance(found, ImageError):
                yield str(path), found
            elif path == source:
                raise found
            else:
                print(f"skipped {found}", file=sys.stderr)


def _holds_features(source: Path) -> bool:
    from .folder import H5_SUFFIXES, holds_images, is_store

    if source.is_dir():
        return is_store(source) or not holds_images(source)
    return source.suffix == ".npz" or source.suffix.lower() in H5_SUFFIXES


def _stored_codes(source: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    from . import hloc
    from .export import load_features_npz
    from .files import is_temporary

    shards = [source]
    if source.is_dir():
        shards = sorted(path for path in source.rglob("*.npz") if not is_temporary(path))
    if not shards:
        raise ValueError(f"{source}: no images, and no features of any")
    for shard in shards:
        if shard.suffix == ".npz":
            yield str(shard), load_features_npz(shard).descriptors
        else:
            yield from hloc.load_codes(shard)


def _describe(extractor: Any, path: Path) -> NDArray[np.uint8] | ImageError:
    from .image import ImageError, read_image

    try:
        codes: NDArray[np.uint8] = extractor.extract(read_image(path)).descriptors
    except ImageError as error:
        return error
    return codes
