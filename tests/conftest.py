from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import pytest

pytest.register_assert_rewrite("pair_sets")  # before the files that use its fixtures import it


@pytest.fixture
def opencv_threads() -> Iterator[Callable[[int], None]]:
    """``cv2.setNumThreads``, taken back after the test."""
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)
