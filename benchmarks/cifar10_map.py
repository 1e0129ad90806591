"""Image retrieval on CIFAR-10: mean average precision of short binary codes.

Run ``python -m benchmarks.cifar10_map``; ``--model LABEL=PATH`` adds models of your own. Each test
image asks for images of its class among the training images, which are ranked by Hamming distance.
The average precision at n is the mean of the precisions at the ranks of the right images among the
first n; a query without any scores 0.

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
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindesc.models.retrieval import RetrievalConfig
from bindesc.packing import unpack_bits
from bindesc.training.cifar10 import read_cifar10

from .common import write_results
from .datasets import DataMissingError, data_folder
from .image_codes import (
    Encoder,
    hog,
    model_encoder,
    pca_itq,
    pixels,
    random_projections,
    untrained,
)
from .render_tables import markdown

LENGTHS = (16, 32, 64)
ROWS = ("lsh", "itq", "itq-hog", "untrained")
PLACES = (1000, 10_000)
PAPER_QUERIES = 1000
PUBLISHED = [
    ["DeepBit, published", "19.43", "24.86", "27.73"],
    ["DBD-MQ, published", "21.53", "26.50", "31.85"],
    ["BinGAN, published", "30.05", "34.65", "36.77"],
]
"""mAP@1000 from BinGAN's paper (Zieba et al. 2018), %; not measured here."""

_BLOCK = 250  # queries ranked at once


class Precision(NamedTuple):
    """The average precision of each query at each place: ``(Q, P)`` float64 by either rule."""

    mean: NDArray[np.float64]
    lowest: NDArray[np.float64]


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


def average_precision(
    queries: NDArray[np.uint8],
    query_labels: NDArray[np.int64],
    database: NDArray[np.uint8],
    labels: NDArray[np.int64],
    places: Sequence[int],
) -> Precision:
    """Rank a database for every query and score the rankings.

    Args:
        queries: ``(Q, B)`` uint8 codes.
        query_labels: ``(Q,)``, the class of each.
        database: ``(N, B)`` uint8 codes.
        labels: ``(N,)``, the class of each.
        places: how many of the first are looked at; at most N are.
    """
    bits = 8 * database.shape[1]
    signs = [2 * unpack_bits(codes).astype(np.float32) - 1 for codes in (queries, database)]
    mean, lowest = [], []
    for start in range(0, len(queries), _BLOCK):
        span = slice(start, start + _BLOCK)
        distance = ((bits - signs[0][span] @ signs[1].T) / 2).astype(np.uint8)
        right = query_labels[span, None] == labels
        mean.append(_mean_of_ties(distance, right, bits, places))
        lowest.append(_lowest_first(distance, right, places))
    return Precision(np.concatenate(mean), np.concatenate(lowest))


def _mean_of_ties(
    distance: NDArray[np.uint8], right: NDArray[np.bool_], bits: int, places: Sequence[int]
) -> NDArray[np.float64]:
    """``(Q, P)``; distances and whether the class is right are ``(Q, N)``.

    The i-th of t tied images, of which r are right, after T others with R right ones, is right
    with probability r / t, and then has a precision of (R + 1 + (i - 1) (r - 1) / (t - 1)) /
    (T + i). Summed over i, that needs harmonic numbers only.
    """
    count, size = distance.shape
    groups = 2 * (bits + 1)
    cell = distance + (bits + 1) * right.astype(np.int64) + groups * np.arange(count)[:, None]
    histogram = np.bincount(cell.ravel(), minlength=groups * count).reshape(count, 2, -1)
    tied, tied_right = histogram.sum(1), histogram[:, 1]
    before = np.cumsum(tied, 1) - tied
    right_before = np.cumsum(tied_right, 1) - tied_right
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, size + 1))])
    share = tied_right / np.maximum(tied, 1)
    slope = (tied_right - 1) / np.maximum(tied - 1, 1)

    scores = []
    for place in places:
        seen = np.clip(place - before, 0, tied)
        reciprocals = harmonic[before + seen] - harmonic[before]
        total = share * ((right_before + 1 - (before + 1) * slope) * reciprocals + slope * seen)
        scores.append(total.sum(1) / np.maximum((share * seen).sum(1), 1e-12))
    return np.stack(scores, 1)


