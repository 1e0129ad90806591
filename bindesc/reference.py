"""Hamming matching in plain NumPy: the oracle that every kernel must equal bit for bit.

Ties go to the lowest index, everywhere. A missing neighbour has index -1 and distance 65535.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .types import Matches

NO_INDEX = -1
NO_DISTANCE = 0xFFFF

_BITS_OF_BYTE = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(
    1, dtype=np.uint16
)


@dataclass(frozen=True, eq=False)
class Nearest:
    """What one pass over all pairs of N queries and M train descriptors finds.

    Attributes:
        index: ``(N, k)`` int32, the k nearest train indices of each query, nearest first.
        distance: ``(N, k)`` uint16, their distances in bits.
        column_index: ``(M,)`` int32, the nearest query of each train descriptor.
        column_distance: ``(M,)`` uint16, its distance in bits.
    """

    index: NDArray[np.int32]
    distance: NDArray[np.uint16]
    column_index: NDArray[np.int32]
    column_distance: NDArray[np.uint16]


def bit_count(codes: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """The number of ones in each code: ``(..., B)`` uint8 to ``(...)`` uint16."""
    return _BITS_OF_BYTE[codes].sum(-1, dtype=np.uint16)


def hamming(query: NDArray[np.uint8], train: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """All distances: ``(N, B)`` and ``(M, B)`` uint8 to ``(N, M)`` uint16, in bits."""
    return bit_count(query[:, None, :] ^ train[None, :, :])


def nearest(query: NDArray[np.uint8], train: NDArray[np.uint8], k: int = 2) -> Nearest:
    """The k nearest train descriptors of each query, and the nearest query of each of them."""
    n, m = len(query), len(train)
    index = np.full((n, k), NO_INDEX, np.int32)
    distance = np.full((n, k), NO_DISTANCE, np.uint16)
    column_index = np.full(m, NO_INDEX, np.int32)
    column_distance = np.full(m, NO_DISTANCE, np.uint16)
    if n and m:
        all_pairs = hamming(query, train)
        found = min(k, m)
        # A stable sort keeps the lower index first among equal distances.
        order = np.argsort(all_pairs, axis=1, kind="stable")[:, :found]
        index[:, :found] = order
        distance[:, :found] = np.take_along_axis(all_pairs, order, axis=1)
        column_index[:] = all_pairs.argmin(axis=0)
        column_distance[:] = all_pairs.min(axis=0)
    return Nearest(index, distance, column_index, column_distance)


def select(
    found: Nearest,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    margin: int | None = None,
    max_distance: int | None = None,
) -> Matches:
    """Keep the nearest neighbours that pass every given test.

    Args:
        found: the two nearest neighbours (``k >= 2``, needed by ``ratio`` and ``margin``).
        mutual: keep a pair only if each is the other's nearest.
        ratio: keep if ``d1 < ratio * d2``; a query with no second neighbour passes.
        margin: keep if ``d2 - d1 >= margin`` bits; a query with no second neighbour passes.
        max_distance: keep if ``d1 <= max_distance`` bits.
    """
    best = found.index[:, 0]
    first = found.distance[:, 0].astype(np.int64)
    second = found.distance[:, 1].astype(np.int64)
    alone = found.index[:, 1] == NO_INDEX
    keep = best != NO_INDEX
    if mutual:
        keep[keep] = found.column_index[best[keep]] == np.flatnonzero(keep)
    if ratio is not None:
        keep &= alone | (first < ratio * second)
    if margin is not None:
        keep &= alone | (second - first >= margin)
    if max_distance is not None:
        keep &= first <= max_distance
    query = np.flatnonzero(keep).astype(np.int32)
    return Matches(np.stack([query, best[keep]], axis=1), found.distance[keep, 0])
