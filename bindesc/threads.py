"""How many threads the C++ core uses, and items that are worked on several at a time."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
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
    threads = _threads_to_start()
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


def together(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function with each item, several at a time, where each takes less than a millisecond.

    The threads that help the calling one stay for the next call, as to start one takes as long as
    such an item.

    Args:
        function: must be able to run in several threads at once.
        items: what it is called with; each is made by the thread that takes it, one at a time.

    Returns:
        The results, in the order of the items.

    Raises:
        BaseException: the first that the function or the items raise; items that were not begun by
            then are left out.
    """
    left = enumerate(items)
    taking = threading.Lock()
    results: dict[int, Result] = {}

    def work() -> None:
        nonlocal left
        try:
            while True:
                with taking:
                    taken = next(left, None)
                if taken is None:
                    return
                results[taken[0]] = function(taken[1])
        except BaseException:
            left = enumerate(())
            raise

    helpers = [_helpers(os.getpid()).submit(work) for _ in range(_threads_to_start() - 1)]
    try:
        work()
    finally:
        begun = [helper for helper in helpers if not helper.cancel()]
        wait(begun)
    for helper in begun:
        helper.result()
    return [results[index] for index in range(len(results))]


def _threads_to_start() -> int:
    """1 if the main thread has ended while others go on: Python starts no threads then."""
    return default_threads() if threading.main_thread().is_alive() else 1


@cache
def _helpers(process: int) -> ThreadPoolExecutor:
    """Of this process: a forked one has none of its parent's threads."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="bindesc")
