"""Results in the file formats of others: SuperGlue's NPZ and hloc's H5."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from .files import atomic_path, is_utf8
from .packing import unit_vectors
from .pair import Norm, Pair
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
    partner, confidence = _per_keypoint(pair)
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
        source: two numbers that tell the image from others, see :func:`load_source`.

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
    """What :func:`save_features_npz` was told of the image; None if nothing.

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


def check_hloc_name(name: str) -> None:
    """Find out before the work is done whether an H5 can hold the name of an image.

    Raises:
        ValueError: it is not UTF-8.
    """
    if not is_utf8(name):
        raise ValueError(f"{name!r}: the name is not UTF-8, as an H5 file needs")


def save_hloc_features(
    path: str | os.PathLike[str],
    images: Iterable[tuple[str, Features]],
    norm: Norm = "hamming",
    attributes: Mapping[str, str] | None = None,
    keep: str | os.PathLike[str] | None = None,
    without: Iterable[str] = (),
    sources: Mapping[str, tuple[int, int]] | None = None,
) -> None:
    """Write an H5 of local features as hloc's ``extract_features`` does: a group per image.

    - ``keypoints``: ``(N, 2)`` float32; the top-left pixel's centre is (0, 0), as in hloc, which
      adds the half pixel for COLMAP itself.
    - ``descriptors``: ``(D, N)`` float16. hloc's matchers compare floats, so that a bit becomes
      +-1 / sqrt(D): unit vectors whose squared distance is 4 / D times the Hamming distance, and
      whose nearest neighbours are the same. SIFT vectors are scaled to unit length.
    - ``scores``: ``(N,)`` float32, the detector's response.
    - ``image_size``: ``(2,)`` int64, width and height.
    - ``scales``, ``oris``: ``(N,)`` float32, keypoint diameter in pixels and angle in degrees.

    Args:
        path: the H5 to write.
        images: names, relative to the image folder with ``/``, and features.
        norm: what the descriptors are.
        attributes: text to store on the file itself.
        keep: an H5 whose images are copied first; it may be ``path``.
        without: images that are not copied.
        sources: two numbers that tell images from others, for :func:`load_hloc_sources`.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    h5py = _h5py()
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        if keep is not None:
            with h5py.File(keep, "r") as old:
                for name in old:
                    old.copy(name, file)
            for name in without:
                if name in file:
                    del file[name]
        file.attrs.update(attributes or {})
        for name, features in images:
            group = file.create_group(name)
            group["keypoints"] = features.xy
            # Bits as float16 hold one bit of sixteen: gzip takes most of the rest away.
            group.create_dataset(
                "descriptors",
                data=_unit_vectors(features.descriptors, norm).T,
                compression="gzip" if len(features) else None,
                compression_opts=1 if len(features) else None,
            )
            group["scores"] = features.response
            group["image_size"] = np.array(features.image_size, np.int64)
            group["scales"] = features.size
            group["oris"] = features.angle
            if sources is not None:
                group.attrs[_SOURCE] = np.array(sources[name], np.int64)


def load_hloc_sources(file: Any) -> dict[str, tuple[int, int] | None]:
    """The images of an open H5, and what :func:`save_hloc_features` was told of each."""
    found: dict[str, tuple[int, int] | None] = {}

    def visit(path: str) -> None:
        name, _, last = path.rpartition("/")
        if last == "keypoints":
            source = file[name].attrs.get(_SOURCE)
            found[name] = None if source is None else (int(source[0]), int(source[1]))

    file.visit(visit)
    return found


def load_hloc_codes(path: str | os.PathLike[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Read the binary codes back that :func:`save_hloc_features` wrote as unit vectors.

    Yields:
        The name and the ``(N, B)`` uint8 codes of each image, sorted by name.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be read.
        ValueError: a group's descriptors are not bits.
    """
    h5py = _h5py()
    groups: list[tuple[str, Any]] = []
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, item: groups.append((name, item)))
        for name, item in groups:
            if not name.endswith("/descriptors"):
                continue
            vectors = item[()].T
            if vectors.shape[1] % 8 or len(np.unique(np.abs(vectors))) > 1:
                raise ValueError(f"{path}: the descriptors of {name} are not binary")
            yield name.removesuffix("/descriptors"), np.packbits(vectors > 0, axis=1)


def save_hloc_matches(path: str | os.PathLike[str], pairs: Iterable[tuple[str, str, Pair]]) -> None:
    """Write an H5 of matches as hloc's ``match_features`` does: a group per pair of images.

    The group is ``name0/name1`` with ``/`` inside a name replaced by ``-``. ``matches0`` is
    ``(N,)`` int32 (hloc's own int16 ends at 32,767), -1 for none; ``matching_scores0`` is ``(N,)``
    float16, see ``Pair.confidence``.

    Args:
        path: the H5 to write.
        pairs: the names of both images, as in the features' H5, and their matches.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    h5py = _h5py()
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name0, name1, pair in pairs:
            group = file.create_group(f"{name0.replace('/', '-')}/{name1.replace('/', '-')}")
            partner, confidence = _per_keypoint(pair)
            group["matches0"] = partner
            group["matching_scores0"] = confidence.astype(np.float16)


def check_hloc_folder(folder: Path, names: Iterable[str]) -> None:
    """Find out before the work is done whether :func:`save_hloc_pair` can write.

    Raises:
        OSError: ``folder`` is a file.
        ValueError: a name has white space, which separates names in ``pairs.txt``; or see
            :func:`check_hloc_name`.
    """
    if folder.exists() and not folder.is_dir():
        raise OSError(f"cannot write {folder}: it is a file, not a folder")
    for name in names:
        check_hloc_name(name)
        if name.split() != [name]:
            raise ValueError(
                f"{name!r}: the name has white space, which hloc's pairs.txt cannot hold"
            )


def save_hloc_pair(folder: str | os.PathLike[str], name0: str, name1: str, pair: Pair) -> None:
    """Write ``features.h5``, ``matches.h5`` and ``pairs.txt`` for one pair, made if missing.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    _h5py()
    folder.mkdir(parents=True, exist_ok=True)
    images = {name0: pair.features0, name1: pair.features1}  # an image may be matched to itself
    save_hloc_features(folder / "features.h5", images.items(), pair.norm)
    save_hloc_matches(folder / "matches.h5", [(name0, name1, pair)])
    with atomic_path(folder / "pairs.txt") as temporary:
        temporary.write_text(f"{name0} {name1}\n", "utf-8")


def _per_keypoint(pair: Pair) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    partner = np.full(len(pair.features0), -1, np.int32)
    confidence = np.zeros(len(pair.features0), np.float32)
    query = pair.matches.pairs[:, 0]
    partner[query] = pair.matches.pairs[:, 1]
    confidence[query] = pair.confidence
    return partner, confidence


def _unit_vectors(descriptors: NDArray[np.uint8], norm: Norm) -> NDArray[np.floating]:
    if norm == "hamming":
        return unit_vectors(descriptors, np.float16)
    vectors = descriptors.astype(np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1)).astype(np.float16)


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError("H5 files need h5py: pip install bindesc[h5]") from None
    return h5py
