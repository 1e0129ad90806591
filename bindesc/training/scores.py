"""How good codes are: errors on pairs of patches, and how well the bits are used. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALL = 0.95


def pair_distances(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The distance of each row from the row of the same number.

    Args:
        first: ``(P, B)`` uint8 packed codes, or ``(P, D)`` float.
        second: the same.

    Returns:
        ``(P,)``, Hamming distances (int64) or Euclidean ones (float).
    """
    if first.dtype == np.uint8:
        return np.unpackbits(first ^ second, axis=1).sum(1, dtype=np.int64)
    return np.linalg.norm(first - second, axis=1)


def false_positive_rate(matched: ArrayLike, unmatched: ArrayLike, recall: float = RECALL) -> float:
    """Share of the non-matching pairs that are taken for matches (FPR@95, Brown et al. 2011).

    The threshold is the matching distance of index ``int(recall * n)`` in ascending order, as in
    BinGAN's evaluation; a pair at exactly the threshold counts as a match, so that ties among
    Hamming distances only make the rate larger.

    Args:
        matched: ``(n,)`` distances of matching pairs, at least one.
        unmatched: ``(m,)`` distances of the others, at least one.
        recall: 0 to 1, below 1.

    Returns:
        0 to 1.
    """
    matched, unmatched = np.asarray(matched), np.asarray(unmatched)
    index = int(recall * len(matched))
    return float((unmatched <= np.partition(matched, index)[index]).mean())


def bootstrap_interval(
    matched: ArrayLike, unmatched: ArrayLike, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of :func:`false_positive_rate` by resampling both kinds of pairs."""
    matched, unmatched = np.asarray(matched), np.asarray(unmatched)
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(resamples):
        drawn = rng.choice(matched, len(matched)), rng.choice(unmatched, len(unmatched))
        rates.append(false_positive_rate(*drawn))
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def bit_bias(bits: NDArray[np.bool_]) -> float:
    """Mean distance of a bit's frequency from one half, 0 to 0.5; ``bits`` is ``(N, K)``."""
    return float(np.abs(bits.mean(0) - 0.5).mean())


def bit_correlation(bits: NDArray[np.bool_]) -> float:
    """Mean absolute correlation of two different bits, 0 to 1; a constant bit counts as 0.

    Args:
        bits: ``(N, K)``, K at least 2.
    """
    centred = bits - bits.mean(0)
    centred /= np.linalg.norm(centred, axis=0) + 1e-9
    correlation = np.abs(centred.T @ centred)
    np.fill_diagonal(correlation, 0)
    count = bits.shape[1]
    return float(correlation.sum()) / (count * (count - 1))
