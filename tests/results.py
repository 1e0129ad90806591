"""Made-up features and matches that tests share."""

from __future__ import annotations

import numpy as np

from bindesc.geometry import Geometry
from bindesc.pair import Pair
from bindesc.types import Features, Matches


def features(count: int, seed: int = 0, width: int = 32) -> Features:
    random = np.random.default_rng(seed)
    xy, size, angle, response = (
        random.uniform(0, 100, shape).astype(np.float32)
        for shape in ((count, 2), count, count, count)
    )
    codes = random.integers(0, 256, (count, width)).astype(np.uint8)
    return Features(xy, size, angle, response, codes, (120, 90))


def pair() -> Pair:
    matches = Matches(np.array([[0, 2], [3, 1]], np.int32), np.array([0, 64], np.uint16))
    geometry = Geometry(np.eye(3), np.array([False, True]))
    return Pair(features(5), features(4, 1), matches, "hamming", "H", geometry)
