"""The results that bindesc hands out: features of an image, matches of a pair, neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import cv2


@dataclass(frozen=True, eq=False)
class Features:
    """The keypoints of one image and their descriptors, as arrays that share their first axis.

    Attributes:
        xy: ``(N, 2)`` float32, pixels; the centre of the top-left pixel is (0, 0).
        size: ``(N,)`` float32, the detector's diameter in pixels (``cv2.KeyPoint.size``).
        angle: ``(N,)`` float32, degrees in [0, 360), clockwise in the image; -1 means upright.
        response: ``(N,)`` float32, the detector's strength; larger is stronger.
        descriptors: ``(N, B)`` uint8, ``8 * B`` bits, most significant bit first.
        image_size: ``(width, height)`` of the image in pixels.
    """

    xy: NDArray[np.float32]
    size: NDArray[np.float32]
    angle: NDArray[np.float32]
    response: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    image_size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.xy)

    def keypoints(self) -> tuple[cv2.KeyPoint, ...]:
        """The same as OpenCV's keypoints; ``octave`` and ``class_id`` have their defaults."""
        import cv2

        fields = (self.size, self.angle, self.response)
        rows = zip(self.xy.tolist(), *(field.tolist() for field in fields), strict=True)
        return tuple(cv2.KeyPoint(x, y, *others) for (x, y), *others in rows)


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of descriptors that belong together.

    Attributes:
        pairs: ``(K, 2)`` int32, the query and the train index, in ascending query order.
        distance: ``(K,)`` uint16, the Hamming distance in bits; a difference of two may wrap
            around.
    """

    pairs: NDArray[np.int32]
    distance: NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.pairs)

    def dmatches(self) -> tuple[cv2.DMatch, ...]:
        """The same as OpenCV's matches, for ``cv2.drawMatches`` and others."""
        import cv2

        rows = zip(self.pairs.tolist(), self.distance.tolist(), strict=True)
        return tuple(cv2.DMatch(query, train, distance) for (query, train), distance in rows)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """All neighbours within a radius, in compressed sparse rows.

    Attributes:
        offsets: ``(N + 1,)`` int64; the neighbours of query i are at ``offsets[i]:offsets[i + 1]``.
        index: ``(K,)`` int32, train indices, nearest first within a query.
        distance: ``(K,)`` uint16, their distances in bits.
    """

    offsets: NDArray[np.int64]
    index: NDArray[np.int32]
    distance: NDArray[np.uint16]
