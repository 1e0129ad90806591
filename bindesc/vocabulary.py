"""A vocabulary tree of binary codes for place recognition, in the text format of ORB-SLAM2 and 3.

The tree is that of DBoW2 (Galvez-Lopez and Tardos, "Bags of Binary Words for Fast Place Recognition
in Image Sequences", T-RO 2012): hierarchical k-medians in Hamming space. The leaves are the words.
An image becomes a sparse vector of its words, weighted by tf-idf; two images are compared by L1.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import atomic_path
from .reference import bit_count

MAX_BRANCHING, MAX_DEPTH = 20, 10  # what ORB-SLAM's loader accepts

_CODES_PER_STEP = 8192  # of transform, to bound the memory


@dataclass(frozen=True, eq=False)
class BowVector:
    """The words of one image.

    Attributes:
        words: ``(K,)`` int64, word numbers, ascending.
        values: ``(K,)`` float64, above 0; they sum to 1 (K = 0 for an image without words).
    """

    words: NDArray[np.int64]
    values: NDArray[np.float64]

    def score(self, other: BowVector) -> float:
        """The L1 similarity ``1 - |a - b| / 2`` (Galvez-Lopez and Tardos, equation 2), 0 to 1.

        For vectors that sum to 1 it is the sum of the smaller values of the common words.
        """
        _, mine, theirs = np.intersect1d(self.words, other.words, True, return_indices=True)
        return float(np.minimum(self.values[mine], other.values[theirs]).sum())


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """A tree of codes; the nodes stand level by level, children after their parent.

    Attributes:
        branching: most children of a node (k of DBoW2), 2 to 20.
        depth: most levels below the root (L of DBoW2), 1 to 10.
        parent: ``(N,)`` int64, the number of each node's parent; the root is 0 and not stored, so
            that row i is node i + 1.
        codes: ``(N, B)`` uint8, the median of each node.
        weight: ``(N,)`` float64, the inverse document frequency of a leaf, 0 for other nodes.
    """

    branching: int
    depth: int
    parent: NDArray[np.int64]
    codes: NDArray[np.uint8]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        """The number of words."""
        return len(self.word_nodes)

    @cached_property
    def word_nodes(self) -> NDArray[np.int64]:
        """``(W,)`` int64, the node of each word. Words are numbered in the order of the nodes."""
        return 1 + np.flatnonzero(np.bincount(self.parent, minlength=len(self.parent) + 1)[1:] == 0)

    @cached_property
    def _children(self) -> NDArray[np.int64]:
        """``(N + 1, branching)`` the children of each node, -1 where there are fewer."""
        order = np.argsort(self.parent, kind="stable")
        parents = self.parent[order]
        place = np.arange(len(parents)) - np.searchsorted(parents, parents)
        table = np.full((len(parents) + 1, self.branching), -1, np.int64)
        table[parents, place] = order + 1
        return table

    def find_words(self, codes: Any) -> NDArray[np.int64]:
        """Walk each code down the tree, to the nearest child at each node (ties: the first).

        Args:
            codes: ``(M, B)`` uint8, as wide as the vocabulary's.

        Returns:
            ``(M,)`` int64, word numbers.

        Raises:
            TypeError: ``codes`` is not uint8.
            ValueError: ``codes`` has another shape or width.
        """
        codes = check_codes("codes", codes, self.codes.shape[1])
        nodes = [
            self._leaf(codes[start : start + _CODES_PER_STEP])
            for start in range(0, len(codes), _CODES_PER_STEP)
        ]
        return np.searchsorted(self.word_nodes, np.concatenate([np.zeros(0, np.int64), *nodes]))

    def _leaf(self, codes: NDArray[np.uint8]) -> NDArray[np.int64]:
        node = np.zeros(len(codes), np.int64)
        inner = np.arange(len(codes))
        while len(inner):
            children = self._children[node[inner]]
            # A child that is missing reads the last node here and is put out of reach.
            distance = bit_count(codes[inner, None] ^ self.codes[children - 1]).astype(np.int32)
            distance[children < 0] = 8 * codes.shape[1] + 1
            nearest_child = distance.argmin(axis=1)
            node[inner] = children[np.arange(len(inner)), nearest_child]
            inner = inner[self._children[node[inner], 0] >= 0]
        return node

    def transform(self, codes: Any) -> BowVector:
        """The bag of words of one image: word counts times idf, scaled to the sum 1.

        Args:
            codes: ``(M, B)`` uint8, all descriptors of the image.

        Raises:
            TypeError: ``codes`` is not uint8.
            ValueError: ``codes`` has another shape or width.
        """
        words, counts = np.unique(self.find_words(codes), return_counts=True)
        values = counts * self.weight[self.word_nodes[words] - 1]
        seen = values > 0  # a word of every training image has the weight 0
        return BowVector(words[seen], values[seen] / max(values.sum(), np.finfo(float).tiny))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the text that ``TemplatedVocabulary::loadFromTextFile`` of ORB-SLAM2 and 3 reads.

        The first line is ``k L 0 0`` (L1 scoring, tf-idf weighting); then comes a line a node,
        ``parent isLeaf byte0 ... byteB-1 weight``, bytes in decimal. ORB-SLAM reads 32 bytes.

        Raises:
            OSError: the file cannot be written; nothing is left of it.
        """
        leaf = np.zeros(len(self.parent), np.int64)
        leaf[self.word_nodes - 1] = 1
        lines = [f"{self.branching} {self.depth} 0 0"]
        for parent, is_leaf, code, weight in zip(
            self.parent.tolist(), leaf.tolist(), self.codes.tolist(), self.weight.tolist(),
            strict=True,
        ):  # fmt: skip
            lines.append(f"{parent} {is_leaf} {' '.join(map(str, code))} {weight!r}")
        with atomic_path(path) as temporary:
            # No newline at the end: ORB-SLAM's loader would read a node from what follows it.
            temporary.write_text("\n".join(lines), "ascii")


