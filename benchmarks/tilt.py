"""Correct matches as a flat picture is seen more and more from the side.

The photos of :mod:`benchmarks.rotation`, turned in the plane by each of six angles, then squeezed
along one axis as a far camera sees a plane that is tilted. Before, they are blurred along that axis
(deviation ``0.8 sqrt(t^2 - 1)`` pixels for a squeeze by t), so that nothing aliases, as in Morel
and Yu, "ASIFT", SIAM J. Imaging Sciences 2009; noise as there. The rate is correct matches over the
upper bound of the keypoints, see :mod:`benchmarks.image_matching`; the bound falls with the tilt,
as the detector does not see it.

Run ``python -m benchmarks.tilt --save``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.extractor import DEFAULT_MODEL

from .command import command
from .common import write_results
from .datasets import Scene, View
from .descriptors import PEERS, Descriptor, bindesc_descriptor
from .matching_scores import BOUND, score_scene
from .photos import shipped_photo
from .render_tables import markdown
from .rotation import NOISE, PHOTOS, add_noise, on_canvas

TILTS = (0, 30, 40, 50, 60, 65)  # degrees
DIRECTIONS = tuple(range(0, 180, 30))


def tilted_scenes(tilt: int) -> Iterator[Scene]:
    """Each photo against itself from all directions."""
    squeeze = 1 / np.cos(np.radians(tilt))
    rng = np.random.default_rng(tilt)
    for name in PHOTOS:
        reference = on_canvas(shipped_photo(name))
        side = len(reference)
        middle = (side - 1) / 2
        views = []
        for direction in DIRECTIONS:
            turn = np.vstack([cv2.getRotationMatrix2D((middle, middle), direction, 1), [0, 0, 1]])
            image: NDArray = cv2.warpAffine(reference, turn[:2], (side, side))
            if tilt:
                blur = 0.8 * np.sqrt(squeeze**2 - 1)
                image = cv2.GaussianBlur(image, (0, 0), sigmaX=blur, sigmaY=1e-6)
            flat = np.array([[1 / squeeze, 0, middle - middle / squeeze], [0, 1, 0.5], [0, 0, 1]])
            image = add_noise(rng, cv2.warpAffine(image, flat[:2], (side, side)))
            views.append(View(f"{name} {direction}", image, flat @ turn))
        yield Scene(name, reference, tuple(views))


def _counts(descriptors: list[Descriptor], tilt: int) -> dict[str, float]:
    """Mean number of correct matches of each descriptor, and the bound."""
    counts: dict[str, list[int]] = {}
    for scene in tilted_scenes(tilt):
        for label, pairs in score_scene(scene, descriptors, bound=True).items():
            counts.setdefault(label, []).extend(pair.correct for pair in pairs)
    return {label: float(np.mean(values)) for label, values in counts.items()}


@command("tilt")
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tilt", description=__doc__)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/tilt.json")
    parser.add_argument(
        "--model", action="append", help=f"a bindesc model; repeatable ({DEFAULT_MODEL}, tiny)"
    )
    options = parser.parse_args(arguments)
    models = [bindesc_descriptor(name) for name in options.model or (DEFAULT_MODEL, "tiny")]
    descriptors = [*(PEERS[name]() for name in ("orb", "sift", "teblid")), *models]
    found = [_counts(descriptors, tilt) for tilt in TILTS]
    table: dict[str, list] = {
        "header": ["rate at degrees", *map(str, TILTS)],
        "rows": [
            [row.label, *(f"{counts[row.label] / counts[BOUND]:.2f}" for counts in found)]
            for row in descriptors
        ],
    }
    table["rows"].append(["upper bound, keypoints", *(f"{c[BOUND]:.0f}" for c in found)])
    print(markdown(table["header"], table["rows"]))
    if options.save:
        rows = [{"tilt": tilt, "correct": c} for tilt, c in zip(TILTS, found, strict=True)]
        settings = {"directions": DIRECTIONS, "noise": NOISE, "photos": PHOTOS}
        write_results("tilt", rows, settings=settings, table=table)


if __name__ == "__main__":
    sys.exit(main())