def _lowest_first(
    distance: NDArray[np.uint8], right: NDArray[np.bool_], places: Sequence[int]
) -> NDArray[np.float64]:
    """``(Q, P)``, with tied images in the order of the database."""
    order = np.argsort(distance, axis=1, kind="stable")[:, : max(places)]
    ranked = np.take_along_axis(right, order, 1)
    found = np.cumsum(ranked, 1)
    precision = np.cumsum(ranked * found / np.arange(1, ranked.shape[1] + 1), 1)
    last = np.minimum(places, ranked.shape[1]) - 1
    return precision[:, last] / np.maximum(found[:, last], 1)


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


def run_row(label: str, encode: Encoder, data: Data) -> Row:
    """Encode all images and score the rankings."""
    database, queries = encode(data.database), encode(data.queries)
    scores = average_precision(queries, data.query_labels, database, data.labels, PLACES)
    mean, lowest = scores.mean.mean(0).tolist(), scores.lowest.mean(0).tolist()
    paper = float(scores.mean[:PAPER_QUERIES, 1].mean())  # the queries' order is random
    return Row(label, 8 * database.shape[1], mean[0], lowest[0], mean[1], lowest[1], paper)


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: mAP@1000 by the mean rule, a line a method, with the published figures."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        line = cells.setdefault(row.row, [row.row, *["-"] * len(LENGTHS)])
        if row.bits in LENGTHS:
            line[1 + LENGTHS.index(row.bits)] = f"{100 * row.map_1000:.2f}"
    header = ["CIFAR-10 mAP@1000, %", *(f"{bits} bits" for bits in LENGTHS)]
    return header, [*cells.values(), *PUBLISHED]


def encoders(options: argparse.Namespace, data: Data) -> Iterator[tuple[str, Encoder]]:
    """The rows that are asked for, one by one."""
    train = data.database
    learned = {
        "lsh": ("random projections of pixels", partial(random_projections, pixels)),
        "itq": ("PCA + ITQ of pixels", partial(pca_itq, pixels)),
        "itq-hog": ("PCA + ITQ of HOG", partial(pca_itq, hog)),
    }
    for name in options.rows:
        for bits in options.bits:
            if name == "untrained":
                config = replace(options.network, bits=bits)
                yield "BinGAN untrained", untrained(train, config)
            else:
                label, learn = learned[name]
                yield label, learn(train, bits)
    for label, path in options.model:
        yield label, model_encoder(path)


def _model(text: str) -> tuple[str, Path]:
    """``LABEL=PATH`` or a path alone."""
    label, equals, path = text.partition("=")
    return (label, Path(path)) if equals else ("bindesc", Path(text))


def main(arguments: Sequence[str] | None = None, network: RetrievalConfig | None = None) -> int:
    """Run the command; returns the exit code: 0, or 2 if an input is unusable.

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
        help="a model by 'bindesc train retrieval'; repeat one label for several lengths",
    )  # fmt: skip
    parser.add_argument("--limit", type=int, help="so many queries, five times as many images")
    parser.add_argument("--save", action="store_true", help="write the results as JSON")
    options = parser.parse_args(arguments)
    options.network = network or RetrievalConfig()
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit: expected at least 1, got {options.limit}")
    if options.save and options.limit:
        parser.error("--save: only results on all images are saved, not with --limit")
    try:
        data = read_data(options.data or data_folder() / "cifar10", options.limit)
        rows = []
        for label, encode in encoders(options, data):
            rows.append(run_row(label, encode, data))
            print(_line(rows[-1]), flush=True)
    except DataMissingError as error:
        print(f"cifar10_map: skipped, {error}", file=sys.stderr)
        return 0
    except (OSError, ValueError) as error:
        print(f"cifar10_map: {error}", file=sys.stderr)
        return 2
    header, cells = table(rows)
    print("\n" + markdown(header, cells))
    if options.save:
        path = write_results(
            "cifar10_map",
            [asdict(row) for row in rows],
            libraries=("torch", "scikit-image"),
            table={"header": header, "rows": cells},
        )
        print(f"wrote {path}", file=sys.stderr)
    return 0


def _line(row: Row) -> str:
    return (
        f"{row.row}, {row.bits} bits: mAP@1000 {row.map_1000:.2%} (lowest index "
        f"{row.map_1000_lowest:.2%}), mAP@10000 {row.map_10000:.2%} ({row.map_10000_lowest:.2%}), "
        f"{PAPER_QUERIES} queries @10000 {row.paper_variant:.2%}"
    )


if __name__ == "__main__":
    sys.exit(main())
