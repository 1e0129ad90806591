"""Scores of rankings by Hamming distance, with ties resolved by two rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindesc.packing import unpack_bits

_BLOCK = 250  # queries ranked at once


class Precision(NamedTuple):
    """The average precision of each query at each place: ``(Q, P)`` float64 by either rule."""

    mean: NDArray[np.float64]
    lowest: NDArray[np.float64]


def average_precision(
    queries: NDArray[np.uint8],
    query_labels: NDArray[np.int64],
    database: NDArray[np.uint8],
    labels: NDArray[np.int64],
    places: Sequence[int],
) -> Precision:
    """Rank a database for every query and score the rankings.

    Args:
        queries: ``(Q, B)`` uint8 codes.
        query_labels: ``(Q,)``, the class of each.
        database: ``(N, B)`` uint8 codes.
        labels: ``(N,)``, the class of each.
        places: how many of the first are looked at; at most N are.
    """
    mean, lowest = [], []
    for span, distance in _distances(queries, database):
        right = query_labels[span, None] == labels
        mean.append(_mean_of_ties(distance, right, 8 * database.shape[1], places))
        lowest.append(_lowest_first(distance, right, places))
    return Precision(np.concatenate(mean), np.concatenate(lowest))


def _mean_of_ties(
    distance: NDArray[np.uint8], right: NDArray[np.bool_], bits: int, places: Sequence[int]
) -> NDArray[np.float64]:
    """``(Q, P)``; distances and whether the class is right are ``(Q, N)``.

    The i-th of t tied images, of which r are right, after T others with R right ones, is right
    with probability r / t, and then has a precision of (R + 1 + (i - 1) (r - 1) / (t - 1)) /
    (T + i). Summed over i, that needs harmonic numbers only.
    """
    count, size = distance.shape
    groups = 2 * (bits + 1)
    cell = distance + (bits + 1) * right.astype(np.int64) + groups * np.arange(count)[:, None]
    histogram = np.bincount(cell.ravel(), minlength=groups * count).reshape(count, 2, -1)
    tied, tied_right = histogram.sum(1), histogram[:, 1]
    before = np.cumsum(tied, 1) - tied
    right_before = np.cumsum(tied_right, 1) - tied_right
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, size + 1))])
    share = tied_right / np.maximum(tied, 1)
    slope = (tied_right - 1) / np.maximum(tied - 1, 1)

    scores = []
    for place in places:
        seen = np.clip(place - before, 0, tied)
        reciprocals = harmonic[before + seen] - harmonic[before]
        total = share * ((right_before + 1 - (before + 1) * slope) * reciprocals + slope * seen)
        scores.append(total.sum(1) / np.maximum((share * seen).sum(1), 1e-12))
    return np.stack(scores, 1)


def _lowest_first(
    distance: NDArray[np.uint8], right: NDArray[np.bool_], places: Sequence[int]
) -> NDArray[np.float64]:
    """``(Q, P)``, with tied images in the order of the database."""
    order = np.argsort(distance, axis=1, kind="stable")[:, : max(places)]
    ranked = np.take_along_axis(right, order, 1)
    found = np.cumsum(ranked, 1)
    precision = np.cumsum(ranked * found / np.arange(1, ranked.shape[1] + 1), 1)
    last = np.minimum(places, ranked.shape[1]) - 1
    return precision[:, last] / np.maximum(found[:, last], 1)


def distance_histogram(
    queries: NDArray[np.uint8],
    query_labels: NDArray[np.int64],
    database: NDArray[np.uint8],
    labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """How many pairs of a query and an image have each distance: ``(2, bits + 1)``.

    The first row counts pairs of two classes, the second those of one class.
    """
    bits = 8 * database.shape[1]
    counts = np.zeros(2 * (bits + 1), np.int64)
    for span, distance in _distances(queries, database):
        right = query_labels[span, None] == labels
        cell = distance + (bits + 1) * right.astype(np.int64)
        counts += np.bincount(cell.ravel(), minlength=len(counts))
    return counts.reshape(2, -1)


def _distances(
    queries: NDArray[np.uint8], database: NDArray[np.uint8]
) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
    """A block of queries and its ``(Q, N)`` distances, one after the other."""
    bits = 8 * database.shape[1]
    signs = [2 * unpack_bits(codes).astype(np.float32) - 1 for codes in (queries, database)]
    for start in range(0, len(queries), _BLOCK):
        span = slice(start, start + _BLOCK)
        yield span, ((bits - signs[0][span] @ signs[1].T) / 2).astype(np.uint8)
