"""How many threads the C++ core uses, and items that are worked on several at a time."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_share = threading.local()


def default_threads() -> int:
    """``cv2.getNumThreads()`` if OpenCV is loaded, else every core; 1 at least.

    What :func:`in_parallel` calls has a share of them.
    """
    share: int | None = getattr(_share, "threads", None)
    if share is not None:
        return share
    cv2 = sys.modules.get("cv2")
    return max(1, cv2.getNumThreads() if cv2 else os.cpu_count() or 1)


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item]
) -> Generator[Result, None, None]:
    """Call a function with each item, several at a time, for work that leaves Python's lock.

    Args:
        function: must be able to run in several threads at once.
        items: what it is called with.

    Yields:
        The results, in the order of the items. At most twice as many as there are threads are
        under way or wait to be taken, so that memory is bounded.

    Raises:
        BaseException: what the function raises, in the place of its result; items that were not
            begun by then are left out. The same holds if the caller stops early.
    """
    threads = default_threads()
    workers = min(threads, len(items))
    if workers < 2:
        yield from map(function, items)
        return

    def begin() -> None:
        _share.threads = threads // workers

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) == 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
