"""Memory that large tensors free is kept for the next ones."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # the options of glibc's mallopt
_LARGEST = 32 << 20  # bytes: above, glibc takes memory from the system in any case
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory, for the whole process; does nothing with another C library.

    By default it returns the memory of each large tensor to the system and takes it anew at the
    next step, page by page: some 30,000 page faults a step of BinGAN.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _NEVER)
