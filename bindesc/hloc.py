"""hloc's H5 files: local features, and matches of pairs of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import atomic_path, is_utf8
from .matching import match_pairs
from .packing import unit_vectors
from .pair import Filters, Norm, Pair, confidence, per_keypoint
from .types import Features

_SOURCE = "source"
_BATCH = 256  # pairs that are matched together


def check_name(name: str) -> None:
    """Find out before the work is done whether an H5 can hold the name of an image.

    Raises:
        ValueError: it is not UTF-8.
    """
    if not is_utf8(name):
        raise ValueError(f"{name!r}: the name is not UTF-8, as an H5 file needs")


def save_features(
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
        keep: an H5 whose images are taken over first; it may be ``path`` itself, to add to it.
        without: images that are not taken over, because they changed.
        sources: the size and time of each image's file, to see later whether it changed, by
            :func:`load_sources`.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    h5py = import_h5py()
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


def load_sources(file: Any) -> dict[str, tuple[int, int] | None]:
    """The images of an open H5, and size and time of the file of each; None if not known."""
    found: dict[str, tuple[int, int] | None] = {}
    for name in _arrays(file, "keypoints"):
        source = file[name].attrs.get(_SOURCE)
        found[name] = None if source is None else (int(source[0]), int(source[1]))
    return found


def _arrays(file: Any, wanted: str) -> dict[str, Any]:
    """The arrays of a name, by image."""
    h5py = import_h5py()
    found: dict[str, Any] = {}

    def visit(path: str, item: Any) -> None:
        name, _, last = path.rpartition("/")
        if name and last == wanted and isinstance(item, h5py.Dataset):
            found[name] = item

    file.visititems(visit)
    return found


@contextmanager
def open_h5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """An ``h5py.File`` to read.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be read, is something else, or damaged; the text names it.
    """
    h5py = import_h5py()
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, TypeError) as error:  # damage raises any of them
        reason = f"cannot be read ({error})" if h5py.is_hdf5(path) else "is not an H5 file"
        raise OSError(f"{path}: {reason}") from None


def load_codes(
    path: str | os.PathLike[str], names: Container[str] | None = None
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Read the binary codes back that :func:`save_features` wrote as unit vectors.

    Args:
        path: the H5.
        names: of the images to read; by default all.

    Yields:
        The name and the ``(N, B)`` uint8 codes of each image, sorted by name.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be read.
        ValueError: a group's descriptors are not bits.
    """
    with open_h5(path) as file:
        for name, array in _arrays(file, "descriptors").items():
            if names is not None and name not in names:
                continue
            vectors = array[()].T
            if vectors.ndim != 2 or vectors.shape[1] % 8 or len(np.unique(np.abs(vectors))) > 1:
                raise ValueError(f"{path}: the descriptors of {name} are not binary")
            yield name, np.packbits(vectors > 0, axis=1)


def save_matches(
    path: str | os.PathLike[str],
    pairs: Iterable[tuple[str, str, NDArray[np.int32], NDArray[np.float32]]],
) -> None:
    """Write an H5 of matches as hloc's ``match_features`` does: a group per pair of images.

    The group is ``name0/name1`` with ``/`` inside a name replaced by ``-``. ``matches0`` is
    ``(N,)`` int32 (hloc's own int16 ends at 32,767), -1 for none; ``matching_scores0`` is ``(N,)``
    float16.

    Args:
        path: the H5 to write.
        pairs: the names of both images, as in the features' H5, and their matches, see
            :func:`bindesc.pair.per_keypoint`.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    h5py = import_h5py()
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name0, name1, partner, scores in pairs:
            group = file.create_group(_group(name0, name1))
            group["matches0"] = partner
            group["matching_scores0"] = scores.astype(np.float16)


def _group(name0: str, name1: str) -> str:
    return f"{name0.replace('/', '-')}/{name1.replace('/', '-')}"


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of names of hloc's ``pairs.txt``.

    Of a pair that stands there twice, in either order, the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line has not two names.
    """
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not a text of pairs") from None
    for number, line in enumerate(lines, 1):
        names = line.split()
        if len(names) == 2:
            pairs.setdefault(frozenset(names), (names[0], names[1]))
        elif names:
            raise ValueError(f"{path}, line {number}: expected two names, got {len(names)}")
    return list(pairs.values())


