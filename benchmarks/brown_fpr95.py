"""Verification of patches: false positive rate at 95 % recall, as BinGAN's paper reports it.

Test sets are ``oxford_affine`` (the protocol of :mod:`benchmarks.patch_pairs`, 12,000 matching and
12,000 other pairs, three draws of the noise on their keypoints), real PhotoTour folders given with
``--root``, or photos given with ``--photos``, seen through synthetic homographies, for choosing
settings. Every row describes the same patches, except that a model trained with another ``support``
sees them that much wider on the image sets; the sheets of PhotoTour have one width only. They are
described as upright keypoints are; a model with an orientation network has a second row, in which
that turns them first. A network that sees log-polar patches has them cut from the images, as
``detectAndCompute`` does; the row of square ones says what ``describe`` makes of those.

- FPR@95: the threshold is the matching distance of index int(0.95 n) in ascending order; another
  pair at or below it is an error, so ties count against the descriptor. In brackets the 95 %
  bootstrap interval over pairs.
- bias: mean distance of a bit's frequency from one half; correlation: mean absolute correlation of
  two bits.

Run ``python -m benchmarks.brown_fpr95``; ``--model LABEL=PATH`` adds models of your own, and
``--seed`` draws other pairs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bindesc.arguments import at_least
from bindesc.retrieval import LENGTHS, shipped_model
from bindesc.training.brown import open_brown
from bindesc.training.scores import (
    bit_bias,
    bit_correlation,
    bootstrap_interval,
    false_positive_rate,
    pair_distances,
)
from bindesc.weights import list_models

from .command import command
from .common import write_results
from .datasets import OXFORD, DataMissingError, data_folder, scenes
from .descriptors import labelled_model
from .fpr95_plots import Distances, draw_histograms, draw_roc
from .patch_descriptors import (
    PATCH_PEERS,
    PatchDescriptor,
    model_rows,
    opencv_row,
    untrained_row,
)
from .patch_pairs import (
    PatchPairs,
    brown_folders,
    pairs_from_brown,
    pairs_from_scenes,
    scenes_of_photos,
)
from .render_tables import markdown

ROWS = (*PATCH_PEERS, "untrained", "bindesc")
OXFORD_SET = "oxford_affine"
SEED = 0
PAIRS = 12_000  # of each kind
DRAWS = 3  # of the noise: that of one changes the rate by a fourth of itself

PUBLISHED_HEADER = [
    "published FPR@95, %", "code", "Yos->ND", "Yos->Lib", "ND->Yos", "ND->Lib", "Lib->Yos",
    "Lib->ND", "mean",
]  # fmt: skip
PUBLISHED = [
    ["BRISK", "512 bits", "74.88", "79.36", "73.21", "79.36", "73.21", "74.88", "75.8"],
    ["BRIEF", "256 bits", "54.57", "59.15", "54.96", "59.15", "54.96", "54.57", "56.2"],
    ["SIFT", "128 bytes", "28.09", "36.27", "29.15", "36.27", "29.15", "28.09", "31.2"],
    ["DeepBit", "256 bits", "29.60", "34.41", "63.68", "32.06", "57.61", "26.66", "40.67"],
    ["DBD-MQ", "256 bits", "27.20", "33.11", "57.24", "31.10", "57.15", "25.78", "38.59"],
    ["BinGAN", "256 bits", "16.88", "26.08", "40.80", "25.76", "47.64", "27.84", "30.8"],
]
"""BinGAN's table on PhotoTour (Zieba et al. 2018), training set -> test set; not measured here."""


@dataclass(frozen=True)
class Row:
    """What one row scores on one set; rates and their interval lie in 0..1."""

    set: str
    row: str
    code: str
    support: float
    pairs: int
    fpr95: float
    low: float
    high: float
    bias: float | None
    correlation: float | None


def score(test: PatchPairs, row: PatchDescriptor) -> tuple[Row, Distances]:
    """Describe the patches of a set and measure the distances of its pairs."""
    codes = row.describe(test.cut(row.support, row.side))
    distance = pair_distances(codes[test.pairs[:, 0]], codes[test.pairs[:, 1]])
    distances = Distances(distance[test.same], distance[~test.same])
    low, high = bootstrap_interval(*distances)
    binary = codes.dtype == np.uint8
    bits = np.unpackbits(codes, axis=1).astype(bool) if binary else None
    scored = Row(
        set=test.name,
        row=row.label,
        code=row.code,
        support=row.support,
        pairs=len(test.pairs),
        fpr95=false_positive_rate(*distances),
        low=low,
        high=high,
        bias=None if bits is None else bit_bias(bits),
        correlation=None if bits is None else bit_correlation(bits),
    )
    return scored, distances


def oxford_pairs(
    folder: Path, count: int = PAIRS, seed: int = SEED, draws: int = DRAWS
) -> PatchPairs:
    """The test set ``oxford_affine``, of the data in a folder; see :func:`pairs_from_scenes`."""
    found = (scene for part in OXFORD for scene in scenes(part, folder))
    return pairs_from_scenes(OXFORD_SET, found, count, seed, draws=draws)


