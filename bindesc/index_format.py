"""The bytes of an index file: append-only records, each with checksums and a commit.

Layout, little-endian::

    header  magic 8 bytes | format uint32 | length uint32 | JSON | crc32 of all before
    record  head (see _HEAD) with its own crc32
            deleted rows, int64 | codes | stamps, int64 pairs | names, UTF-8 with NUL between
            commit: magic 4 bytes | crc32 of the record before it
    record  ...

Each record deletes rows, then adds rows. Rows are numbered in the order of the file from 0. A
record counts once its commit, which is written after the rest has reached the disk, is complete;
an unfinished record at the end is ignored, and overwritten by the next writer. Anything else that
does not fit its checksum is damage, and the file is refused.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .matching import MAX_BYTES

FORMAT = 1
_MAGIC, _RECORD, _COMMIT = b"BDINDEX\n", b"BDRC", b"DONE"
_START = struct.Struct("<8sII")
_HEAD = struct.Struct("<4sIQQQI")  # magic, 0, deleted rows, added rows, bytes of names, crc32
_CRC = struct.Struct("<I")
_END = struct.Struct("<4sI")
_LONGEST_HEADER = 1 << 16
_INT64 = np.dtype("<i8")


class IndexFileError(ValueError):
    """An index that cannot be used; the text names the file and the reason."""


@dataclass(frozen=True)
class IndexHeader:
    """What all codes of an index have in common.

    Attributes:
        bits: width of a code, a multiple of 16, 16 to 512.
        model: name of the model that made the codes.
        sha256: of that model, from its manifest.
        root: folder that the names are relative to, itself relative to the index's folder, with
            ``/``; empty if unknown.
    """

    bits: int
    model: str
    sha256: str
    root: str = ""

    def __post_init__(self) -> None:
        if self.bits % 16 or not 16 <= self.bits <= 8 * MAX_BYTES:
            raise ValueError(f"bits: expected a multiple of 16, 16 to 512, got {self.bits}")


@dataclass(frozen=True, eq=False)
class Record:
    """One batch: rows to delete, then rows to add.

    Attributes:
        deleted: ``(D,)`` int64, numbers of earlier rows.
        codes: ``(K, B)`` uint8.
        stamps: ``(K, 2)`` int64.
        names: UTF-8, with NUL between.
    """

    deleted: NDArray[np.int64]
    codes: NDArray[np.uint8]
    stamps: NDArray[np.int64]
    names: memoryview

    @staticmethod
    def empty(width: int) -> Record:
        """A batch of nothing; ``width`` is the number of bytes of a code."""
        rows, stamps = np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
        return Record(rows, np.zeros((0, width), np.uint8), stamps, memoryview(b""))

    def split_names(self) -> list[str]:
        """The names of the added rows."""
        return str(self.names, "utf-8").split("\0") if len(self.codes) else []


def pack_header(header: IndexHeader) -> bytes:
    """The bytes that an index starts with."""
    text = json.dumps(asdict(header)).encode()
    data = _START.pack(_MAGIC, FORMAT, len(text)) + text
    return data + _CRC.pack(zlib.crc32(data))


def read_header(path: Path, data: memoryview) -> tuple[IndexHeader, int]:
    """The header and its number of bytes.

    Raises:
        IndexFileError: no index, another format, or damaged.
    """
    if bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise IndexFileError(f"{path}: is not a bindesc index")
    if len(data) >= _START.size:
        _, version, length = _START.unpack_from(data)
        if version != FORMAT:
            raise IndexFileError(
                f"{path}: has format {version}, this version reads format {FORMAT}; delete it "
                "and build it again"
            )
        end = _START.size + length
        if len(data) >= end + 4 and _CRC.unpack_from(data, end)[0] == zlib.crc32(data[:end]):
            return IndexHeader(**json.loads(bytes(data[_START.size : end]))), end + 4
    raise IndexFileError(f"{path}: the header is damaged; delete it and build it again")


def peek_header(path: Path) -> IndexHeader:
    """The header of an index, without reading the rest.

    Raises:
        IndexFileError: see :func:`read_header`.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return read_header(path, memoryview(file.read(_LONGEST_HEADER)))[0]


def check_header(path: Path, found: IndexHeader, expect: IndexHeader) -> None:
    """Refuse an index of another width, model or folder.

    Raises:
        IndexFileError: names the first thing that differs.
    """
    if found.bits != expect.bits:
        raise IndexFileError(f"{path}: has codes of {found.bits} bits, expected {expect.bits}")
    if found.sha256 != expect.sha256:
        raise IndexFileError(
            f"{path}: was made with the model {found.model} ({found.sha256[:12]}), not with "
            f"{expect.model} ({expect.sha256[:12]}); build an index of its own"
        )
    if expect.root and found.root != expect.root:
        raise IndexFileError(f"{path}: is an index of {found.root}, not of {expect.root}")


def pack_record(
    deleted: NDArray[np.int64],
    codes: NDArray[np.uint8],
    stamps: NDArray[np.int64],
    names: Sequence[str],
) -> tuple[bytes, bytes]:
    """A record and its commit.

    Raises:
        ValueError: a name is no UTF-8 or holds NUL.
    """
    try:
        text = "\0".join(names).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"names: cannot be written as UTF-8 ({error.reason})") from None
    if text.count(b"\0") != max(0, len(names) - 1):
        raise ValueError("names: one holds NUL")
    head = _HEAD.pack(_RECORD, 0, len(deleted), len(codes), len(text), 0)[: -_CRC.size]
    arrays = (deleted.astype(_INT64), codes, stamps.astype(_INT64))
    record = b"".join(
        [head, _CRC.pack(zlib.crc32(head)), *(array.tobytes() for array in arrays), text]
    )
    return record, _END.pack(_COMMIT, zlib.crc32(record))


def read_records(path: Path, data: memoryview, at: int, width: int) -> Iterator[tuple[Record, int]]:
    """The committed records from byte ``at`` on, each with the byte where it ends.

    Args:
        path: named by errors.
        data: the file.
        at: where the first record starts.
        width: bytes of a code.

    Raises:
        IndexFileError: the data is damaged.
    """
    while at + _HEAD.size <= len(data):
        magic, _, deletions, count, names, crc = _HEAD.unpack_from(data, at)
        body = at + _HEAD.size
        if magic != _RECORD or crc != zlib.crc32(data[at : body - _CRC.size]):
            if _only_zeros(data, at):
                return
            raise IndexFileError(f"{path}: is damaged at byte {at}; delete it and build it again")
        offsets = np.cumsum([body, 8 * deletions, width * count, 16 * count, names]).tolist()
        end = offsets[-1] + _END.size
        if end > len(data) or _only_zeros(data, offsets[-1]):
            return
        commit, crc = _END.unpack_from(data, offsets[-1])
        if commit != _COMMIT or crc != zlib.crc32(data[at : offsets[-1]]):
            raise IndexFileError(
                f"{path}: is damaged between bytes {at} and {end}; delete it and build it again"
            )
        parts = [data[a:b] for a, b in pairwise(offsets)]
        yield (
            Record(
                np.frombuffer(parts[0], _INT64),
                np.frombuffer(parts[1], np.uint8).reshape(count, width),
                np.frombuffer(parts[2], _INT64).reshape(count, 2),
                parts[3],
            ),
            end,
        )
        at = end


def _only_zeros(data: memoryview, at: int) -> bool:
    """Whether a crash of the system left only zeros from here on: the write never got there."""
    return not np.frombuffer(data, np.uint8, offset=at).any()