class VocabularyError(ValueError):
    """A vocabulary file that cannot be used; the text names the file and the line."""


def load_vocabulary(path: str | os.PathLike[str]) -> Vocabulary:
    """Read what :meth:`Vocabulary.save`, or ``saveToTextFile`` of ORB-SLAM, wrote.

    Raises:
        VocabularyError: the text is damaged or another format, or asks for other scoring than L1
            or other weighting than tf-idf.
        OSError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text("ascii").rstrip("\n").split("\n")
    except UnicodeDecodeError:
        raise VocabularyError(f"{path}: not a text vocabulary") from None
    try:
        branching, depth, scoring, weighting = map(int, lines[0].split())
    except ValueError:
        raise VocabularyError(
            f"{path}, line 1: expected 'k L scoring weighting', got {lines[0][:60]!r}"
        ) from None
    if not (2 <= branching <= MAX_BRANCHING and 1 <= depth <= MAX_DEPTH):
        raise VocabularyError(
            f"{path}, line 1: expected k in 2 to {MAX_BRANCHING} and L in 1 to {MAX_DEPTH}, "
            f"got {branching} and {depth}"
        )
    if (scoring, weighting) != (0, 0):
        raise VocabularyError(
            f"{path}, line 1: expected scoring 0 (L1) and weighting 0 (tf-idf), "
            f"got {scoring} and {weighting}"
        )
    width = len(lines[1].split()) - 3 if len(lines) > 1 else 0
    if width < 2:
        raise VocabularyError(f"{path}: no nodes after line 1")
    count = len(lines) - 1
    parent, weight = np.empty(count, np.int64), np.empty(count)
    leaf, codes = np.empty(count, np.int64), np.empty((count, width), np.uint8)
    for i, line in enumerate(lines[1:]):
        try:
            parent[i], leaf[i], codes[i], weight[i] = _parse_node(line, width, i + 1)
        except (ValueError, OverflowError) as error:
            raise VocabularyError(f"{path}, line {i + 2}: {error}") from None
    children = np.bincount(parent, minlength=count + 1)
    _check_nodes(path, children[1:] > 0, leaf, "is marked as a leaf and has children")
    _check_nodes(path, children[1:] == 0, 1 - leaf, "has no children and is not marked as a leaf")
    if children.max() > branching:
        raise VocabularyError(
            f"{path}: node {children.argmax()} has {children.max()} children, more than k"
        )
    return Vocabulary(branching, depth, parent, codes, weight)


def _parse_node(line: str, width: int, node: int) -> tuple[int, int, NDArray[np.uint8], float]:
    fields = line.split()
    if len(fields) != width + 3:
        raise ValueError(f"expected {width + 3} numbers, got {len(fields)}")
    parent, leaf, *code = map(int, fields[:-1])
    weight = float(fields[-1])
    if not 0 <= parent < node:
        raise ValueError(f"the parent of node {node} must come before it, got {parent}")
    if leaf not in (0, 1) or min(code) < 0 or max(code) > 255:
        raise ValueError("expected 'parent isLeaf bytes weight' with isLeaf 0 or 1, bytes 0 to 255")
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"expected a weight of at least 0, got {fields[-1]}")
    return parent, leaf, np.array(code, np.uint8), weight


def _check_nodes(path: Any, first: NDArray[Any], second: NDArray[Any], problem: str) -> None:
    wrong = np.flatnonzero(first & (second > 0))
    if len(wrong):
        raise VocabularyError(f"{path}, line {wrong[0] + 2}: node {wrong[0] + 1} {problem}")


def check_codes(name: str, codes: Any, width: int | None) -> NDArray[np.uint8]:
    """An argument as ``(N, width)`` uint8, contiguous; the errors call it ``name``."""
    array = np.asarray(codes)
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: expected uint8, got {array.dtype}")
    if array.ndim != 2 or width is None or array.shape[1] != width:
        expected = "(N, B)" if width is None else f"(N, {width})"
        raise ValueError(f"{name}: expected codes {expected}, got shape {array.shape}")
    return np.ascontiguousarray(array)
