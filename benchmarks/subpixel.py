"""Where keypoints lie: on whole pixels of their level, as OpenCV finds them, or between.

The same 1000 ORB keypoints an image as in :mod:`benchmarks.image_matching`, once as they are and
once moved by :func:`bindesc.corners.subpixel_offsets`; mutual nearest neighbours. The table gives
the matches a pair that the homography carries to within 3 pixels, and to within 1.

The webcams do not move, so that whole pixels agree exactly there, as they do in no other images.

Run ``python -m benchmarks.subpixel --save``; TEBLID needs opencv-contrib-python.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from bindesc.arguments import at_least
from bindesc.extractor import DEFAULT_MODEL

from .command import command
from .common import write_results
from .datasets import SETS, data_folder, scenes
from .descriptors import KEYPOINTS, detect
from .image_matching import choose_descriptors
from .matching_scores import CORRECT_PIXELS, EXACT_PIXELS, PairScore, score_scene
from .render_tables import markdown

PLACES = {"whole pixels": False, "sub-pixel": True}


@dataclass(frozen=True)
class Row:
    """Means over the pairs of a set."""

    set: str
    row: str
    places: str
    correct: float
    exact: float


def score_set(set_name: str, limit: int | None) -> list[Row]:
    """Every descriptor at both places on one set."""
    descriptors = choose_descriptors(["orb", "teblid", "bindesc"], [DEFAULT_MODEL])
    rows = []
    for places, subpixel in PLACES.items():
        scores: dict[str, list[PairScore]] = {}
        for scene in scenes(set_name, data_folder(), limit):
            found = score_scene(
                scene, descriptors, bound=True, detect=partial(detect, subpixel=subpixel)
            )
            for label, pairs in found.items():
                scores.setdefault(label, []).extend(pairs)
        rows += [
            Row(
                set_name,
                label,
                places,
                float(np.mean([pair.correct for pair in pairs])),
                float(np.mean([pair.exact for pair in pairs])),
            )
            for label, pairs in scores.items()
        ]
    return rows


def table(rows: Sequence[Row]) -> dict[str, list]:
    """Header and rows of text: the upper bound first, each descriptor at both places."""
    sets = list(dict.fromkeys(row.set for row in rows))
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        cells.setdefault((row.row, row.places), []).append(f"{row.correct:.1f} / {row.exact:.1f}")
    order = list(dict.fromkeys(label for label, _ in cells))
    body = [[f"{label}, {places}", *cells[label, places]] for label in order for places in PLACES]
    return {"header": ["within 3 / 1 px", *sets], "rows": body}


@command("subpixel")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.subpixel", description="Matches at whole pixels and between."
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="sets of images")
    parser.add_argument("--limit", type=at_least(1), help="use so many scenes of each set at most")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/subpixel.json"
    )
    options = parser.parse_args(arguments)
    rows = [row for name in options.sets for row in score_set(name, options.limit)]
    text = table(rows)
    print(markdown(text["header"], text["rows"]))
    if options.save:
        settings = {
            "keypoints": KEYPOINTS,
            "correct_pixels": CORRECT_PIXELS,
            "exact_pixels": EXACT_PIXELS,
            "limit": options.limit,
        }
        path = write_results(
            "subpixel",
            [asdict(row) for row in rows],
            settings=settings,
            table=text,
        )
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
