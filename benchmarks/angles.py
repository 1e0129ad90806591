"""How far the orientations of two views of a point differ: ORB's, and as a model turns them.

The same 1000 ORB keypoints an image as in :mod:`benchmarks.image_matching`. A pair is two keypoints
that geometry alone says are the same point (at most ``LIMITS.offset`` of the patch's side apart and
``LIMITS.scale`` times as large, at any angle). The detector's angle of the first view is carried by
the derivative of the homography and compared with that of the second one; then both as the model's
orientation network turns them. The tilts are those of :mod:`benchmarks.tilt`.

Run ``python -m benchmarks.angles --save``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from bindesc.arguments import at_least
from bindesc.extractor import DEFAULT_MODEL
from bindesc.runtime import Runtime
from bindesc.training.pairing import (
    Points,
    Tolerance,
    carry_angles,
    carry_by_homography,
    pair_keypoints,
    wrap_degrees,
)

from .command import command
from .common import write_results
from .datasets import SETS, Scene, data_folder, scenes
from .descriptors import KEYPOINTS, detect, detector_points, labelled_model, model_angles
from .render_tables import markdown
from .tilt import tilted_scenes

LIMITS = Tolerance(turn=180.0)
WRONG = 20.0  # degrees
TILTS = (0, 40, 60)  # degrees
DETECTOR = "ORB's own"


@dataclass(frozen=True, eq=False)
class Oriented:
    """The keypoints of an image.

    Attributes:
        points: as the detector found them.
        angles: whose angles, and the angles ``(N,)``, degrees; the detector's first.
    """

    points: Points
    angles: dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Row:
    """The pairs of one set.

    Attributes:
        set: its name.
        row: whose angles.
        pairs: how many pairs there are.
        wrong: share of them that differ by more than :data:`WRONG`.
        median: the median difference, degrees.
    """

    set: str
    row: str
    pairs: int
    wrong: float
    median: float


def orient(gray: NDArray[np.uint8], runtimes: dict[str, Runtime]) -> Oriented:
    """The keypoints of an image, with the detector's angles and each model's."""
    points = detector_points(detect(gray))
    of_models = {label: model_angles(runtime, gray, points) for label, runtime in runtimes.items()}
    return Oriented(points, {DETECTOR: points[2], **of_models})


def view_differences(
    first: Oriented, second: Oriented, homography: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """``(P,)`` differences, degrees, 0 to 180, of the pairs of two images."""
    carried = carry_by_homography(homography, first.points[0])
    a, b = pair_keypoints(first.points, second.points, carried, LIMITS).T
    return {
        label: np.abs(wrap_degrees(carry_angles(angle, carried)[a] - second.angles[label][b]))
        for label, angle in first.angles.items()
    }


def score(name: str, images: Iterable[Scene], runtimes: dict[str, Runtime]) -> list[Row]:
    """The rows of a set, the detector's first."""
    found: dict[str, list[NDArray]] = {}
    for scene in images:
        reference = orient(scene.reference, runtimes)
        for view in scene.views:
            seen = orient(view.gray, runtimes)
            for label, differences in view_differences(reference, seen, view.homography).items():
                found.setdefault(label, []).append(differences)
    rows = []
    for label, parts in found.items():
        all_pairs = np.concatenate(parts)
        wrong, median = float((all_pairs > WRONG).mean()), float(np.median(all_pairs))
        rows.append(Row(name, label, len(all_pairs), wrong, median))
    return rows


def table(rows: Sequence[Row]) -> dict[str, list]:
    """Header and rows of text, a column for each set."""
    cells: dict[str, list[str]] = {}
    for row in rows:
        cells.setdefault(row.row, []).append(f"{100 * row.wrong:.1f} / {row.median:.1f}")
    sets = list(dict.fromkeys(row.set for row in rows))
    header = [f"% off by more than {WRONG:.0f}° / median, °", *sets]
    return {"header": header, "rows": [[label, *texts] for label, texts in cells.items()]}


@command("angles")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.angles", description="How far orientations differ."
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="sets of images")
    parser.add_argument("--limit", type=at_least(1), help="use so many scenes of each set at most")
    parser.add_argument(
        "--model", action="append", help=f"a bindesc model; repeatable ({DEFAULT_MODEL})"
    )
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/angles.json")
    options = parser.parse_args(arguments)

    def sets() -> Iterator[tuple[str, Iterable[Scene]]]:
        for name in options.sets:
            yield name, scenes(name, data_folder(), options.limit)
        for tilt in TILTS:
            yield f"tilt {tilt}°", tilted_scenes(tilt)

    models = map(labelled_model, options.model or (DEFAULT_MODEL,))
    runtimes = {label: Runtime(model) for label, model in models}
    rows = [row for name, images in sets() for row in score(name, images, runtimes)]
    text = table(rows)
    print(markdown(text["header"], text["rows"]))
    if options.save:
        settings = {
            "keypoints": KEYPOINTS,
            "wrong": WRONG,
            "limits": asdict(LIMITS),
            "tilts": TILTS,
            "limit": options.limit,
        }
        path = write_results(
            "angles",
            [asdict(row) for row in rows],
            settings=settings,
            table=text,
        )
        print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
