"""How many threads the C++ core uses."""

from __future__ import annotations

import os
import sys


def default_threads() -> int:
    """``cv2.getNumThreads()`` if OpenCV is loaded, else every core; 1 at least."""
    cv2 = sys.modules.get("cv2")
    return max(1, cv2.getNumThreads() if cv2 else os.cpu_count() or 1)
