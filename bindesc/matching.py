"""Exact Hamming matching of binary descriptors.

Every function takes packed codes, ``(N, B)`` uint8 with B even, from 2 to 64 bytes (16 to 512
bits), or None, which detectors give for an image without keypoints. Ties go to the lowest index. A
missing neighbour has index -1 and distance 65535.

The arrays of a call may both be on a device (torch, CuPy or anything with DLPack or
``__cuda_array_interface__``). The search then runs there and its result, of :mod:`bindesc.cuda`,
has the same fields on the device.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _cpu
from .match_options import MAX_K, check_filters, check_integer
from .reference import Nearest
from .threads import default_threads
from .types import Matches, Neighbours

MAX_BYTES = 64

_DLPACK_CPU = 1


def match(
    d1: Any,
    d2: Any,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    margin: int | None = None,
    max_distance: int | None = None,
    num_threads: int | None = None,
) -> Matches:
    """Match each descriptor of one image to its nearest descriptor of another.

    All filters run in the pass that finds the two nearest neighbours, in memory O(N + M).

    Args:
        d1: ``(N, B)`` uint8, the queries; zero rows are allowed.
        d2: ``(M, B)`` uint8, the train descriptors.
        mutual: keep a pair only if each is the other's nearest.
        ratio: keep if ``distance1 < ratio * distance2``, above 0, at most 1. A query without a
            second neighbour passes.
        margin: keep if ``distance2 - distance1 >= margin``, bits, at least 0. A query without a
            second neighbour passes.
        max_distance: keep if ``distance1 <= max_distance``, bits, at least 0.
        num_threads: threads to use, at least 1; by default ``cv2.getNumThreads()`` if OpenCV is
            loaded, else every core. The result does not depend on it.

    Returns:
        The matches, in ascending query order; for device arrays a
        :class:`bindesc.cuda.DeviceMatches`, which has the same fields on the device.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an array has the wrong shape, or an option is out of range.

    Example:
        >>> codes = np.arange(8, dtype=np.uint8).reshape(4, 2)
        >>> match(codes, codes[::-1]).pairs.tolist()
        [[0, 3], [1, 2], [2, 1], [3, 0]]
    """
    options = check_filters(mutual, ratio, margin, max_distance)
    d1, d2 = _none_as_empty(d1, d2)
    if _on_device("d1", d1, "d2", d2):
        from . import cuda

        found: Any = cuda.match(d1, d2, **options)
        return found
    query, train = _codes("d1", d1, "d2", d2)
    threads = threads_to_use(num_threads)
    return Matches(*_cpu.match(query, train, **_filters(**options), threads=threads))


def match_pairs(
    pairs: Iterable[tuple[Any, Any]],
    *,
    mutual: bool = True,
    ratio: float | None = None,
    margin: int | None = None,
    max_distance: int | None = None,
    num_threads: int | None = None,
) -> list[Matches]:
    """Match many pairs of images, as :func:`match` does one.

    Args:
        pairs: ``(d1, d2)`` of each pair of images; all in host memory or all on one device.
        mutual: see :func:`match`, as for every other option.
        ratio: see :func:`match`.
        margin: see :func:`match`.
        max_distance: see :func:`match`.
        num_threads: see :func:`match`.

    Returns:
        The matches of each pair, in order.
    """
    options = check_filters(mutual, ratio, margin, max_distance)
    threads = threads_to_use(num_threads)
    on_device, host = [], []
    for number, pair in enumerate(pairs):
        names = f"pairs[{number}][0]", f"pairs[{number}][1]"
        d1, d2 = _none_as_empty(*pair)
        if _on_device(names[0], d1, names[1], d2):
            on_device.append((d1, d2))
        else:
            host.append(_codes(names[0], d1, names[1], d2))
    if not on_device:
        found = _cpu.match_pairs(host, **_filters(**options), threads=threads)
        return [Matches(*matches) for matches in found]
    if host:
        raise ValueError("pairs: some are in host memory and some on a device")
    from . import cuda

    device_found: Any = cuda.match_pairs(on_device, **options)
    return device_found


def nearest(query: Any, train: Any, k: int = 2, num_threads: int | None = None) -> Nearest:
    """The k nearest train descriptors of each query, and the nearest query of each of them.

    Args:
        query: ``(N, B)`` uint8.
        train: ``(M, B)`` uint8.
        k: neighbours a query, 1 to 32.
        num_threads: see :func:`match`.

    Returns:
        Indices and distances, nearest first; for device arrays a
        :class:`bindesc.cuda.DeviceNearest`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an array has the wrong shape, or k is out of range.
    """
    k = check_integer("k", k, 1, MAX_K)
    query, train = _none_as_empty(query, train)
    if _on_device("query", query, "train", train):
        from . import cuda

        found: Any = cuda.nearest(query, train, k)
        return found
    queries, trains = _codes("query", query, "train", train)
    return Nearest(*_cpu.nearest(queries, trains, k, threads_to_use(num_threads)))


def radius(query: Any, train: Any, max_distance: int, num_threads: int | None = None) -> Neighbours:
    """All train descriptors within a Hamming distance of each query.

    Args:
        query: ``(N, B)`` uint8.
        train: ``(M, B)`` uint8.
        max_distance: the largest distance reported, bits, at least 0.
        num_threads: see :func:`match`.

    Returns:
        The neighbours of each query, nearest first, the lower index first among equals; for
        device arrays a :class:`bindesc.cuda.DeviceNeighbours`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an array has the wrong shape, or ``max_distance`` is negative.
    """
    limit = check_integer("max_distance", max_distance, 0)
    query, train = _none_as_empty(query, train)
    if _on_device("query", query, "train", train):
        from . import cuda

        device_found: Any = cuda.radius(query, train, limit)
        return device_found
    queries, trains = _codes("query", query, "train", train)
    found = _cpu.radius(queries, trains, min(limit, 8 * MAX_BYTES), threads_to_use(num_threads))
    return Neighbours(*found)


def _none_as_empty(d1: Any, d2: Any) -> tuple[Any, Any]:
    """None in either place as codes of the other's width, of no rows."""
    if d1 is None and d2 is None:
        return (np.empty((0, 32), np.uint8),) * 2
    if d1 is None and hasattr(d2, "__getitem__"):
        return d2[:0], d2
    if d2 is None and hasattr(d1, "__getitem__"):
        return d1, d1[:0]
    return d1, d2


