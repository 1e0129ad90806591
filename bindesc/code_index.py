"""A file of named binary codes: it only grows, is checksummed, and survives a kill at any moment.

See :mod:`bindesc.index_format` for the layout.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .database import Database
from .files import atomic_path, remove_stale_of
from .index_format import (
    IndexFileError,
    IndexHeader,
    Record,
    check_header,
    pack_header,
    pack_record,
    read_header,
    read_records,
)

try:
    import fcntl
except ImportError:  # Windows: two writers are not kept apart
    fcntl = None  # type: ignore[assignment]

_CACHED = ("codes", "stamps", "names", "database", "_live")


def create_index(path: str | os.PathLike[str], header: IndexHeader) -> None:
    """Write an empty index.

    Raises:
        FileExistsError: ``path`` exists.
        OSError: it cannot be written.
    """
    if Path(path).exists():
        raise FileExistsError(f"{path}: exists already")
    with atomic_path(path) as temporary:
        file = _File(temporary, "w+b")
        try:
            file.append(pack_header(header))
        finally:
            file.close()


class CodeIndex:
    """An open index: what was committed when it was opened, and what this object added since.

    Use it in a ``with`` block, or call :meth:`close`.

    Args:
        path: the file.
        expect: what the header must say; ``root`` is compared only where it is given.
        write: open for :meth:`update` and :meth:`compact`; one writer at a time, where the system
            has ``fcntl``.

    Attributes:
        header: of the file.
        recovered: one line about an unfinished write of a killed process, which is left out; empty
            if there is none.

    Raises:
        IndexFileError: no index, damaged, another format, model or width than expected, or
            another process is writing to it.
        OSError: the file cannot be opened.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "photos.idx"
        >>> create_index(path, IndexHeader(bits=16, model="m", sha256="0"))
        >>> with CodeIndex(path, write=True) as index:
        ...     index.update(["a.jpg", "b.jpg"], np.array([[0, 0], [0, 7]], np.uint8))
        ...     index.database.nearest(np.array([[0, 3]], np.uint8), k=1)[0].tolist(), index.names
        ([[1]], ['a.jpg', 'b.jpg'])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        expect: IndexHeader | None = None,
        *,
        write: bool = False,
    ) -> None:
        self.path = Path(path)
        self._writable = write
        self._file = _open_locked(self.path) if write else _File(self.path, "rb")
        try:
            self._load(expect)
            if write:
                remove_stale_of(self.path)  # what a killed compact() left; the file is locked
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> CodeIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._live)

    def close(self) -> None:
        """Release the file and the lock; arrays taken from the index stay valid."""
        self._file.close()

    @cached_property
    def codes(self) -> NDArray[np.uint8]:
        """``(N, B)`` uint8, read-only; mapped from the file where it is one record."""
        return self._rows([r.codes for r in self._records])

    @cached_property
    def stamps(self) -> NDArray[np.int64]:
        """``(N, 2)`` int64, read-only: what the writer gave with each code."""
        return self._rows([r.stamps for r in self._records])

    @cached_property
    def names(self) -> list[str]:
        """The name of each code; no two are equal."""
        every = [name for r in self._records for name in r.split_names()]
        return every if len(every) == len(self) else [every[row] for row in self._live.tolist()]

    @cached_property
    def database(self) -> Database:
        """The codes packed for searching; it answers with positions in :attr:`names`."""
        return Database(self.codes)

    @property
    def wasted(self) -> float:
        """Share of the rows in the file that are deleted, 0 to 1."""
        return 1 - len(self) / len(self._alive) if len(self._alive) else 0.0

    def update(
        self,
        names: Sequence[str] = (),
        codes: NDArray[np.uint8] | None = None,
        stamps: NDArray[np.int64] | None = None,
        delete: Sequence[str] = (),
    ) -> None:
        """Add codes and delete others, all or nothing; on the disk when this returns.

        Args:
            names: of the new codes; one that the index has already is replaced.
            codes: ``(K, B)`` uint8.
            stamps: ``(K, 2)`` int64 to keep with them; zeros by default.
            delete: names to delete.

        Raises:
            ValueError: an array has the wrong shape or type; a name comes twice, holds NUL or is
                no UTF-8.
            KeyError: a name to delete is not in the index.
            OSError: the disk is full, or the index was not opened for writing.
        """
        self._check_writable()
        width = self.header.bits // 8
        codes = np.zeros((0, width), np.uint8) if codes is None else codes
        stamps = np.zeros((len(names), 2), np.int64) if stamps is None else stamps
        if codes.dtype != np.uint8 or codes.shape != (len(names), width):
            raise ValueError(
                f"codes: expected ({len(names)}, {width}) uint8, got {codes.shape} {codes.dtype}"
            )
        if stamps.shape != (len(names), 2):
            raise ValueError(f"stamps: expected ({len(names)}, 2), got {stamps.shape}")
        if len(set(names)) != len(names):
            raise ValueError("names: one comes twice")
        row_of = self._row_of
        gone = {*delete, *(name for name in names if name in row_of)}
        if not gone and not names:
            return
        deleted = np.array(sorted(row_of[name] for name in gone), np.int64)
        record, commit = pack_record(deleted, codes, stamps, names)
        self._file.cut(self._end)
        self._file.append(record)
        self._file.append(commit)
        for name in gone:
            del row_of[name]
        row_of.update((name, row) for row, name in enumerate(names, len(self._alive)))
        self._add(memoryview(record + commit), 0, self._end)

    def compact(self) -> None:
        """Rewrite the file as one record without the deleted rows; nothing is lost by a kill."""
        self._check_writable()
        nothing = np.zeros(0, np.int64)
        with atomic_path(self.path) as temporary:
            file = _File(temporary, "w+b")
            try:
                file.lock(self.path)  # before it has the name, so that no writer comes between
                file.append(pack_header(self.header))
                if len(self):
                    for part in pack_record(nothing, self.codes, self.stamps, self.names):
                        file.append(part)
            except BaseException:
                file.close()
                raise
        self._file.close()
        self._file = file
        self._load(self.header)

    @cached_property
    def _live(self) -> NDArray[np.int64]:
        return np.flatnonzero(self._alive)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return dict(zip(self.names, self._live.tolist(), strict=True))

    def _check_writable(self) -> None:
        if not self._writable:
            raise OSError(f"{self.path}: was not opened for writing")

    def _rows(self, parts: list[NDArray[Any]]) -> NDArray[Any]:
        filled = [part for part in parts if len(part)] or parts[:1]
        every = filled[0] if len(filled) == 1 else np.concatenate(filled)
        every = every if len(self) == len(every) else every[self._live]
        every.flags.writeable = False
        return every

    def _load(self, expect: IndexHeader | None) -> None:
        data = self._file.map()
        self.header, start = read_header(self.path, data)
        if expect is not None:
            check_header(self.path, self.header, expect)
        # A first record without rows gives the arrays of an empty index their shape.
        self._records = [Record.empty(self.header.bits // 8)]
        self._alive = np.zeros(0, bool)
        self.__dict__.pop("_row_of", None)
        self._end = start
        self._add(data, start, 0)
        lost = len(data) - self._end
        self.recovered = f"{self.path}: ignored {lost} bytes of an unfinished write" if lost else ""

    def _add(self, data: memoryview, at: int, offset: int) -> None:
        """Take up the records of ``data``, which stands at byte ``offset`` of the file."""
        added = []
        for record, end in read_records(self.path, data, at, self.header.bits // 8):
            added.append(record)
            self._end = offset + end
        self._records += added
        self._alive = np.concatenate(
            [self._alive, np.ones(sum(len(record.codes) for record in added), bool)]
        )
        for record in added:
            self._alive[record.deleted] = False
        for name in _CACHED:
            self.__dict__.pop(name, None)


class _File:
    """An unbuffered file: what :meth:`append` has returned from is on the disk."""

    def __init__(self, path: Path, mode: str) -> None:
        self._file = path.open(mode, buffering=0)

    def close(self) -> None:
        if fcntl is not None and not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a map keeps the file open, and with it a lock
        self._file.close()

    def append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        os.fsync(self._file.fileno())

    def cut(self, size: int) -> None:
        self._file.truncate(size)
        self._file.seek(size)

    def map(self) -> memoryview:
        if not os.fstat(self._file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    def lock(self, path: Path) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise IndexFileError(f"{path}: another process is writing to it") from None

    def is_at(self, path: Path) -> bool:
        return path.exists() and os.path.samestat(os.fstat(self._file.fileno()), path.stat())


def _open_locked(path: Path) -> _File:
    while True:
        file = _File(path, "r+b")
        try:
            file.lock(path)
        except BaseException:
            file.close()
            raise
        if file.is_at(path):
            return file
        file.close()  # it was compacted between opening and locking
