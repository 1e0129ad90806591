"""Two images to features, matches and a model of the motion between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from . import matching, reference
from .geometry import MIN_MATCHES, Geometry, Kind, enough_inliers, estimate
from .image import resize_to
from .types import Features, Matches

Norm = Literal["hamming", "l2"]

# The length of an OpenCV SIFT vector is about 512; sqrt(2) times that lies between two vectors
# that share nothing.
_SIFT_FAR = 512 * 2**0.5


class Extractor(Protocol):
    """What turns an image into features: ``BinDesc`` and ``OpenCVFeatures``."""

    def extract(self, image: NDArray[np.uint8]) -> Features:
        """Detect and describe; several threads may do so at once."""
        ...


@dataclass(frozen=True)
class Filters:
    """Which nearest neighbours count as matches; see :func:`bindesc.match`.

    Attributes:
        mutual: keep a pair only if each is the other's nearest.
        ratio: keep if the nearest is nearer than ``ratio`` times the second nearest.
        margin: keep if the second nearest is at least this much farther.
        max_distance: keep if the distance is at most this.

    Raises:
        ValueError: a filter is out of range.
    """

    mutual: bool = True
    ratio: float | None = None
    margin: int | None = None
    max_distance: int | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio: expected above 0 and at most 1, got {self.ratio}")
        for name in ("margin", "max_distance"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")


@dataclass(frozen=True, eq=False)
class Pair:
    """The result for two images; all coordinates are pixels of the original images.

    Attributes:
        features0: of the first image.
        features1: of the second image.
        matches: indices into both; distances in bits, or Euclidean for ``norm`` "l2".
        norm: how descriptors were compared.
        kind: the model that was looked for, or None.
        geometry: that model and its inliers; without a kind, no model and all False.
    """

    features0: Features
    features1: Features
    matches: Matches
    norm: Norm
    kind: Kind | None
    geometry: Geometry

    @property
    def xy0(self) -> NDArray[np.float32]:
        """``(K, 2)`` float32, the matched points of the first image, pixels."""
        return self.features0.xy[self.matches.pairs[:, 0]]

    @property
    def xy1(self) -> NDArray[np.float32]:
        """``(K, 2)`` float32, the matched points of the second image, pixels."""
        return self.features1.xy[self.matches.pairs[:, 1]]

    @property
    def confidence(self) -> NDArray[np.float32]:
        """``(K,)`` float32 in [0, 1]: 1 minus the distance over the largest one to expect."""
        bits = 8 * self.features0.descriptors.shape[1]
        return confidence(self.matches, bits if self.norm == "hamming" else _SIFT_FAR)

    def shortfall(self) -> str | None:
        """Why this is too few to rely on, in one line, or None where it is enough."""
        for order, features in (("first", self.features0), ("second", self.features1)):
            if not len(features):
                return f"no keypoints in the {order} image"
        if not len(self.matches):
            return "no matches"
        if self.kind is None:
            return None
        least = MIN_MATCHES[self.kind]
        if len(self.matches) < least:
            return f"{len(self.matches)} matches, a model ({self.kind}) needs {least}"
        inliers = int(self.geometry.inliers.sum())
        if not enough_inliers(self.kind, inliers, len(self.matches)):
            return f"{inliers} inliers of {len(self.matches)} matches, no more than chance gives"
        return None


def confidence(matches: Matches, largest: float) -> NDArray[np.float32]:
    """``(K,)`` float32 in [0, 1]: 1 minus the distances over the largest one to expect."""
    return np.clip(1 - matches.distance / np.float32(largest), 0, 1).astype(np.float32)


def per_keypoint(
    count: int, matches: Matches, confidence: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Matches as SuperGlue and hloc have them: for each of ``count`` keypoints of the first image.

    Returns:
        ``(count,)`` int32 the partner in the second image, -1 for none, and ``(count,)`` float32
        the confidence, 0 for none.
    """
    partner, scores = np.full(count, -1, np.int32), np.zeros(count, np.float32)
    query, train = matches.pairs.T
    partner[query], scores[query] = train, confidence
    return partner, scores


