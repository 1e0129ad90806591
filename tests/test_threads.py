from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from bindesc.threads import default_threads, in_parallel, together


@pytest.fixture
def three_threads(opencv_threads):
    opencv_threads(3)


def test_results_come_in_the_order_of_the_items(three_threads):
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return -item

    assert list(in_parallel(slow_first, range(50))) == [-item for item in range(50)]
    assert list(in_parallel(slow_first, [])) == []


def test_as_many_items_at_a_time_as_there_are_threads(three_threads):
    together = threading.Barrier(3, timeout=20)  # breaks if fewer than three come to it

    def meet(_):
        together.wait()
        return default_threads()

    assert list(in_parallel(meet, range(6))) == [1] * 6
    assert default_threads() == 3


def test_items_share_the_threads(opencv_threads):
    opencv_threads(3)
    assert list(in_parallel(lambda _: default_threads(), range(1))) == [3]
    opencv_threads(7)
    assert list(in_parallel(lambda _: default_threads(), range(2))) == [3, 3]
    nested = in_parallel(lambda _: list(in_parallel(lambda _: default_threads(), "ab")), range(7))
    assert list(nested) == [[1, 1]] * 7


def test_an_error_comes_in_its_place_and_ends_the_work(three_threads):
    begun = []

    def fail_at_five(item):
        begun.append(item)
        if item == 5:
            raise KeyError(item)
        return item

    results = in_parallel(fail_at_five, range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError):
        next(results)
    assert 6 <= len(begun) <= 11  # six are under way or wait to be taken
    assert list(results) == []


def test_stopping_early_leaves_no_thread_behind(three_threads):
    begun = []
    threads = threading.active_count()
    with closing(in_parallel(begun.append, range(1000))) as results:
        next(results)
    assert threading.active_count() == threads
    assert len(begun) <= 7


def test_together_gives_results_in_the_order_of_the_items(three_threads):
    def slow_first(item):
        time.sleep(0.02 if item == 0 else 0)
        return -item

    assert together(slow_first, iter(range(50))) == [-item for item in range(50)]
    assert together(slow_first, []) == []


def test_together_uses_the_caller_and_threads_that_stay(three_threads):
    meeting = threading.Barrier(3, timeout=20)

    def meet(_):
        meeting.wait()
        return threading.get_ident()

    first, second = (set(together(meet, range(3))) for _ in range(2))
    assert len(first) == len(second) == 3
    assert threading.get_ident() in first & second
    assert len(together(lambda _: set(together(meet, range(3))), "a")[0]) == 3


def test_together_within_in_parallel_uses_the_share_alone(three_threads):
    def who(_):
        return {threading.get_ident()} == set(together(lambda _: threading.get_ident(), range(20)))

    assert all(in_parallel(who, range(6)))


@pytest.mark.parametrize("fails", ["function", "items"])
def test_an_error_ends_what_is_done_together(fails, three_threads):
    begun = []

    def fail(item):
        begun.append(item)
        if item == 5:
            raise KeyError(item)

    def items():
        for item in range(1000):
            if fails == "items" and item == 5:
                raise KeyError(item)
            yield item

    with pytest.raises(KeyError):
        together(fail, items())
    assert len(begun) <= 8  # two others may be on their way
    assert together(abs, [-1, 2]) == [1, 2]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")  # Python 3.12 and newer
def test_together_in_a_forked_process(three_threads):
    together(abs, range(9))
    child = os.fork()
    if child == 0:
        os._exit(together(abs, range(-9, 0)) != [9, 8, 7, 6, 5, 4, 3, 2, 1])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_interrupt_leaves_the_helpers_at_work(three_threads):
    caller = threading.get_ident()

    def interrupt(_):
        if threading.get_ident() == caller:
            raise KeyboardInterrupt
        time.sleep(0.01)

    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            together(interrupt, range(9))
    meeting = threading.Barrier(3, timeout=20)
    together(lambda _: meeting.wait(), range(3))


@pytest.mark.parametrize("before", ["", "together(abs, range(9))"])
def test_threads_that_outlive_the_main_one(before):
    program = f"""
import cv2, threading, time
from concurrent.futures import ThreadPoolExecutor
from bindesc.threads import in_parallel, together
cv2.setNumThreads(3)
def late(index):
    time.sleep(0.005)  # while the program ends, and after that
    if list(in_parallel(abs, [-1, -2, -3])) == together(abs, [-1, -2, -3]) == [1, 2, 3]:
        print("done")
{before}
pool = ThreadPoolExecutor(2)
for index in range(40):
    pool.submit(late, index)
threading.Thread(target=lambda: (threading.main_thread().join(), late(40))).start()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.count("done") == 41
