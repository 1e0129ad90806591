"""Exact nearest neighbours in a large, fixed set of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _cpu
from .match_options import check_integer
from .matching import check_code, threads_to_use

MAX_K = 1024


class Database:
    """Codes that are packed for the kernel once and searched many times.

    :func:`bindesc.matching.nearest` packs its train codes on every call, which for a few queries
    against millions of codes takes longer than the search. Any number of threads may search one
    database at once.

    Args:
        codes: ``(M, B)`` uint8, B even, 2 to 64; copied.

    Raises:
        TypeError: the codes are no array, or not uint8.
        ValueError: the shape is wrong.

    Example:
        >>> database = Database(np.arange(8, dtype=np.uint8).reshape(4, 2))
        >>> index, distance = database.nearest(np.array([[2, 3]], np.uint8), k=2)
        >>> index.tolist(), distance.tolist()
        ([[1, 0]], [[0, 2]])
    """

    def __init__(self, codes: Any) -> None:
        checked = check_code("codes", codes)
        self._rows, self._bytes = checked.shape
        self._packed = _cpu.Database(checked)

    def __len__(self) -> int:
        return self._rows

    def nearest(
        self, query: Any, k: int = 10, num_threads: int | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.uint16]]:
        """The k nearest codes of each query.

        Args:
            query: ``(N, B)`` uint8.
            k: neighbours a query, 1 to 1024.
            num_threads: see :func:`bindesc.matching.match`.

        Returns:
            ``(N, k)`` int32 indices and ``(N, k)`` uint16 distances in bits, nearest first, the
            lowest index first among ties; -1 and 65535 where there are fewer codes than k.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: the width is not that of the codes, or k is out of range.
        """
        queries = check_code("query", query)
        if queries.shape[1] != self._bytes:
            raise ValueError(
                f"query: {queries.shape[1]} bytes a row, but the database has {self._bytes}"
            )
        k = check_integer("k", k, 1, MAX_K)
        return self._packed.nearest(queries, k, threads_to_use(num_threads))
