"""Results as NPZ: SuperGlue's of pairs, and our own of features."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .files import atomic_path
from .pair import Pair, per_keypoint
from .types import Features

_SOURCE = "source"


def save_pair_npz(path: str | os.PathLike[str], pair: Pair) -> None:
    """Write one pair with the keys of SuperGlue's ``match_pairs.py``, plus the inliers.

    - ``keypoints0``, ``keypoints1``: ``(N, 2)``, ``(M, 2)`` float32, pixels.
    - ``matches``: ``(N,)`` int32, the partner in image 1 of each keypoint of image 0, -1 for none.
    - ``match_confidence``: ``(N,)`` float32 in [0, 1], see ``Pair.confidence``; 0 for none.
    - ``inliers``: ``(N,)`` bool, the matches that agree with the model.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    partner, confidence = per_keypoint(len(pair.features0), pair.matches, pair.confidence)
    inliers = np.zeros(len(partner), np.bool_)
    inliers[pair.matches.pairs[:, 0]] = pair.geometry.inliers
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            keypoints0=pair.features0.xy,
            keypoints1=pair.features1.xy,
            matches=partner,
            match_confidence=confidence,
            inliers=inliers,
        )


def save_features_npz(
    path: str | os.PathLike[str], features: Features, source: tuple[int, int] | None = None
) -> None:
    """Write the features of one image, an array for each field of :class:`Features`.

    Args:
        path: the file to write.
        features: to write.
        source: size and time of the image's file, see :func:`bindesc.files.stamp`.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    arrays: dict[str, Any] = dict(vars(features))
    if source is not None:
        arrays[_SOURCE] = np.array(source, np.int64)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def load_features_npz(path: str | os.PathLike[str]) -> Features:
    """Read what :func:`save_features_npz` wrote.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else, or is damaged.
    """
    with _opened_npz(path) as file:
        arrays = dict(file)
        arrays.pop(_SOURCE, None)
        width, height = arrays.pop("image_size").tolist()
        return Features(**arrays, image_size=(width, height))


def load_source(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Size and time of the image's file, as :func:`save_features_npz` was given; None if not.

    Raises:
        OSError, ValueError: see :func:`load_features_npz`.
    """
    with _opened_npz(path) as file:
        if _SOURCE not in file:
            return None
        first, second = file[_SOURCE].tolist()
        return first, second


@contextmanager
def _opened_npz(path: str | os.PathLike[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
    try:
        # Opened here, because np.load leaves a damaged file open.
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            yield file
    except (BadZipFile, EOFError, KeyError, TypeError, ValueError, zlib.error):
        raise ValueError(f"{path}: not features as 'bindesc extract' writes them") from None
