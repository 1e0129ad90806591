"""Folders of images as codes: an index that is kept up to date, and near-duplicates."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .code_index import CodeIndex, create_index
from .files import is_utf8, stamp
from .folder import find_images
from .image import ImageError, read_image
from .index_format import IndexHeader
from .matching import radius
from .threads import in_parallel

SIDE = 32
"""Images are reduced to this many pixels square."""

_BATCH = 512  # images encoded, and committed, together
_COMPACT_ABOVE = 0.5  # share of deleted rows
_QUERIES = 512  # of dedup, to bound the memory

Encode = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
"""``(N, 32, 32, 3)`` uint8 RGB to ``(N, B)`` uint8 codes."""


@dataclass
class BuildReport:
    """What a run did to an index.

    Attributes:
        added: images encoded: new and changed ones.
        kept: images that were unchanged.
        deleted: images that have vanished or cannot be read any more.
        unreadable: name and reason, one line, of each image that cannot be read.
        recovered: see :class:`bindesc.code_index.CodeIndex`.
    """

    added: int = 0
    kept: int = 0
    deleted: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    recovered: str = ""


def read_small(path: Path) -> NDArray[np.uint8]:
    """Read an image and reduce it to ``(32, 32, 3)`` uint8 RGB.

    The whole image is squeezed to a square by area averaging, whatever its shape, so that nothing
    of it is lost and a scaled copy keeps its code. A grey image gets three equal channels.

    Raises:
        ImageError: see :func:`bindesc.image.read_image`.
    """
    image = read_image(path)
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    code = cv2.COLOR_GRAY2RGB if small.ndim == 2 else cv2.COLOR_BGR2RGB
    return cv2.cvtColor(small, code)


def build_index(
    folder: Path,
    output: Path,
    encode: Encode,
    header: IndexHeader,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> BuildReport:
    """Make an index of the images below a folder, or bring one up to date.

    An image is encoded again if its size or time of change differ from those at the last run. A
    run that was stopped goes on where it was.

    Args:
        folder: with the images.
        output: the index.
        encode: see :data:`Encode`.
        header: width and model of the codes; its ``root`` is set here.
        progress: wraps the list of names to encode, to show a progress bar.

    Raises:
        FolderError: no images.
        IndexFileError: ``output`` cannot be used, or belongs to another folder or model.
        OSError: ``output`` cannot be written.
    """
    names = find_images(folder)
    header = replace(header, root=_relative(folder, output))
    if not output.exists():
        create_index(output, header)
    report = BuildReport()
    with CodeIndex(output, header, write=True) as index:
        report.recovered = index.recovered
        stamps = dict(zip(index.names, map(tuple, index.stamps.tolist()), strict=True))
        wanted = [name for name in names if stamp(folder / name) != stamps.get(name)]
        report.kept = len(names) - len(wanted)
        for batch in read_batches(folder, wanted, report.unreadable, progress):
            index.update(batch.names, encode(batch.images), batch.stamps)
            report.added += len(batch.names)
        there = set(names) - set(report.unreadable)
        gone = [name for name in index.names if name not in there]
        index.update(delete=gone)
        report.deleted = len(gone)
        if index.wasted > _COMPACT_ABOVE:
            index.compact()
    return report


def near_duplicates(
    folder: Path,
    encode: Encode,
    max_distance: int,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> tuple[list[list[str]], dict[str, str]]:
    """Groups of images whose codes are close.

    Two images are in one group if a chain of images joins them, each step at most
    ``max_distance`` bits.

    Args:
        folder: with the images.
        encode: see :data:`Encode`.
        max_distance: bits, at least 0.
        progress: wraps the list of names.

    Returns:
        The groups of two and more, sorted names, the groups in the order of their first names;
        and name and reason of each image that cannot be read.

    Raises:
        FolderError: no images.
        ValueError: ``max_distance`` is negative.
    """
    unreadable: dict[str, str] = {}
    names: list[str] = []
    codes: list[NDArray[np.uint8]] = []
    for batch in read_batches(folder, find_images(folder), unreadable, progress):
        names += batch.names
        codes.append(encode(batch.images))
    if not names:
        return [], unreadable
    members: dict[int, list[str]] = {}
    for name, label in zip(names, components(np.concatenate(codes), max_distance), strict=True):
        members.setdefault(int(label), []).append(name)
    return [group for group in members.values() if len(group) > 1], unreadable


def components(codes: NDArray[np.uint8], max_distance: int) -> NDArray[np.int64]:
    """The connected components of codes at most ``max_distance`` bits apart.

    Args:
        codes: ``(N, B)`` uint8, at least one.
        max_distance: bits, at least 0.

    Returns:
        ``(N,)`` int64, the number of the component of each code.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # Equal codes are joined first: many copies of one image would make a pair of every two.
    distinct, which = np.unique(codes, axis=0, return_inverse=True)
    queries, trains = [], []
    for first in range(0, len(distinct), _QUERIES):
        found = radius(distinct[first : first + _QUERIES], distinct, max_distance)
        counts = np.diff(found.offsets)
        queries.append(np.repeat(np.arange(first, first + len(counts)), counts))
        trains.append(found.index)
    rows, columns = np.concatenate(queries), np.concatenate(trains)
    size = (len(distinct), len(distinct))
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), size)
    return connected_components(graph, directed=False)[1][which.reshape(-1)].astype(np.int64)


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Images that were read: names, ``(N, 32, 32, 3)`` uint8 RGB, ``(N, 2)`` size and time."""

    names: list[str]
    images: NDArray[np.uint8]
    stamps: NDArray[np.int64]


def read_batches(
    folder: Path,
    names: Sequence[str],
    unreadable: dict[str, str],
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> Iterator[ImageBatch]:
    """Read images, a few hundred at once; name and reason of a bad one go to ``unreadable``."""

    def read(name: str) -> _Read | str:
        before = stamp(folder / name)  # before reading: a change in between is seen next time
        if not is_utf8(name):
            return f"{os.fsencode(folder / name)!r}: the name is no UTF-8"
        try:
            return name, read_small(folder / name), before
        except ImageError as error:
            return str(error)

    kept: list[_Read] = []
    with closing(in_parallel(read, names)) as results:
        for name, found in zip(progress(names), results, strict=True):
            if isinstance(found, str):
                unreadable[name] = found
                continue
            kept.append(found)
            if len(kept) == _BATCH:
                yield _to_batch(kept)
                kept = []
    if kept:
        yield _to_batch(kept)


_Read = tuple[str, NDArray[np.uint8], tuple[int, int]]
"""Name, image and stamp."""


def _to_batch(kept: list[_Read]) -> ImageBatch:
    names, images, stamps = zip(*kept, strict=True)
    return ImageBatch(list(names), np.stack(images), np.array(stamps, np.int64))


def _relative(folder: Path, output: Path) -> str:
    """The folder as seen from the index, so that both can be moved together."""
    folder, base = folder.resolve(), output.resolve().parent
    try:
        return Path(os.path.relpath(folder, base)).as_posix()
    except ValueError:  # another drive
        return folder.as_posix()