def table(rows: Sequence[Row]) -> dict[str, list]:
    """Header and rows of text; a set a column, the bits' use of the first set."""
    sets = list(dict.fromkeys(row.set for row in rows))
    cells: dict[str, list[str]] = {}
    for row in rows:
        if row.row not in cells:
            cells[row.row] = [row.row, row.code, f"{row.support:g}", *["-"] * len(sets)]
            cells[row.row] += [_text(row.bias), _text(row.correlation)]
        interval = f"({100 * row.low:.1f}-{100 * row.high:.1f})"
        cells[row.row][3 + sets.index(row.set)] = f"{100 * row.fpr95:.1f} {interval}"
    header = ["FPR@95, %", "code", "support", *sets, "bit bias", "bit correlation"]
    return {"header": header, "rows": list(cells.values())}


@command("brown_fpr95")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    descriptors = list(_descriptors(options))
    rows: list[Row] = []
    for test in _tests(options):
        distances = {}
        for descriptor in descriptors:
            row, distances[descriptor.label] = score(test, descriptor)
            rows.append(row)
            print(_line(row), flush=True)
        if options.plots is not None and distances:
            options.plots.mkdir(parents=True, exist_ok=True)
            draw_roc(options.plots / f"roc_{test.name}.png", test.name, distances)
            draw_histograms(options.plots / f"distances_{test.name}.png", test.name, distances)
    if not rows:
        raise ValueError("no row can be computed")
    measured = table(rows)
    print("\n" + markdown(measured["header"], measured["rows"]))
    print(markdown(PUBLISHED_HEADER, PUBLISHED))
    if options.save:
        pairs = {"pairs_of_each_kind": options.pairs, "draws": DRAWS, "seed": options.seed}
        settings = {**pairs, "resamples": 1000}
        libraries = ("torch",)
        written = [asdict(row) for row in rows]
        published = {"header": PUBLISHED_HEADER, "rows": PUBLISHED}
        print(
            "wrote",
            write_results(
                options.save, written, libraries=libraries, settings=settings, table=measured
            ),
            write_results("brown_published", [], table=published),
            file=sys.stderr,
        )


def _tests(options: argparse.Namespace) -> Iterator[PatchPairs]:
    for root in options.root:
        for folder in brown_folders(root):
            yield pairs_from_brown(folder, options.pairs, options.seed)
    for folder in options.photos:
        made = scenes_of_photos(folder, options.seed)
        yield pairs_from_scenes(folder.name, made, options.pairs, options.seed, draws=DRAWS)
    if not options.root and not options.photos:
        yield oxford_pairs(data_folder(), options.pairs, options.seed)


def _descriptors(options: argparse.Namespace) -> Iterator[PatchDescriptor]:
    """The chosen rows; one that cannot run here is told and left out."""
    for name in options.rows:
        if name in PATCH_PEERS:
            try:
                yield opencv_row(name, options.support)
            except ValueError as error:
                print(f"skipped {name}: {error}", file=sys.stderr)
    models = [labelled_model(text) for text in options.model or _patch_models()]
    shown = []
    if "bindesc" in options.rows:
        shown = [row for model in models for row in model_rows(*model)]
    if "untrained" in options.rows:
        try:
            training = open_brown(options.train or data_folder() / "brown" / "notredame")
            yield untrained_row(training.read_patches(), options.untrained_support)
        except (DataMissingError, FileNotFoundError) as error:
            print(f"skipped untrained: no training patches ({error})", file=sys.stderr)
    yield from shown


def _patch_models() -> list[str]:
    """The shipped models but those for whole images."""
    return [name for name in list_models() if name not in map(shipped_model, LENGTHS)]


def _line(row: Row) -> str:
    interval = f"{100 * row.fpr95:5.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f})"
    bits = f"bias {_text(row.bias)}, correlation {_text(row.correlation)}"
    return f"{row.set}: {row.row:24} {interval}, {bits}"


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.brown_fpr95",
        description="False positive rate at 95 % recall on pairs of patches.",
    )
    parser.add_argument(
        "--root", type=Path, action="append", default=[], metavar="FOLDER",
        help="a PhotoTour folder with an m50 file, or a folder of such; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--photos", type=Path, action="append", default=[], metavar="FOLDER",
        help="photos, seen through synthetic homographies; repeatable",
    )  # fmt: skip
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="descriptors")
    parser.add_argument(
        "--model", action="append", metavar="[LABEL=]MODEL",
        help="a shipped model or a .safetensors file; repeatable (default: all shipped ones)",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=at_least(1), default=PAIRS, help="pairs of each kind (%(default)s)"
    )
    parser.add_argument(
        "--seed", type=at_least(0), default=SEED,
        help="of the draw of pairs, and of the noise on their keypoints (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--support", type=float, default=1.0,
        help="patch side over the keypoint's size, but for models (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--untrained-support", type=float, default=1.25,
        help="the same for the untrained network: as the shipped models have it (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--train", type=Path, metavar="FOLDER",
        help="PhotoTour folder that the untrained network is initialised from "
        "(default: brown/notredame of the data folder)",
    )  # fmt: skip
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write PNG curves there")
    parser.add_argument(
        "--save", nargs="?", const="brown_fpr95", metavar="NAME",
        help="write benchmarks/results/NAME.json (%(const)s)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
