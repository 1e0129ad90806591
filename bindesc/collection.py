"""Match a collection of images pair by pair, verify the matches, and keep them on disk.

The matches of an image with its partners are one file, written atomically, so that a run may be
killed and started again, and several processes may share the images.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from . import geometry
from .export import load_features_npz
from .files import atomic_path
from .folder import WHOLE, Shard, feature_path
from .geometry import Geometry
from .matching import match_pairs
from .pair import Filters, Norm, match_pair
from .threads import in_parallel
from .types import Features, Matches

# A match is distinct if it passes this ratio test; only distinct ones tell related images.
DISTINCT_RATIO = 0.9

Item = TypeVar("Item")
Progress = Callable[[str, int], AbstractContextManager[Callable[[], object]]]
"""Opens the progress bar of a stage of so many steps; what it gives is called after each."""


def silent(stage: str, steps: int) -> AbstractContextManager[Callable[[], object]]:
    """A :data:`Progress` that shows nothing."""
    return nullcontext(lambda: None)


def tracked(progress: Progress, stage: str, items: Sequence[Item]) -> Iterator[Item]:
    """The items, with a step of progress after each; no bar if there are none."""
    if not items:
        return
    with progress(stage, len(items)) as step:
        for item in items:
            yield item
            step()


@dataclass(frozen=True)
class Rules:
    """What counts as a match of two images.

    Attributes:
        norm: how descriptors are compared.
        ratio: keep a mutual nearest neighbour if it is nearer than ``ratio`` times the second
            nearest; above 0, at most 1, or None for no such test.
        threshold: largest Sampson distance of an inlier, pixels of the images as they were
            described.
        long_side: the longer side that images were shrunk to before, pixels, or None.
        seed: of the robust estimation.

    Raises:
        ValueError: ``ratio`` or ``seed`` is out of range.
    """

    norm: Norm = "hamming"
    ratio: float | None = None
    threshold: float = 3.0
    long_side: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        Filters(ratio=self.ratio)
        geometry.check_seed(self.seed)


@dataclass(frozen=True, eq=False)
class Collection:
    """Described images and the pairs of them to match.

    Attributes:
        folder: with ``features/NAME.npz`` and, as they are made, ``matches/NAME.npz``.
        names: of the images, in their order.
        partners: for each image that has any, the later images that it is matched with.
    """

    folder: Path
    names: list[str]
    partners: dict[str, list[str]]
    _checksums: dict[str, int] = field(default_factory=dict, repr=False)

    def features(self, name: str) -> Features:
        """The features of an image."""
        return load_features_npz(feature_path(self.folder / "features", name))

    def unmatched(self, shard: Shard = WHOLE) -> list[str]:
        """The images of a share whose matches are not there yet."""
        return [n for n in shard.of(list(self.partners)) if not self._is_matched(n)]

    def match(self, rules: Rules, progress: Progress = silent, shard: Shard = WHOLE) -> None:
        """Match and verify each image of a share with its partners, where that is not done."""
        for name in tracked(progress, "match", self.unmatched(shard)):
            first = self.features(name)
            pairs = [(first, self.features(partner)) for partner in self.partners[name]]
            found = match_features(pairs, rules)
            verified = [
                VerifiedPair(name, partner, matches.pairs, result)
                for partner, matches, result in zip(
                    self.partners[name], found, verify(pairs, found, rules), strict=True
                )
            ]
            path = self._matches_path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, verified, self._stamps(name))

    def verified(self) -> Iterator[VerifiedPair]:
        """All matches, in the order of the images."""
        for name in self.partners:
            yield from _load(self._matches_path(name), name)

    def digest(self) -> str:
        """SHA-256 of all matches."""
        total = hashlib.sha256()
        for name in self.partners:
            total.update(name.encode() + b"\0" + self._matches_path(name).read_bytes())
        return total.hexdigest()

    def _is_matched(self, name: str) -> bool:
        """Whether there are matches, of these partners and of the features as they are now."""
        try:
            # Opened here, because np.load leaves a damaged file open.
            path = self._matches_path(name)
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                partners, stamps = file["partners"].tolist(), file["stamps"].tolist()
        except (FileNotFoundError, BadZipFile, EOFError, KeyError, ValueError):
            return False
        return bool(partners == self.partners[name] and stamps == self._stamps(name))

    def _stamps(self, name: str) -> list[int]:
        """Checksums of the features of an image and of its partners."""
        for one in (name, *self.partners[name]):
            if one not in self._checksums:
                data = feature_path(self.folder / "features", one).read_bytes()
                self._checksums[one] = zlib.crc32(data)
        return [self._checksums[one] for one in (name, *self.partners[name])]

    def _matches_path(self, name: str) -> Path:
        return feature_path(self.folder / "matches", name)


@dataclass(frozen=True, eq=False)
class VerifiedPair:
    """The matches of two images and the fundamental matrix that they agree on.

    Attributes:
        name0: the first image.
        name1: the second image.
        pairs: ``(K, 2)`` int32, indices of matched keypoints.
        geometry: the fundamental matrix and its inliers; no model where the images are unrelated.
    """

    name0: str
    name1: str
    pairs: NDArray[np.int32]
    geometry: Geometry


def match_features(pairs: Sequence[tuple[Features, Features]], rules: Rules) -> list[Matches]:
    """The mutual nearest neighbours of each pair of images that pass the ratio test."""
    if rules.norm == "hamming":
        codes = ((first.descriptors, second.descriptors) for first, second in pairs)
        return match_pairs(codes, ratio=rules.ratio)
    filters = Filters(ratio=rules.ratio)
    return [match_pair(*pair, rules.norm, filters, kind=None).matches for pair in pairs]


def verify(
    pairs: Sequence[tuple[Features, Features]], found: Sequence[Matches], rules: Rules
) -> list[Geometry]:
    """The fundamental matrix of each pair of images; no model where they seem unrelated.

    All matches help to find the matrix and may be its inliers, but whether the images are related
    is told from the distinct ones: at least 15 + 10 % of them must be inliers. Measured with ORB:
    of 150 pairs of unrelated photos none passes (at most 53 inliers, at most 21 of them distinct);
    of 130 pairs of next photos of a training scene 57 % do, against 39 % if 15 + 15 % of all
    matches were asked for, which still lets 1 % of the unrelated pairs through.

    By OpenCV's USAC rather than COLMAP's own verification: on the 55 pairs of a training scene
    (sceaux, ORB) it took 1 s against 11 s, for a model of the same 10 photos and 1198 points
    against 1234.
    """
    if rules.ratio is None or rules.ratio > DISTINCT_RATIO:
        best = match_features(pairs, replace(rules, ratio=DISTINCT_RATIO))
    else:
        best = list(found)

    def one(task: tuple[tuple[Features, Features], Matches, Matches]) -> Geometry:
        (first, second), matches, best = task
        xy0, xy1 = first.xy[matches.pairs[:, 0]], second.xy[matches.pairs[:, 1]]
        shrunk = max(shrinkage(features, rules.long_side) for features in (first, second))
        result = geometry.estimate(xy0, xy1, "F", rules.threshold * shrunk, rules.seed)
        distinct = np.isin(matches.pairs[:, 0], best.pairs[:, 0])
        if (result.inliers & distinct).sum() >= 15 + 0.1 * distinct.sum():
            return result
        return Geometry(None, np.zeros(len(matches), np.bool_))

    # Every pair starts from the same seed, so that the number of threads changes nothing.
    return list(in_parallel(one, list(zip(pairs, found, best, strict=True))))


def shrinkage(features: Features, long_side: int | None) -> float:
    """How many pixels of the image were one pixel when it was described; at least 1."""
    return 1.0 if long_side is None else max(1.0, max(features.image_size) / long_side)


def _save(path: Path, verified: Sequence[VerifiedPair], stamps: Sequence[int]) -> None:
    models = [pair.geometry.model for pair in verified]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            stamps=np.array(stamps, np.int64),
            partners=np.array([pair.name1 for pair in verified]),
            counts=np.array([len(pair.pairs) for pair in verified]),
            pairs=np.concatenate([pair.pairs for pair in verified]),
            inliers=np.concatenate([pair.geometry.inliers for pair in verified]),
            related=np.array([model is not None for model in models]),
            models=np.array([np.zeros((3, 3)) if model is None else model for model in models]),
        )


def _load(path: Path, name: str) -> Iterator[VerifiedPair]:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    ends = np.cumsum(arrays["counts"])[:-1]
    for partner, pairs, inliers, related, model in zip(
        arrays["partners"].tolist(),
        np.split(arrays["pairs"], ends),
        np.split(arrays["inliers"], ends),
        arrays["related"],
        arrays["models"],
        strict=True,
    ):
        yield VerifiedPair(name, partner, pairs, Geometry(model if related else None, inliers))
