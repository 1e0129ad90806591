"""A small copy of the image benchmarks' data, made of synthetic pictures, that tests share."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from benchmarks import datasets

HOMOGRAPHY = np.array([[0.95, -0.1, 30.0], [0.08, 1.02, -12.0], [1e-4, -5e-5, 1.0]])


def picture(seed: int = 0) -> np.ndarray:
    """Random rectangles on grey, (240, 320) uint8: corners at every scale."""
    rng = np.random.default_rng(seed)
    image = np.full((240, 320), 128, np.uint8)
    for _ in range(150):
        x, y = rng.integers(0, (320, 240))
        w, h = rng.integers(4, 40, 2)
        cv2.rectangle(image, (int(x), int(y)), (int(x + w), int(y + h)), int(rng.integers(256)), -1)
    return image


def scene() -> datasets.Scene:
    image = picture()
    warped = cv2.warpPerspective(image, HOMOGRAPHY, (320, 240))
    same = datasets.View("same", image, np.eye(3))
    return datasets.Scene("box", image, (same, datasets.View("warped", warped, HOMOGRAPHY)))


def write_image_sets(folder: Path) -> None:
    """A data folder with one homography pair and one webcam."""
    made = scene()
    pairs, webcam = folder / "homography_pairs", folder / "webcam_val" / "roof"
    pairs.mkdir()
    webcam.mkdir(parents=True)
    cv2.imwrite(str(pairs / "box_A.png"), made.reference)
    cv2.imwrite(str(pairs / "box_B.png"), made.views[1].gray)
    np.savetxt(pairs / "box_H.txt", HOMOGRAPHY)
    for name in ("1", "2", "10"):
        cv2.imwrite(str(webcam / f"{name}.png"), made.reference)