def match_features(
    features: Path,
    pairs: Sequence[tuple[str, str]],
    output: Path,
    filters: Filters | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> int:
    """Match pairs of the images of an H5, in place of hloc's ``match_features``.

    Args:
        features: what :func:`save_features` wrote of binary codes.
        pairs: names of images in it, see :func:`read_pairs`.
        output: the H5 to write, see :func:`save_matches`.
        filters: which neighbours to keep; mutual ones if None.
        progress: wraps the list of batches, to show a progress bar.

    Returns:
        The number of matches of all pairs.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: a file cannot be read or written; nothing is left of it.
        ValueError: an image is not there, its descriptors are not bits, or hloc would give two
            pairs the same name.
    """
    options = vars(filters or Filters())
    codes = dict(load_codes(features, {name for pair in pairs for name in pair}))
    groups: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        for name in pair:
            if name not in codes:
                raise ValueError(f"{features}: has no image {name!r}")
        other = groups.setdefault(_group(*pair), pair)
        if other != pair:
            raise ValueError(f"pairs: hloc has one name, {_group(*pair)}, for {other} and {pair}")
    count = 0

    def matched() -> Iterator[tuple[str, str, NDArray[np.int32], NDArray[np.float32]]]:
        nonlocal count
        for start in progress(range(0, len(pairs), _BATCH)):
            batch = pairs[start : start + _BATCH]
            found = match_pairs([(codes[a], codes[b]) for a, b in batch], **options)
            for (a, b), matches in zip(batch, found, strict=True):
                count += len(matches)
                scores = confidence(matches, 8 * codes[a].shape[1])
                yield a, b, *per_keypoint(len(codes[a]), matches, scores)

    save_matches(output, matched())
    return count


def check_folder(folder: Path, names: Iterable[str]) -> None:
    """Find out before the work is done whether :func:`save_pair` can write.

    Raises:
        OSError: ``folder`` is a file.
        ValueError: a name has white space, which separates names in ``pairs.txt``; or see
            :func:`check_name`.
    """
    if folder.exists() and not folder.is_dir():
        raise OSError(f"cannot write {folder}: it is a file, not a folder")
    for name in names:
        check_name(name)
        if name.split() != [name]:
            raise ValueError(
                f"{name!r}: the name has white space, which hloc's pairs.txt cannot hold"
            )


def save_pair(folder: str | os.PathLike[str], name0: str, name1: str, pair: Pair) -> None:
    """Write ``features.h5``, ``matches.h5`` and ``pairs.txt`` for one pair, made if missing.

    Raises:
        ModuleNotFoundError: h5py is not installed.
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    import_h5py()
    folder.mkdir(parents=True, exist_ok=True)
    images = {name0: pair.features0, name1: pair.features1}  # an image may be matched to itself
    save_features(folder / "features.h5", images.items(), pair.norm)
    matches = per_keypoint(len(pair.features0), pair.matches, pair.confidence)
    save_matches(folder / "matches.h5", [(name0, name1, *matches)])
    with atomic_path(folder / "pairs.txt") as temporary:
        temporary.write_text(f"{name0} {name1}\n", "utf-8")


def _unit_vectors(descriptors: NDArray[np.uint8], norm: Norm) -> NDArray[np.floating]:
    if norm == "hamming":
        return unit_vectors(descriptors, np.float16)
    vectors = descriptors.astype(np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(length, 1)).astype(np.float16)


def import_h5py() -> Any:
    """The module, or an error that says what to install."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError("H5 files need h5py: pip install bindesc[h5]") from None
    return h5py
