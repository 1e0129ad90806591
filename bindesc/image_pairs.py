"""Which images of a collection to match: all pairs, neighbours by name, or similar ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .matching import nearest
from .packing import majority_codes

Codes = NDArray[np.uint8]

WORDS = 4096
_CODES_A_WORD = 16  # that a word is learned from
_ROUNDS = 5
_COUNTS = {"sequential": 10, "similar": 20}  # defaults


@dataclass(frozen=True)
class PairChoice:
    """A rule that chooses pairs of images.

    Attributes:
        rule: ``"exhaustive"``; ``"sequential"``, each image with the next ``count`` by name;
            ``"similar"``, each image with the ``count`` most similar ones.
        count: at least 1; 0 for ``"exhaustive"``.
    """

    rule: str
    count: int = 0

    @staticmethod
    def parse(text: str) -> PairChoice:
        """Read ``exhaustive``, ``sequential[:overlap]`` or ``similar[:k]``.

        Raises:
            ValueError: it is none of these.
        """
        rule, colon, number = text.partition(":")
        if text == "exhaustive":
            return PairChoice(rule)
        if rule in _COUNTS and (not colon or (number.isdecimal() and int(number) > 0)):
            return PairChoice(rule, int(number) if colon else _COUNTS[rule])
        raise ValueError(
            f"pairs: {text!r} is none of exhaustive, sequential[:overlap], similar[:k] "
            "(numbers from 1)"
        )

    def __str__(self) -> str:
        return f"{self.rule}:{self.count}" if self.count else self.rule

    def choose(self, names: Sequence[str], codes: Callable[[str], Codes]) -> list[tuple[int, int]]:
        """The pairs as indices into ``names``, the lower first, sorted, each once.

        Args:
            names: of the images, in their order.
            codes: the binary descriptors of an image, ``(N, B)`` uint8; asked for by ``similar``
                only, twice for each image.
        """
        count = len(names)
        if self.rule == "exhaustive":
            return list(combinations(range(count), 2))
        if self.rule == "sequential":
            return [
                (i, j)
                for i in range(count)
                for j in range(i + 1, min(i + self.count, count - 1) + 1)
            ]
        return similar_pairs(names, codes, self.count)


def similar_pairs(
    names: Sequence[str], codes: Callable[[str], Codes], count: int
) -> list[tuple[int, int]]:
    """Each image with the ``count`` images that share most visual words with it.

    Bags of binary words (Galvez-Lopez and Tardos, T-RO 2012, without the tree): 4096 words learned
    from these images by k-majority (Grana et al. 2013); counts of words weighted by their rarity
    (tf-idf) and compared by cosine. The same images give the same pairs.

    With 1000 ORB features of each of 433 photos of 15 places, 94 % of the 5 nearest photos were of
    the same place; 90 % with 1024 words, 79 % with the mean of an image's codes in their stead.

    Args:
        names: of the images.
        codes: the binary descriptors of an image.
        count: partners of each image, at least 1.
    """
    words = _learn_words(names, codes)
    vectors = np.zeros((len(names), len(words)), np.float32)
    for row, name in zip(vectors, names, strict=True):
        found = codes(name)
        if len(found):
            np.add.at(row, nearest(found, words, 1).index[:, 0], 1)
    seen = (vectors > 0).sum(axis=0)
    vectors *= np.log(len(names) / np.maximum(seen, 1)).astype(np.float32)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    pairs: set[tuple[int, int]] = set()
    for i, row in enumerate(vectors):
        likeness = vectors @ row
        likeness[i] = -np.inf
        best = np.argsort(-likeness, kind="stable")[: min(count, len(names) - 1)]
        pairs.update((min(i, j), max(i, j)) for j in best.tolist())
    return sorted(pairs)


def _learn_words(names: Sequence[str], codes: Callable[[str], Codes]) -> Codes:
    """Up to ``WORDS`` codes that stand for the codes of all images: k-means with majority votes."""
    share = max(1, WORDS * _CODES_A_WORD // len(names))
    random = np.random.default_rng(0)
    parts = []
    for name in names:
        of_image = codes(name)
        parts.append(of_image[random.permutation(len(of_image))[:share]])
    sample = np.concatenate(parts)
    count = min(WORDS, math.ceil(len(sample) / _CODES_A_WORD))
    words = sample[random.permutation(len(sample))[:count]]
    for _ in range(_ROUNDS if len(words) else 0):
        word = nearest(sample, words, 1).index[:, 0]
        used, medians = majority_codes(sample, word)
        words[used] = medians
    return words
