"""Image retrieval on CIFAR-10: mean average precision of short binary codes.

Each test image asks for images of its class among the training images, which are ranked by Hamming
distance. The average precision at n is the mean of the precisions at the ranks of the right images
among the first n; a query without any scores 0.

Run ``python -m benchmarks.cifar10_map``; ``--rows`` and ``--bits`` choose rows, ``--model
LABEL=PATH`` adds models of your own. Codes and scores of a row are kept in the work folder,
``runs/cifar10_map`` by default; the table and the pictures show all that is there.

A code of 64 bits has 65 distances for 50,000 images, so that most ranks are tied. Two rules:

- mean: every order of tied images is as likely (McSherry and Najork 2008): the expected sum of the
  precisions over the expected number of right images, which differ from the mean of the ratio
  only where place n cuts a group of ties;
- lowest index: the first of tied images in the database, which is shuffled once, because some
  copies of CIFAR-10 are sorted by class.

The paper's figures are at n = 1000. Its authors' program takes 1000 random queries and n = 10,000,
with ties as a sort leaves them; that variant is measured too, by the mean rule. Methods that learn
see the training images without labels.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindesc.files import atomic_path
from bindesc.models.retrieval import RetrievalConfig
from bindesc.retrieval import open_images_model, shipped_model
from bindesc.training.cifar10 import read_cifar10

from .command import command
from .common import write_results
from .datasets import data_folder
from .image_codes import (
    Encoder,
    hog,
    model_encoder,
    pca_itq,
    pixels,
    random_projections,
    untrained,
)
from .ranking import average_precision, distance_histogram
from .render_tables import markdown
from .retrieval_plots import draw_neighbours, draw_precision_recall

LENGTHS = (16, 32, 64)
ROWS = ("lsh", "itq", "itq-hog", "images", "untrained")
PLACES = (1000, 10_000)
PAPER_QUERIES = 1000
PUBLISHED = [
    ["DeepBit, published", "19.43", "24.86", "27.73"],
    ["DBD-MQ, published", "21.53", "26.50", "31.85"],
    ["BinGAN, published", "30.05", "34.65", "36.77"],
]
"""mAP@1000 from BinGAN's paper (Zieba et al. 2018), %; not measured here."""

_LABELS = {
    "lsh": "random projections of pixels",
    "itq": "PCA + ITQ of pixels",
    "itq-hog": "PCA + ITQ of HOG",
    "images": "bindesc images",
    "untrained": "BinGAN untrained",
}
_PICTURED = 64  # bits of the rows in the pictures


@dataclass(frozen=True)
class Row:
    """What one row scores, as shares; ``lowest`` names the rule of the lowest index."""

    row: str
    bits: int
    map_1000: float
    map_1000_lowest: float
    map_10000: float
    map_10000_lowest: float
    paper_variant: float


class Data(NamedTuple):
    """CIFAR-10: images ``(N, 32, 32, 3)`` uint8 and labels ``(N,)``, in shuffled order."""

    database: NDArray[np.uint8]
    labels: NDArray[np.int64]
    queries: NDArray[np.uint8]
    query_labels: NDArray[np.int64]


def read_data(folder: Path, limit: int | None = None, seed: int = 0) -> Data:
    """Both halves of CIFAR-10, shuffled.

    Args:
        folder: see :func:`bindesc.training.cifar10.read_cifar10`.
        limit: at most so many queries, and five times as many images in the database.
        seed: of the order.
    """
    rng = np.random.default_rng(seed)

    def half(
        subset: Literal["train", "test"], most: int | None
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images, labels = read_cifar10(folder, subset)
        order = rng.permutation(len(images))[:most]
        return images[order], labels[order]

    return Data(*half("train", limit and 5 * limit), *half("test", limit))


def run_row(label: str, encode: Encoder, data: Data) -> tuple[Row, dict[str, NDArray]]:
    """Encode all images and score the rankings.

    Returns:
        The scores, and the arrays that pictures need: both halves' codes and ``histogram``.
    """
    database, queries = encode(data.database), encode(data.queries)
    ranking = (queries, data.query_labels, database, data.labels)
    scores = average_precision(*ranking, PLACES)
    mean, lowest = scores.mean.mean(0).tolist(), scores.lowest.mean(0).tolist()
    paper = float(scores.mean[:PAPER_QUERIES, 1].mean())  # the queries' order is random
    row = Row(label, 8 * database.shape[1], mean[0], lowest[0], mean[1], lowest[1], paper)
    histogram = distance_histogram(*ranking)
    return row, {"database": database, "queries": queries, "histogram": histogram}


class Kept(NamedTuple):
    """What a row leaves in the work folder."""

    row: Row
    identity: str
    arrays: dict[str, NDArray]


def keep(work: Path, kept: Kept) -> None:
    """Write a row into the work folder."""
    with atomic_path(work / f"{_slug(kept.row.row)}-{kept.row.bits}.npz") as path:
        row = json.dumps(asdict(kept.row))
        np.savez(path, row=row, identity=kept.identity, **kept.arrays)  # type: ignore[arg-type]


def kept_rows(work: Path) -> list[Kept]:
    """All rows of a work folder: the named ones in their order, then models, by length."""
    rows = []
    for path in work.glob("*.npz"):
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("database", "queries", "histogram")}
            rows.append(Kept(Row(**json.loads(str(file["row"]))), str(file["identity"]), arrays))
    named = [*_LABELS.values()]

    def place(kept: Kept) -> tuple[int, str, int]:
        label = kept.row.row
        return named.index(label) if label in named else len(named), label, kept.row.bits

    return sorted(rows, key=place)