def _codes(
    name1: str, array1: Any, name2: str, array2: Any
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Both arguments as contiguous codes of one width."""
    first, second = check_code(name1, array1), check_code(name2, array2)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{name2}: {second.shape[1]} bytes a row, but {name1} has {first.shape[1]}"
        )
    return first, second


def check_code(name: str, array: Any) -> NDArray[np.uint8]:
    """One argument as contiguous codes."""
    if not isinstance(array, np.ndarray):
        if not hasattr(array, "__dlpack__"):
            raise TypeError(f"{name}: expected an array (N, B) uint8, got {type(array).__name__}")
        array = np.from_dlpack(array)
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: expected uint8, got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"{name}: expected 2 axes (N, B), got shape {array.shape}")
    width = array.shape[1]
    if width % 2 or not 2 <= width <= MAX_BYTES:
        raise ValueError(
            f"{name}: expected an even number of bytes a row, 2 to {MAX_BYTES}, got {width}"
        )
    return np.ascontiguousarray(array)


def _on_device(name1: str, array1: Any, name2: str, array2: Any) -> bool:
    """Whether both arrays are on a device that is not the CPU; they must agree."""
    first, second = _is_device_array(array1), _is_device_array(array2)
    if first != second:
        host, device = (name2, name1) if first else (name1, name2)
        raise ValueError(f"{host}: is in host memory, but {device} is on a device")
    return first


def _is_device_array(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return False
    if hasattr(array, "__dlpack_device__"):
        return int(array.__dlpack_device__()[0]) != _DLPACK_CPU
    return hasattr(array, "__cuda_array_interface__")


def _filters(
    mutual: bool, ratio: float | None, margin: int | None, max_distance: int | None
) -> dict[str, Any]:
    """The filters as the kernel takes them: a negative value switches one off."""
    bits = 8 * MAX_BYTES + 1  # more than any distance or margin, and no larger than C++ can take
    return {
        "mutual": mutual,
        "ratio": -1.0 if ratio is None else ratio,
        "margin": -1 if margin is None else min(margin, bits),
        "max_distance": -1 if max_distance is None else min(max_distance, bits),
    }


def threads_to_use(num_threads: int | None) -> int:
    """The number of threads to use."""
    if num_threads is None:
        return default_threads()
    return check_integer("num_threads", num_threads, 1, np.iinfo(np.int32).max)
