from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest

from bindesc.threads import default_threads, in_parallel


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