def _slug(label: str) -> str:
    return re.sub(r"\W+", "-", label).strip("-").lower()


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: mAP@1000 by the mean rule, a line a method, with the published figures."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        line = cells.setdefault(row.row, [row.row, *["-"] * len(LENGTHS)])
        if row.bits in LENGTHS:
            line[1 + LENGTHS.index(row.bits)] = f"{100 * row.map_1000:.2f}"
    header = ["CIFAR-10 mAP@1000, %", *(f"{bits} bits" for bits in LENGTHS)]
    return header, [*cells.values(), *PUBLISHED]


class Wanted(NamedTuple):
    """A row to measure; the identity tells whether the work folder's row is of the same codes."""

    label: str
    bits: int
    identity: str
    make: Callable[[NDArray[np.uint8]], Encoder]


def wanted_rows(options: argparse.Namespace) -> Iterator[Wanted]:
    """The rows that are asked for, one by one."""
    learned = {
        "lsh": partial(random_projections, pixels),
        "itq": partial(pca_itq, pixels),
        "itq-hog": partial(pca_itq, hog),
    }
    for name in options.rows:
        for bits in options.bits:
            if name == "images":
                yield _of_model(_LABELS[name], shipped_model(bits))
            elif name == "untrained":
                config = replace(options.network, bits=bits)
                make = partial(untrained, config=config)
                yield Wanted(_LABELS[name], bits, str(config), make)
            else:
                yield Wanted(_LABELS[name], bits, name, partial(learned[name], bits=bits))
    for label, path in options.model:
        yield _of_model(label, path)


def _of_model(label: str, model: str | Path) -> Wanted:
    manifest = open_images_model(model).manifest
    return Wanted(label, manifest.config["bits"], manifest.sha256, lambda _: model_encoder(model))


def _model(text: str) -> tuple[str, Path]:
    """``LABEL=PATH`` or a path alone."""
    label, equals, path = text.partition("=")
    return (label, Path(path)) if equals else ("bindesc", Path(text))


@command("cifar10_map")
def main(arguments: Sequence[str] | None = None, network: RetrievalConfig | None = None) -> None:
    """Run the command.

    Args:
        arguments: of the command line.
        network: of the untrained row; by default the published one.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cifar10_map")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 (default: in BINDESC_DATA)")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="ROW",
                        help="of " + ", ".join(ROWS))  # fmt: skip
    parser.add_argument("--bits", nargs="+", type=int, choices=LENGTHS, default=LENGTHS)
    parser.add_argument(
        "--model", action="append", type=_model, default=[], metavar="LABEL=PATH",
        help="a model of image codes; repeat one label for several lengths",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="so many queries, five times as many images")
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10_map"),
                        help="folder of codes and scores (%(default)s)")  # fmt: skip
    parser.add_argument("--save", action="store_true", help="write the results as JSON and PNG")
    options = parser.parse_args(arguments)
    options.network = network or RetrievalConfig()
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: expected at least 1, got {options.limit}")
    if options.save and options.limit:
        parser.error("--save: only results on all images are saved, not with --limit")
    if options.limit:
        options.work = options.work / f"limit-{options.limit}"
    data = read_data(options.data or data_folder() / "cifar10", options.limit)
    measure(options, data)
    every = kept_rows(options.work)
    header, cells = table([kept.row for kept in every])
    print("\n" + markdown(header, cells))
    pictured = {kept.row.row: kept.arrays for kept in every if kept.row.bits == _PICTURED}
    nearest = {label: (a["queries"], a["database"]) for label, a in pictured.items()}
    draw_neighbours(options.work / "queries.png", data.queries, data.database, nearest)
    print(f"wrote {options.work / 'queries.png'}", file=sys.stderr)
    if options.save:
        path = write_results(
            "cifar10_map",
            [asdict(kept.row) for kept in every],
            libraries=("torch", "scikit-image"),
            table={"header": header, "rows": cells},
        )
        histograms = {label: arrays["histogram"] for label, arrays in pictured.items()}
        draw_precision_recall(path.with_suffix(".png"), histograms, f"{_PICTURED} bits")
        print(f"wrote {path} and {path.stem}.png beside it", file=sys.stderr)


def measure(options: argparse.Namespace, data: Data) -> None:
    """Measure the rows that the work folder does not have."""
    options.work.mkdir(parents=True, exist_ok=True)
    there = {(k.row.row, k.row.bits, k.identity): k.row for k in kept_rows(options.work)}
    for wanted in wanted_rows(options):
        row = there.get((wanted.label, wanted.bits, wanted.identity))
        if row is None:
            row, arrays = run_row(wanted.label, wanted.make(data.database), data)
            keep(options.work, Kept(row, wanted.identity, arrays))
        print(_line(row), flush=True)


def _line(row: Row) -> str:
    return (
        f"{row.row}, {row.bits} bits: mAP@1000 {row.map_1000:.2%} (lowest index "
        f"{row.map_1000_lowest:.2%}), mAP@10000 {row.map_10000:.2%} ({row.map_10000_lowest:.2%}), "
        f"{PAPER_QUERIES} queries @10000 {row.paper_variant:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
