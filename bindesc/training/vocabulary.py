"""Vocabulary trees from the codes of many images: hierarchical k-medians in Hamming space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..match_options import check_integer
from ..matching import nearest
from ..packing import majority_codes
from ..vocabulary import MAX_BRANCHING, MAX_DEPTH, Vocabulary, check_codes

_MAX_ITERATIONS = 25


def train_vocabulary(
    images: Sequence[Any],
    branching: int = 10,
    depth: int = 5,
    seed: int = 0,
    num_threads: int | None = None,
) -> Vocabulary:
    """Build a vocabulary from the codes of many images.

    Each node's codes are split by k-medians: seeds as in k-means++ (Arthur and Vassilvitskii 2007),
    nearest centre, new centre by majority vote of each bit, until nothing changes or 25 times. A
    word's weight is ``ln(images / images with the word)``. The same codes and seed give the same
    vocabulary.

    Args:
        images: ``(M_i, B)`` uint8, the codes of each image; at least two images.
        branching: most children of a node, 2 to 20.
        depth: levels, 1 to 10; there are ``branching ** depth`` words at most.
        seed: of the random seeds, at least 0.
        num_threads: see :func:`bindesc.match`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: codes differ in width, there are fewer codes than ``branching`` or fewer than
            two images, or an option is out of range.
    """
    branching = check_integer("branching", branching, 2, MAX_BRANCHING)
    depth = check_integer("depth", depth, 1, MAX_DEPTH)
    random = np.random.default_rng(check_integer("seed", seed, 0))
    if len(images) < 2:
        raise ValueError(f"images: expected the codes of at least 2 images, got {len(images)}")
    width = np.shape(images[0])[-1] if np.ndim(images[0]) == 2 else None
    parts = [check_codes(f"images[{i}]", codes, width) for i, codes in enumerate(images)]
    codes = np.concatenate(parts)
    if len(codes) < branching:
        raise ValueError(
            f"images: {len(codes)} codes in all, fewer than the branching factor {branching}"
        )
    parent, medians = [], []
    level = [(0, np.arange(len(codes)))]  # nodes to split, with their codes
    for _ in range(depth):
        below = []
        for node, members in level:
            centres, label = _split(codes[members], branching, random, num_threads)
            for i, centre in enumerate(centres):
                parent.append(node)
                medians.append(centre)
                mine = members[label == i]
                if len(mine) > 1:
                    below.append((len(parent), mine))
        level = below
    if not parent:
        raise ValueError(f"images: all {len(codes)} codes are equal")
    tree = Vocabulary(
        branching, depth, np.array(parent, np.int64), np.stack(medians), np.zeros(len(parent))
    )
    seen = np.zeros(len(tree), np.int64)
    for part in parts:
        seen[np.unique(tree.find_words(part))] += 1
    tree.weight[tree.word_nodes - 1] = np.log(len(images) / np.maximum(seen, 1)) * (seen > 0)
    return tree


def _split(
    codes: NDArray[np.uint8], most: int, random: np.random.Generator, threads: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """The centres of at most ``most`` clusters, none of them empty, and the cluster of each code.

    No centre where all codes are equal: such a node stays a leaf.
    """
    centres = _seeds(codes, most, random, threads)
    label: NDArray[np.integer] = nearest(codes, centres, 1, threads).index[:, 0]
    for _ in range(_MAX_ITERATIONS):
        used, centres = majority_codes(codes, label)
        label = np.searchsorted(used, label)
        previous, label = label, nearest(codes, centres, 1, threads).index[:, 0]
        if (label == previous).all():
            break
    used, label = np.unique(label, return_inverse=True)
    return centres[used if len(used) > 1 else used[:0]], label


def _seeds(
    codes: NDArray[np.uint8], most: int, random: np.random.Generator, threads: int | None
) -> NDArray[np.uint8]:
    """Up to ``most`` different codes, each drawn in proportion to its distance from those before.

    The Hamming distance is the squared Euclidean one of k-means++.
    """
    chosen = [int(random.integers(len(codes)))]
    distance = np.full(len(codes), np.iinfo(np.uint16).max, np.uint16)
    while len(chosen) < most:
        newest = codes[chosen[-1] :][:1]
        distance = np.minimum(distance, nearest(codes, newest, 1, threads).distance[:, 0])
        total = np.cumsum(distance, dtype=np.int64)
        if not total[-1]:
            break
        chosen.append(int(np.searchsorted(total, random.integers(total[-1]), side="right")))
    return codes[chosen]
