"""The commands ``bindesc index``, ``bindesc search`` and ``bindesc dedup``: parse, call, print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help needs neither NumPy nor OpenCV
    from .image_search import Encode
    from .index_format import IndexHeader

EXIT_BAD_INPUT, EXIT_NO_RESULT = 2, 3


def register(commands: Any) -> None:
    """Add the commands to the ``argparse`` sub-parsers; OpenCV is imported when one runs."""
    index = commands.add_parser("index", help="codes of a folder of images, to search in")
    actions = index.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="make an index, or bring it up to date",
        description="Encode the images below a folder. Run it again to encode new and changed "
        "images and to drop those that have vanished.",
    )
    build.add_argument("folder", type=Path, metavar="FOLDER")
    build.add_argument("-o", "--out", type=Path, required=True, metavar="INDEX")
    _add_model(build)
    build.set_defaults(run=_build)

    search = commands.add_parser("search", help="the images of an index most like a photo")
    search.add_argument("index", type=Path, metavar="INDEX", help="made by 'index build'")
    search.add_argument("image", type=Path, metavar="PHOTO")
    search.add_argument("--top", type=int, default=20, help="how many, 1 to 1024 (%(default)s)")
    search.add_argument("--html", type=Path, metavar="PATH", help="write a page of thumbnails")
    search.add_argument("--model", metavar="PATH", help="that made the index, if it is your own")
    search.set_defaults(run=_search)

    dedup = commands.add_parser(
        "dedup",
        help="near-duplicate images of a folder",
        description="Print groups of images that chains of near codes join.",
    )
    dedup.add_argument("folder", type=Path, metavar="FOLDER")
    dedup.add_argument(
        "--max-dist",
        type=int,
        default=2,
        metavar="BITS",
        help="between two near images; of 64 bits, copies of other size or quality mostly differ "
        "in 0 to 3 (%(default)s)",
    )
    dedup.add_argument("--json", action="store_true", help="print JSON")
    _add_model(dedup)
    dedup.set_defaults(run=_dedup)


def _add_model(parser: argparse.ArgumentParser) -> None:
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--bits", type=int, choices=(16, 32, 64), help="length of the codes (64, or the index's)"
    )
    choice.add_argument(
        "--model", metavar="PATH", help="of your own, made by 'bindesc train images'"
    )


def _choose_model(model: str | None, bits: int | None = None, index: Path | None = None) -> str:
    """The model that is asked for, else that of the index if it exists, else the shipped one."""
    from .index_format import IndexFileError, peek_header
    from .retrieval import DEFAULT_BITS, LENGTHS, shipped_model
    from .weights import read_model

    if model or bits or index is None or not index.exists():
        return model or shipped_model(bits or DEFAULT_BITS)
    header = peek_header(index)
    name = header.model
    if name in map(shipped_model, LENGTHS) and read_model(name)[0].sha256 == header.sha256:
        return name
    raise IndexFileError(
        f"{index}: was made with the model {name} ({header.sha256[:12]}), which does not come with "
        "this bindesc; give its file by --model"
    )


def load_encoder(model: str) -> tuple[Encode, IndexHeader]:
    """The encoder of a model, and what an index says about it."""
    from .index_format import IndexHeader
    from .retrieval import encode_images, open_images_model

    runtime = open_images_model(model)
    manifest = runtime.manifest
    header = IndexHeader(8 * runtime.descriptor_bytes, manifest.name, manifest.sha256)
    return partial(encode_images, model=runtime), header


def _build(args: argparse.Namespace) -> int:
    from .files import check_writable
    from .image_search import build_index

    check_writable(args.out)
    encode, header = load_encoder(_choose_model(args.model, args.bits, args.out))
    report = build_index(args.folder, args.out, encode, header, _progress)
    if report.recovered:
        print(report.recovered, file=sys.stderr)
    _print_skipped(report.unreadable)
    print(
        f"{args.out}: {report.added + report.kept} images ({report.added} new or changed, "
        f"{report.deleted} deleted, {len(report.unreadable)} skipped)"
    )
    return _none_readable(args.folder) if not report.added + report.kept else 0


def _search(args: argparse.Namespace) -> int:
    from .code_index import CodeIndex
    from .contact_sheet import write_contact_sheet
    from .files import check_writable
    from .image_search import read_small

    if not args.index.is_file():
        raise FileNotFoundError(f"{args.index}: no such index; 'bindesc index build' makes one")
    if args.html:
        check_writable(args.html)
    small = read_small(args.image)
    encode, header = load_encoder(_choose_model(args.model, index=args.index))
    with CodeIndex(args.index, header) as index:
        if index.recovered:
            print(index.recovered, file=sys.stderr)
        positions, distances = index.database.nearest(encode(small[None]), args.top)
        root = args.index.resolve().parent / index.header.root
        hits = [
            (root / index.names[position], f"{distance} bits", index.names[position])
            for position, distance in zip(positions[0], distances[0], strict=True)
            if position >= 0
        ]
    for _, label, name in hits:
        print(f"{label:>9}  {name}")
    if args.html:
        title = f"{len(hits)} images nearest to {args.image.name}"
        write_contact_sheet(args.html, args.image, hits, title)
    if not hits:
        print(
            f"bindesc: {args.index}: the index is empty; run 'bindesc index build' again",
            file=sys.stderr,
        )
        return EXIT_NO_RESULT
    return 0


def _dedup(args: argparse.Namespace) -> int:
    from .folder import find_images
    from .image_search import near_duplicates

    encode, _ = load_encoder(_choose_model(args.model, args.bits))
    groups, unreadable = near_duplicates(args.folder, encode, args.max_dist, _progress)
    _print_skipped(unreadable)
    if len(unreadable) == len(find_images(args.folder)):
        return _none_readable(args.folder)
    if args.json:
        skipped = list(unreadable.values())
        found = {"max_distance": args.max_dist, "groups": groups, "skipped": skipped}
        print(json.dumps(found, indent=1))
        return 0
    for group in groups:
        print("\n".join(group), end="\n\n")
    print(f"{len(groups)} groups, {sum(map(len, groups))} images")
    return 0


def _progress(names: Sequence[str]) -> Iterator[str]:
    from tqdm import tqdm

    return iter(tqdm(names, unit="image", disable=not sys.stderr.isatty()))


def _none_readable(folder: Path) -> int:
    print(f"bindesc: {folder}: no image could be read", file=sys.stderr)
    return EXIT_BAD_INPUT


def _print_skipped(unreadable: Mapping[str, str]) -> None:
    for line in unreadable.values():
        print(f"skipped {line}", file=sys.stderr)
