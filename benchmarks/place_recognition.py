"""Place recognition with a vocabulary tree: bindesc against ORB, on photos of 16 places.

Run ``python -m benchmarks.place_recognition --save``. The photos of ``scenes/`` (at most 12 a
place, spread evenly) are split by place into two halves. A vocabulary (k = 10, L = 4) is trained
on one half; each photo of the other half asks for the most similar photo among all others of its
half, by the L1 score of tf-idf vectors. Then the halves change roles. Both descriptors describe the
same 1000 ORB keypoints. All this is done with ten seeds of the vocabulary, and the mean is shown:
from one to another recall varies by a few percent.

The table gives the share of the photos whose first answer shows the same place (recall@1), and the
mean average precision of the whole ranking. bindesc's network was trained on photos of the same
places, so that its rows are no test; they show that the vocabulary works.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindesc.folder import find_images
from bindesc.image import ImageError, read_image, to_gray
from bindesc.training.vocabulary import train_vocabulary

from .command import command
from .common import write_results
from .datasets import data_folder
from .descriptors import KEYPOINTS, PEERS, Descriptor, bindesc_descriptor, detect
from .render_tables import markdown

PHOTOS_PER_PLACE = 12
BRANCHING, DEPTH = 10, 4
SEEDS = range(10)


@dataclass(frozen=True)
class Result:
    """What one descriptor scores, as shares."""

    row: str
    photos: int
    recall_at_1: float
    mean_average_precision: float


def read_photos(folder: Path, most: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.str_]]:
    """At most ``most`` photos of each place, spread evenly, and the place of each.

    A photo that cannot be read is told on stderr and left out.
    """
    by_place: dict[str, list[Path]] = {}
    for name in find_images(folder):
        by_place.setdefault(name.split("/")[0], []).append(folder / name)
    photos, places = [], []
    for place, paths in by_place.items():
        for i in np.unique(np.linspace(0, len(paths) - 1, most).round().astype(int)).tolist():
            try:
                photos.append(to_gray(read_image(paths[i])))
            except ImageError as error:
                print(f"skipped {error}", file=sys.stderr)
            else:
                places.append(place)
    return photos, np.array(places)


def rank_scores(
    codes: Sequence[NDArray[np.uint8]], places: NDArray[np.str_]
) -> tuple[list[bool], list[float]]:
    """Whether each photo's first answer is right, and the average precision of its ranking.

    With each seed in turn.
    """
    first: list[bool] = []
    precision: list[float] = []
    half = np.unique(places, return_inverse=True)[1] % 2
    for seed, which in product(SEEDS, (0, 1)):
        vocabulary = train_vocabulary(
            [codes[i] for i in np.flatnonzero(half != which).tolist()], BRANCHING, DEPTH, seed
        )
        asked = np.flatnonzero(half == which)
        bags = [vocabulary.transform(codes[i]) for i in asked.tolist()]
        for i, bag in enumerate(bags):
            scores = np.array([-1.0 if i == j else bag.score(o) for j, o in enumerate(bags)])
            order = np.argsort(-scores, kind="stable")[:-1]
            right = places[asked[order]] == places[asked[i]]
            first.append(bool(right[0]))
            precision.append(float((np.cumsum(right) / (1 + np.arange(len(right))))[right].mean()))
    return first, precision


def run_row(
    descriptor: Descriptor, photos: Sequence[NDArray[np.uint8]], places: NDArray[np.str_]
) -> Result:
    """Describe all photos and rank them."""
    codes = [descriptor.describe(gray, detect(gray)).codes for gray in photos]
    first, precision = rank_scores(codes, places)
    return Result(descriptor.label, len(photos), float(np.mean(first)), float(np.mean(precision)))


@command("place_recognition")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.place_recognition")
    parser.add_argument("--model", default="compact", help="a bindesc model or .safetensors file")
    parser.add_argument("--save", action="store_true", help="write the results as JSON")
    options = parser.parse_args(arguments)
    photos, places = read_photos(data_folder() / "scenes", PHOTOS_PER_PLACE)
    descriptors = [PEERS["orb"](), bindesc_descriptor(options.model)]
    results = [run_row(descriptor, photos, places) for descriptor in descriptors]
    header = [f"{len(photos)} photos", "recall@1", "mean average precision"]
    rows = [[r.row, f"{r.recall_at_1:.1%}", f"{r.mean_average_precision:.3f}"] for r in results]
    print(markdown(header, rows))
    if options.save:
        settings = {"keypoints": KEYPOINTS, "k": BRANCHING, "L": DEPTH, "seeds": len(SEEDS)}
        path = write_results(
            "place_recognition",
            [asdict(result) for result in results],
            libraries=("torch",),
            settings=settings,
            table={"header": header, "rows": rows},
        )
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
