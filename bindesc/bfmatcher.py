"""A stand-in for ``cv2.BFMatcher`` on binary descriptors: the same calls and matches, faster."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from numbers import Real
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from . import matching

_Matches = tuple[cv2.DMatch, ...]
_Codes = NDArray[np.uint8]


class BFMatcher:
    """Exact Hamming matching behind OpenCV's brute-force interface.

    Differences from ``cv2.BFMatcher``: only ``NORM_HAMMING``, which is the default; masks are
    refused; ``k`` is at most 32; errors are ``TypeError`` and ``ValueError``; ``crossCheck`` also
    works with a collection of several images.

    Args:
        normType: ``cv2.NORM_HAMMING``.
        crossCheck: keep only pairs that are each other's nearest, in ``match`` and in ``knnMatch``
            with ``k=1``, the only k then allowed.

    Raises:
        ValueError: another norm.

    Example:
        >>> codes = np.arange(64, dtype=np.uint8).reshape(2, 32)
        >>> [(m.queryIdx, m.trainIdx) for m in BFMatcher(crossCheck=True).match(codes, codes[::-1])]
        [(0, 1), (1, 0)]
    """

    def __init__(self, normType: int = cv2.NORM_HAMMING, crossCheck: bool = False) -> None:
        if normType != cv2.NORM_HAMMING:
            raise ValueError(
                f"normType: expected cv2.NORM_HAMMING ({cv2.NORM_HAMMING}), got {normType}"
            )
        self._cross_check = bool(crossCheck)
        self._images: list[_Codes] = []

    @staticmethod
    def create(normType: int = cv2.NORM_HAMMING, crossCheck: bool = False) -> BFMatcher:
        """The constructor, as OpenCV spells it."""
        return BFMatcher(normType, crossCheck)

    def add(self, descriptors: Iterable[_Codes]) -> None:
        """Add the descriptors of some images to the collection, each ``(M, B)`` uint8."""
        self._images.extend(np.asarray(_host(image)) for image in descriptors)

    def train(self) -> None:
        """Do nothing: brute force needs no index."""

    def clear(self) -> None:
        """Empty the collection."""
        self._images.clear()

    def empty(self) -> bool:
        """Whether the collection holds no image."""
        return not self._images

    def getTrainDescriptors(self) -> tuple[_Codes, ...]:
        """The collection, an array per image."""
        return tuple(self._images)

    def isMaskSupported(self) -> bool:
        """False: masks are refused."""
        return False

    def match(
        self, queryDescriptors: _Codes, trainDescriptors: _Codes | None = None, mask: Any = None
    ) -> _Matches:
        """The best match of each query; with ``crossCheck``, of each query that has a mutual one.

        Args:
            queryDescriptors: ``(N, B)`` uint8, or None for no descriptors.
            trainDescriptors: ``(M, B)`` uint8; by default the collection.
            mask: None.

        Returns:
            Matches in ascending query order.
        """
        rows = self.knnMatch(queryDescriptors, trainDescriptors, 1, mask)
        return tuple(match for row in rows for match in row)

    def knnMatch(
        self,
        queryDescriptors: _Codes,
        trainDescriptors: _Codes | int | None = None,
        k: int | None = None,
        mask: Any = None,
        compactResult: bool = False,
    ) -> tuple[_Matches, ...]:
        """The k best matches of each query, nearest first; fewer if there are fewer descriptors.

        Both of OpenCV's forms work: ``knnMatch(query, train, k)`` and, against the collection,
        ``knnMatch(query, k)``.

        Args:
            queryDescriptors: ``(N, B)`` uint8, or None for no descriptors.
            trainDescriptors: ``(M, B)`` uint8; by default the collection.
            k: matches a query, 1 to 32.
            mask: None.
            compactResult: leave out queries without a match.

        Returns:
            The matches of each query, in order.
        """
        if isinstance(trainDescriptors, Real):  # knnMatch(query, k, masks, compactResult)
            compact = compactResult or bool(mask)
            return self.knnMatch(queryDescriptors, None, trainDescriptors, k, compact)
        if k is None:
            raise TypeError("k: missing")
        query, train, images = self._arguments(queryDescriptors, trainDescriptors, mask)
        if query is None:
            return ()
        if self._cross_check and k != 1:
            raise ValueError(f"k: must be 1 with crossCheck, got {k}")
        if self._cross_check:
            mutual = matching.match(query, train)
            counts = np.zeros(len(query), np.int64)
            counts[mutual.pairs[:, 0]] = 1
            index, distance = mutual.pairs[:, 1], mutual.distance
        else:
            found = matching.nearest(query, train, k)
            present = found.index >= 0
            counts = present.sum(1)
            index, distance = found.index[present], found.distance[present]
        rows = _rows(np.concatenate([[0], np.cumsum(counts)]), index, distance, images)
        return tuple(row for row in rows if row) if compactResult else rows

    def radiusMatch(
        self,
        queryDescriptors: _Codes,
        trainDescriptors: _Codes | float | None = None,
        maxDistance: float | None = None,
        mask: Any = None,
        compactResult: bool = False,
    ) -> tuple[_Matches, ...]:
        """All matches of each query that are at most ``maxDistance`` bits away, nearest first.

        Both of OpenCV's forms work: ``radiusMatch(query, train, maxDistance)`` and, against the
        collection, ``radiusMatch(query, maxDistance)``. Like OpenCV, it ignores ``crossCheck``.

        Args:
            queryDescriptors: ``(N, B)`` uint8, or None for no descriptors.
            trainDescriptors: ``(M, B)`` uint8; by default the collection.
            maxDistance: bits, above 0.
            mask: None.
            compactResult: leave out queries without a match.

        Returns:
            The matches of each query, in order.
        """
        if isinstance(
            trainDescriptors, Real
        ):  # radiusMatch(query, maxDistance, masks, compactResult)
            compact = compactResult or bool(mask)
            return self.radiusMatch(queryDescriptors, None, trainDescriptors, maxDistance, compact)
        if maxDistance is None:
            raise TypeError("maxDistance: missing")
        if not maxDistance > 0:
            raise ValueError(f"maxDistance: expected a number above 0, got {maxDistance}")
        query, train, images = self._arguments(queryDescriptors, trainDescriptors, mask)
        if query is None:
            return ()
        found = matching.radius(query, train, int(min(maxDistance, 8 * matching.MAX_BYTES)))
        rows = _rows(found.offsets, found.index, found.distance, images)
        return tuple(row for row in rows if row) if compactResult else rows

    def _arguments(
        self, query: _Codes | None, train: Any, mask: Any
    ) -> tuple[_Codes | None, _Codes, NDArray[np.int64]]:
        """The query, all train descriptors, and where each image starts among them."""
        if mask is not None and np.size(mask):
            raise ValueError("mask: not supported; filter the matches instead")
        query, train = _host(query), _host(train)
        images = self._images if train is None else [train]
        if query is None or len(query) == 0 or not images:
            return None, np.empty((0, 0), np.uint8), np.zeros(1, np.int64)
        stacked = images[0] if len(images) == 1 else np.concatenate(images)
        starts = np.cumsum([0, *(len(image) for image in images[:-1])])
        return _even(query), _even(stacked), starts


def _host(codes: Any) -> Any:
    return codes.get() if isinstance(codes, cv2.UMat) else codes


def _even(codes: _Codes) -> _Codes:
    """Codes padded with a zero byte to an even width, which changes no distance."""
    if isinstance(codes, np.ndarray) and codes.ndim == 2 and codes.shape[1] % 2:
        return np.pad(codes, ((0, 0), (0, 1)))
    return codes


def _rows(
    offsets: NDArray[np.int64],
    index: NDArray[np.int32],
    distance: NDArray[np.uint16],
    starts: NDArray[np.int64],
) -> tuple[_Matches, ...]:
    """The matches of each query as ``cv2.DMatch``, from compressed sparse rows."""
    query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    image = np.searchsorted(starts, index, side="right") - 1
    fields = (query, index - starts[image], image, distance.astype(float))
    matches = list(map(cv2.DMatch, *(field.tolist() for field in fields)))
    return tuple(tuple(matches[i:j]) for i, j in pairwise(offsets.tolist()))
