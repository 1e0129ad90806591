"""Correct matches between real images: bindesc against OpenCV's descriptors.

Protocol: one ORB detection of 1000 keypoints an image; every descriptor describes those same
keypoints; mutual nearest neighbours; a match is correct if the homography carries the one keypoint
to within 3 pixels of the other. A keypoint that a descriptor drops at the border is one it does
not match. Per set of images, the table gives

- putative: mutual nearest neighbours a pair, mean;
- correct: the correct ones among them a pair, mean;
- accuracy: all correct over all putative matches of the set;
- homography: share of the pairs whose homography, estimated from the putative matches by OpenCV's
  MAGSAC++ at 3 pixels, carries the four corners of the reference image to within 3 pixels, in the
  mean, of where the true one does;
- x TEBLID: correct over TEBLID's correct.

The upper bound is the largest number of one-to-one pairs of keypoints within 3 pixels.

Run ``python -m benchmarks.image_matching``; ``--sets`` and ``--rows`` choose parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from bindesc.arguments import at_least

from .command import command
from .common import write_results
from .datasets import SETS, Scene, data_folder, scenes
from .descriptors import KEYPOINTS, PEERS, Descriptor, bindesc_descriptor
from .matching_scores import BOUND, CORRECT_PIXELS, PairScore, score_scene
from .render_tables import markdown

ROWS = ("bound", *PEERS, "bindesc")


@dataclass(frozen=True)
class Row:
    """What one row scores on one set; means are over pairs, shares lie in 0..1.

    The upper bound has None where there is nothing to measure.
    """

    set: str
    row: str
    code: str
    pairs: int
    putative: float | None
    correct: float
    accuracy: float | None
    homography: float | None
    times_teblid: float | None
    undescribed: float


def summarise(
    set_name: str, scores: Mapping[str, Sequence[PairScore]], codes: Mapping[str, str]
) -> list[Row]:
    """Average the pairs of one set.

    Args:
        set_name: the set.
        scores: pair scores by label, at least one pair each.
        codes: what each label's descriptor writes.
    """
    teblid = sum(score.correct for score in scores.get("TEBLID", ()))
    rows = []
    for label, pairs in scores.items():
        putative = sum(score.putative for score in pairs)
        correct = sum(score.correct for score in pairs)
        is_bound = label == BOUND
        rows.append(
            Row(
                set=set_name,
                row=label,
                code=codes.get(label, ""),
                pairs=len(pairs),
                putative=None if is_bound else putative / len(pairs),
                correct=correct / len(pairs),
                accuracy=correct / putative if putative and not is_bound else None,
                homography=None if is_bound else sum(p.homography for p in pairs) / len(pairs),
                times_teblid=correct / teblid if teblid else None,
                undescribed=sum(score.undescribed for score in pairs) / len(pairs),
            )
        )
    return rows


def score_set(
    set_name: str, found: Iterable[Scene], descriptors: Sequence[Descriptor], *, bound: bool
) -> list[Row]:
    """What every descriptor, and the upper bound if asked, scores on the scenes of a set."""
    scores: dict[str, list[PairScore]] = {}
    for scene in found:
        for label, pairs in score_scene(scene, descriptors, bound=bound).items():
            scores.setdefault(label, []).extend(pairs)
    return summarise(set_name, scores, {d.label: d.code for d in descriptors})


def set_table(rows: Sequence[Row]) -> str:
    """All figures of one set, as Markdown."""
    header = ["", "code", "putative", "correct", "accuracy", "homography", "x TEBLID"]
    return markdown(
        header,
        [
            [
                row.row,
                row.code,
                _text(row.putative, ".1f"),
                _text(row.correct, ".1f"),
                _text(row.accuracy, ".3f"),
                _text(row.homography, ".0%"),
                _text(row.times_teblid, ".2f"),
            ]
            for row in rows
        ],
    )


def overview(rows: Sequence[Row]) -> dict[str, list]:
    """Correct matches and accuracy by descriptor and set, as header and rows of text."""
    sets = list(dict.fromkeys(row.set for row in rows))
    cells: dict[str, list[str]] = {row.row: [row.row, row.code] for row in rows}
    for row in rows:
        accuracy = "" if row.accuracy is None else f" / {row.accuracy:.2f}"
        cells[row.row].append(f"{row.correct:.1f}{accuracy}")
    return {"header": ["correct / accuracy", "code", *sets], "rows": list(cells.values())}


def choose_descriptors(rows: Sequence[str], models: Sequence[str]) -> list[Descriptor]:
    """The descriptors of the chosen rows; one that this OpenCV lacks is told and left out."""
    descriptors = []
    for name in rows:
        if name in PEERS:
            try:
                descriptors.append(PEERS[name]())
            except ValueError as error:
                print(f"skipped {name}: {error}", file=sys.stderr)
        elif name == "bindesc":
            descriptors += [bindesc_descriptor(model) for model in models]
    return descriptors


@command("image_matching")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    folder = data_folder()
    descriptors = choose_descriptors(options.rows, options.model or ["compact"])
    rows = []
    for name in options.sets:
        found = scenes(name, folder, options.limit)
        part = score_set(name, found, descriptors, bound="bound" in options.rows)
        rows += part
        if part and not options.json:
            print(f"{name}, {part[0].pairs} pairs\n\n{set_table(part)}", flush=True)
    if not rows:
        raise ValueError("no row can be computed")
    settings = {"keypoints": KEYPOINTS, "correct_pixels": CORRECT_PIXELS, "limit": options.limit}
    if options.json:
        print(json.dumps({"settings": settings, "rows": [asdict(row) for row in rows]}, indent=1))
    if options.save:
        path = write_results(
            options.save,
            [asdict(row) for row in rows],
            libraries=("scipy", "torch"),
            settings=settings,
            table=overview(rows),
        )
        print(f"wrote {path}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.image_matching",
        description="Correct matches between real images, on the same ORB keypoints.",
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="sets of images")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="descriptors")
    parser.add_argument(
        "--model",
        action="append",
        metavar="[LABEL=]MODEL",
        help="a bindesc model or .safetensors file; may be repeated",
    )
    parser.add_argument("--limit", type=at_least(1), help="use so many scenes of each set at most")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--save",
        nargs="?",
        const="image_matching",
        metavar="NAME",
        help="write benchmarks/results/NAME.json (%(const)s)",
    )
    return parser


def _text(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


if __name__ == "__main__":
    sys.exit(main())
