"""How many threads the C++ core uses, and items that are worked on several at a time."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
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
                try:
                    waiting.append(pool.submit(function, item))
                except RuntimeError:  # the program ends, and Python starts no more threads
                    while waiting:
                        yield waiting.popleft().result()
                    yield function(item)
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
    such an item. The caller takes items too and waits for no helper that has not begun, so that
    nothing can keep it waiting but the work itself.

    Args:
        function: must be able to run in several threads at once.
        items: what it is called with; each is made by the thread that takes it, one at a time.

    Returns:
        The results, in the order of the items.

    Raises:
        BaseException: what the function or the items raise; items that were not begun by then are
            left out.
    """
    left = enumerate(items)
    taking = threading.Lock()
    results: dict[int, Result] = {}
    errors: list[BaseException] = []
    closed = False
    begun = 0
    ended: SimpleQueue[None] = SimpleQueue()

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

    def help_out() -> None:
        nonlocal begun
        with taking:
            if closed:
                return
            begun += 1
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            ended.put(None)

    _ask_helpers(help_out, default_threads() - 1)
    try:
        work()
    finally:
        with taking:
            closed = True
        for _ in range(begun):
            ended.get()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(results))]


class _Helpers:
    """Threads that run what is put into their queue, for as long as the process lives."""

    def __init__(self) -> None:
        # Unlike an executor's, its parts cannot be left half changed by Ctrl-C.
        self.queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self.count = 0

    def run(self) -> None:
        while True:
            self.queue.get()()


_helpers = _Helpers()


def _forget_helpers() -> None:
    global _helpers
    _helpers = _Helpers()


# A forked process has none of its parent's threads.
os.register_at_fork(after_in_child=_forget_helpers)


def _ask_helpers(task: Callable[[], None], count: int) -> None:
    """Put a task into the queue so often; fewer threads may come, if Python starts no more."""
    try:
        while _helpers.count < count:
            threading.Thread(target=_helpers.run, name="bindesc", daemon=True).start()
            _helpers.count += 1
    except RuntimeError:
        pass
    for _ in range(min(count, _helpers.count)):
        _helpers.queue.put(task)
