"""How far apart matching and other keypoints are, on the user's own photos, and the thresholds.

A SLAM system keeps a match if its Hamming distance is below a fixed number of bits, which was
chosen for ORB: ``TH_LOW`` = 50 and ``TH_HIGH`` = 100 in ORB-SLAM2 and 3. Another descriptor needs
other numbers. The truth comes from geometry: two synthetic views of each photo (other viewpoint,
light, blur and noise), ORB keypoints detected in both, paired where the known homography puts one
onto the other. Pairs of different points are what a threshold must refuse.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .detectors import SCALE_FACTORS, create_detector, detect, to_arrays
from .orb import to_orb
from .reference import bit_count
from .training.pairing import pair_keypoints
from .training.pairs import PairSettings
from .training.views import made_views

ORB_THRESHOLDS = {"TH_LOW": 50, "TH_HIGH": 100}
MIN_PAIRS = 100

_SETTINGS = PairSettings()


@dataclass(frozen=True, eq=False)
class Distances:
    """How often each Hamming distance occurs.

    Attributes:
        matched: ``(bits + 1,)`` int64, the number of matched pairs at each distance.
        unmatched: ``(bits + 1,)`` int64, the same for keypoints at different places of one photo.
    """

    matched: NDArray[np.int64]
    unmatched: NDArray[np.int64]

    def recall(self, threshold: int) -> float:
        """The share of the matched pairs at ``threshold`` bits or less."""
        return _share(self.matched, threshold)

    def false_accepts(self, threshold: int) -> float:
        """The share of the unmatched pairs at ``threshold`` bits or less."""
        return _share(self.unmatched, threshold)

    def same_false_accepts(self, share: float) -> int:
        """The largest threshold that accepts no larger share of the unmatched pairs, bits."""
        total = np.cumsum(self.unmatched) / self.unmatched.sum()
        return max(int(np.searchsorted(total, share, side="right")) - 1, 0)

    def same_recall(self, share: float) -> int:
        """The smallest threshold that accepts at least this share of the matched pairs, bits."""
        total = np.cumsum(self.matched) / self.matched.sum()
        return min(int(np.searchsorted(total, share, side="left")), len(total) - 1)

    def quantile(self, which: str, share: float) -> int:
        """The distance, bits, that ``share`` of the ``matched`` or ``unmatched`` do not exceed."""
        counts = getattr(self, which)
        return int(np.searchsorted(np.cumsum(counts), share * counts.sum(), side="left"))


def measure_distances(
    photos: Iterable[NDArray[np.uint8]],
    extractors: dict[str, Any],
    views: int = 2,
    nfeatures: int = 1000,
    seed: int = 0,
) -> dict[str, Distances]:
    """Compare descriptors on the same ORB keypoints of synthetic view pairs.

    Args:
        photos: ``(H, W)`` uint8 each.
        extractors: by name, objects with OpenCV's ``compute(image, keypoints)`` for ORB keypoints;
            all descriptors 1 to 64 bytes wide.
        views: pairs of views a photo.
        nfeatures: most keypoints a view.
        seed: of the views.

    Returns:
        The distances, by name. A keypoint that one descriptor drops counts for none.

    Raises:
        ValueError: the photos give fewer than ``MIN_PAIRS`` matched pairs.
    """
    counts: dict[str, list[Any]] = {name: [0, 0] for name in extractors}
    pairs = photos_seen = 0
    for index, photo in enumerate(photos):
        photos_seen += 1
        for view in range(views):
            random = np.random.default_rng([seed, index, view])
            described = _describe_views(photo, extractors, nfeatures, random)
            for name, (first, second, different) in described.items():
                pairs += len(first)
                histograms = _histograms(first, second, different)
                counts[name] = [a + b for a, b in zip(counts[name], histograms, strict=True)]
    pairs //= max(len(extractors), 1)
    if pairs < MIN_PAIRS:
        raise ValueError(
            f"{photos_seen} photos gave {pairs} matched pairs of keypoints, "
            f"at least {MIN_PAIRS} are needed: give more photos, or photos with more detail"
        )
    return {name: Distances(*found) for name, found in counts.items()}


def _describe_views(
    photo: NDArray[np.uint8],
    extractors: dict[str, Any],
    nfeatures: int,
    random: np.random.Generator,
) -> dict[str, tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]]:
    """Codes of K matched keypoints in both views, and which pairs of the K lie apart."""
    views = made_views(photo, _SETTINGS.sides, _SETTINGS.warped, random)
    images = views.first, views.second
    detector = create_detector("orb", nfeatures)
    keypoints = [detect(detector, image, None, nfeatures) for image in images]
    arrays = [_frames(points) for points in keypoints]
    pairs = pair_keypoints(arrays[0], arrays[1], views.carry(arrays[0][0]), _SETTINGS.tolerance)
    codes: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in extractors}
    kept = np.ones(len(pairs), np.bool_)
    for image, points, chosen in zip(images, keypoints, pairs.T, strict=True):
        for name, extractor in extractors.items():
            numbered = tuple(_numbered(points[i], k) for k, i in enumerate(chosen))
            if isinstance(extractor, cv2.ORB):
                to_orb(extractor, numbered, image.shape)
            found, described = extractor.compute(image, numbered)
            rows = np.array([keypoint.class_id for keypoint in found], np.intp)
            # Rows of dropped keypoints stay empty; `kept` leaves them out for all descriptors.
            width = extractor.descriptorSize()
            full = np.zeros((len(pairs), width), np.uint8)
            full[rows] = np.zeros((0, width), np.uint8) if described is None else described
            kept &= np.isin(np.arange(len(pairs)), rows)
            codes[name].append(full)
    xy, side, _ = arrays[1]
    xy, side = xy[pairs[kept, 1]], side[pairs[kept, 1]]
    apart = np.linalg.norm(xy[:, None] - xy, axis=2) > np.maximum(side[:, None], side)
    return {name: (both[0][kept], both[1][kept], apart) for name, both in codes.items()}


def _frames(keypoints: Sequence[cv2.KeyPoint]) -> tuple[NDArray, NDArray, NDArray]:
    xy, size, angle, _ = to_arrays(keypoints)
    return xy, size * SCALE_FACTORS["orb"], angle


def _numbered(keypoint: cv2.KeyPoint, number: int) -> cv2.KeyPoint:
    """A copy whose ``class_id`` tells where it stood; ``compute`` drops and reorders."""
    x, y = keypoint.pt
    size, angle, response = keypoint.size, keypoint.angle, keypoint.response
    return cv2.KeyPoint(x, y, size, angle, response, keypoint.octave, number)


def _histograms(
    first: NDArray[np.uint8], second: NDArray[np.uint8], apart: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    bits = 8 * first.shape[1]
    distance = bit_count(first[:, None] ^ second)
    matched = np.bincount(np.diagonal(distance), minlength=bits + 1)
    return matched, np.bincount(distance[apart], minlength=bits + 1)


def _share(counts: NDArray[np.int64], threshold: int) -> float:
    return float(counts[: threshold + 1].sum() / counts.sum())


def report(new: Distances, orb: Distances) -> str:
    """The comparison as lines of text.

    Args:
        new: of the descriptor that takes ORB's place.
        orb: of ORB.
    """
    lines = [
        f"{orb.matched.sum()} matched and {orb.unmatched.sum()} unmatched pairs of ORB keypoints",
        "",
        "distance, bits         5 %  median  95 %",
    ]
    for name, distances in (("bindesc", new), ("ORB", orb)):
        for which in ("matched", "unmatched"):
            low, middle, high = (distances.quantile(which, q) for q in (0.05, 0.5, 0.95))
            lines.append(f"{name:8} {which:10} {low:7} {middle:7} {high:5}")
    for name, threshold in ORB_THRESHOLDS.items():
        recall, false = orb.recall(threshold), orb.false_accepts(threshold)
        lines += ["", f"in place of ORB-SLAM's {name} = {threshold}   bits  recall  false accepts"]
        for label, distances, bits in (
            ("ORB itself", orb, threshold),
            ("bindesc, as few false accepts", new, new.same_false_accepts(false)),
            ("bindesc, as much recall", new, new.same_recall(recall)),
        ):
            lines.append(
                f"{label:34} {bits:5} {distances.recall(bits):7.1%} "
                f"{distances.false_accepts(bits):14.2e}"
            )
    return "\n".join(lines)
