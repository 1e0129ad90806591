"""Correct matches under rotation in the image plane: photos that scikit-image ships, turned.

Each photo lies on a black canvas that holds it at any angle. The second view is turned, moved by
half a pixel, so that 0 degrees are interpolated too, and has noise of its own (deviation 4 grey
levels). The rate is correct matches over the upper bound of the keypoints, see
:mod:`benchmarks.image_matching`. The first row has the keypoints where OpenCV puts them, the
others where they are, see :func:`bindesc.orb.from_orb`.

Run ``python -m benchmarks.rotation --save``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bindesc.detectors import KeyPoints, create_detector
from bindesc.extractor import DEFAULT_MODEL

from .common import write_results
from .datasets import Scene, View
from .descriptors import (
    KEYPOINTS,
    PEERS,
    Descriptor,
    bindesc_descriptor,
    detect,
    detect_unmended,
)
from .matching_scores import BOUND, score_scene
from .photos import shipped_photo
from .render_tables import markdown

PHOTOS = ("astronaut", "camera", "chelsea", "coffee")
ANGLES = tuple(range(0, 360, 15))
SHOWN = (0, 15, 30, 45, 90, 135, 180, 270)
NOISE = 4.0


def turned_scenes() -> Iterator[Scene]:
    """Each photo against itself at every angle."""
    rng = np.random.default_rng(0)
    for name in PHOTOS:
        reference = on_canvas(shipped_photo(name))
        side = len(reference)
        views = []
        for angle in ANGLES:
            turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), angle, 1.0)
            turn[:, 2] += 0.5
            view = add_noise(rng, cv2.warpAffine(reference, turn, (side, side)))
            views.append(View(f"{name} {angle}", view, np.vstack([turn, [0, 0, 1]])))
        yield Scene(name, reference, tuple(views))


def on_canvas(gray: NDArray[np.uint8]) -> NDArray:
    """The photo in the middle of a black square that it can turn in."""
    height, width = gray.shape
    side = int(np.ceil(np.hypot(height, width))) + 2
    to_canvas = np.array([[1, 0, (side - width) // 2], [0, 1, (side - height) // 2]], float)
    return cv2.warpAffine(gray, to_canvas, (side, side))


def add_noise(rng: np.random.Generator, image: NDArray) -> NDArray[np.uint8]:
    """Normal noise, except where the canvas is black."""
    noisy = image.astype(np.float64) + rng.normal(0, NOISE, image.shape)
    return np.where(image > 0, np.clip(noisy, 0, 255), 0).astype(np.uint8)


def _rates(
    descriptors: Sequence[Descriptor], detect: Callable[[NDArray[np.uint8]], KeyPoints]
) -> dict[str, NDArray[np.float64]]:
    """The rate of each descriptor at each angle."""
    correct: dict[str, NDArray] = {}
    for scene in turned_scenes():
        for label, pairs in score_scene(scene, descriptors, bound=True, detect=detect).items():
            counts = np.array([pair.correct for pair in pairs])
            correct[label] = correct.get(label, 0) + counts
    bound = correct.pop(BOUND)
    return {label: counts / bound for label, counts in correct.items()}


def main() -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rotation", description=__doc__)
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/rotation.json"
    )
    options = parser.parse_args()
    unmended = Descriptor(
        "ORB at OpenCV's positions", "256 bits", create_detector("orb", KEYPOINTS)
    )
    rates = {
        **_rates([unmended], detect_unmended),
        **_rates([PEERS["orb"](), bindesc_descriptor(DEFAULT_MODEL)], detect),
    }
    shown = [ANGLES.index(angle) for angle in SHOWN]
    table: dict[str, list] = {
        "header": ["rate at degrees", *map(str, SHOWN), "least / upright"],
        "rows": [
            [label, *(f"{rate[i]:.2f}" for i in shown), f"{rate.min() / rate[0]:.2f}"]
            for label, rate in rates.items()
        ],
    }
    print(markdown(table["header"], table["rows"]))
    if options.save:
        rows = [{"row": label, "rate": rate.tolist()} for label, rate in rates.items()]
        settings = {"angles": ANGLES, "noise": NOISE, "photos": PHOTOS}
        write_results("rotation", rows, settings=settings, table=table)


if __name__ == "__main__":
    main()