def extract_resized(
    extractor: Extractor, image: NDArray[np.uint8], long_side: int | None = None
) -> Features:
    """Extract from a shrunken image, in the coordinates of the original.

    Args:
        extractor: what detects and describes.
        image: ``(H, W)`` or ``(H, W, 3)`` uint8.
        long_side: shrink to this longer side first, pixels; None keeps the size.

    Returns:
        Features whose ``xy``, ``size`` and ``image_size`` are pixels of ``image``.
    """
    small = image if long_side is None else resize_to(image, long_side)
    features = extractor.extract(small)
    if small is image:
        return features
    size = np.array(image.shape[1::-1], np.float32)
    scale = size / np.array(small.shape[1::-1], np.float32)
    return replace(
        features,
        xy=((features.xy + np.float32(0.5)) * scale - np.float32(0.5)).astype(np.float32),
        size=(features.size * scale.mean()).astype(np.float32),
        image_size=(image.shape[1], image.shape[0]),
    )


def match_pair(
    features0: Features,
    features1: Features,
    norm: Norm = "hamming",
    filters: Filters | None = None,
    kind: Kind | None = "H",
    threshold: float = 3.0,
    seed: int = 0,
) -> Pair:
    """Match the features of two images and fit a model.

    Args:
        features0: of the first image.
        features1: of the second image.
        norm: ``"hamming"`` for binary descriptors, ``"l2"`` for SIFT.
        filters: which neighbours to keep; mutual ones if None.
        kind: the model, ``"H"`` or ``"F"``; None for none.
        threshold: largest error of an inlier, pixels.
        seed: of the robust estimation.

    Raises:
        ValueError: a filter or setting is out of range.
    """
    filters = filters or Filters()
    first, second = features0.descriptors, features1.descriptors
    if norm == "hamming":
        matches = matching.match(
            first,
            second,
            mutual=filters.mutual,
            ratio=filters.ratio,
            margin=filters.margin,
            max_distance=filters.max_distance,
        )
    else:
        matches = reference.select(
            _nearest_l2(first, second),
            mutual=filters.mutual,
            ratio=filters.ratio,
            margin=filters.margin,
            max_distance=filters.max_distance,
        )
    geometry = Geometry(None, np.zeros(len(matches), np.bool_))
    if kind is not None:
        xy0, xy1 = features0.xy[matches.pairs[:, 0]], features1.xy[matches.pairs[:, 1]]
        geometry = estimate(xy0, xy1, kind, threshold, seed)
    return Pair(features0, features1, matches, norm, kind, geometry)


def _nearest_l2(query: NDArray[np.uint8], train: NDArray[np.uint8]) -> reference.Nearest:
    """The two nearest by Euclidean distance, which is rounded to whole numbers."""
    n, m = len(query), len(train)
    index = np.full((n, 2), reference.NO_INDEX, np.int32)
    distance = np.full((n, 2), reference.NO_DISTANCE, np.uint16)
    column_index = np.full(m, reference.NO_INDEX, np.int32)
    column_distance = np.full(m, reference.NO_DISTANCE, np.uint16)
    if n and m:
        # Exact in float32: sums of 128 products below 2^16 stay below 2^24.
        a, b = query.astype(np.float32), train.astype(np.float32)
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * (a @ b.T)
        found = min(2, m)
        order = np.argsort(squared, axis=1, kind="stable")[:, :found]
        index[:, :found] = order
        distance[:, :found] = np.rint(np.sqrt(np.take_along_axis(squared, order, axis=1)))
        column_index[:] = squared.argmin(axis=0)
        column_distance[:] = np.rint(np.sqrt(squared.min(axis=0)))
    return reference.Nearest(index, distance, column_index, column_distance)
