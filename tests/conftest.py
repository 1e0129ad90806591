from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import pytest

pytest_plugins = ["pair_sets"]  # its fixtures


@pytest.fixture
def opencv_threads() -> Iterator[Callable[[int], None]]:
    """``cv2.setNumThreads``, taken back after the test."""
    before = cv2.getNumThreads()
    yield cv2.setNumThreads
    cv2.setNumThreads(before)
