"""Exact Hamming matching on NVIDIA GPUs, for arrays that are already there.

Takes torch (2.3 or later) CUDA tensors, CuPy arrays and anything with DLPack or
``__cuda_array_interface__``, without a copy. Work is enqueued on the caller's stream and results
stay on the device, as arrays of the library that the queries come from. Nothing waits until the
number of matches is asked for, except a radius search, for the number of neighbours that it makes
room for. The results equal :mod:`bindesc.reference` bit for bit: ties go to
the lowest index, a missing neighbour has index -1 and distance 65535.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import cuda_library
from .cuda_job import MAX_BYTES, Job, Workspace
from .device_array import DeviceArray
from .device_results import Counts, DeviceMatches, DeviceNearest, DeviceNeighbours, to_host
from .match_options import MAX_K, check_filters, check_integer

__all__ = [
    "DeviceArray",
    "DeviceMatches",
    "DeviceNearest",
    "DeviceNeighbours",
    "Status",
    "Workspace",
    "match",
    "match_pairs",
    "nearest",
    "radius",
    "status",
]

_NO_RATIO = -1.0
_NO_LIMIT = 0xFFFF


@dataclass(frozen=True)
class Status:
    """What CUDA can do here.

    Attributes:
        compiled: the package holds the CUDA library.
        usable: the library finds a GPU that it has code for.
        text: one line that says so, or why not.
    """

    compiled: bool
    usable: bool
    text: str

    def __str__(self) -> str:
        return self.text


def status() -> Status:
    """Whether the CUDA part is compiled and usable, and if not, why; never raises."""
    if cuda_library.path() is None:
        return Status(False, False, "CUDA: not compiled; built without nvcc or with BINDESC_CUDA=0")
    count, text = ctypes.c_int(), ctypes.create_string_buffer(256)
    try:
        cuda_library.call("devices", ctypes.byref(count))
        if count.value == 0:
            raise RuntimeError("CUDA: no GPU")
        cuda_library.call("describe", 0, text, len(text))
    except RuntimeError as error:
        reason = str(error).removeprefix("CUDA: ")
        return Status(True, False, f"CUDA: compiled, never run on a GPU here; {reason}")
    return Status(True, True, f"CUDA: usable; {count.value} x {text.value.decode()}")


def match(
    d1: Any,
    d2: Any,
    *,
    mutual: bool = True,
    ratio: float | None = None,
    margin: int | None = None,
    max_distance: int | None = None,
    stream: Any = None,
    workspace: Workspace | None = None,
) -> DeviceMatches:
    """Match each descriptor of one image to its nearest descriptor of another, on the GPU.

    Args:
        d1: ``(N, B)`` uint8 in GPU memory, the queries; B even, 2 to 64; C order, no gaps.
        d2: ``(M, B)`` uint8 on the same GPU, the train descriptors.
        mutual: keep a pair only if each is the other's nearest.
        ratio: keep if ``distance1 < ratio * distance2``, above 0, at most 1. A query without a
            second neighbour passes.
        margin: keep if ``distance2 - distance1 >= margin``, bits, at least 0. A query without a
            second neighbour passes.
        max_distance: keep if ``distance1 <= max_distance``, bits, at least 0.
        stream: a torch or CuPy stream, or its handle; by default the one that the library of
            ``d1`` works on now.
        workspace: scratch memory to use; by default it is allocated for the call, which for
            arrays that are neither of torch nor of CuPy waits for the GPU.

    Returns:
        The matches, in ascending query order, on the device.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an array has the wrong shape, layout or device, or an option is out of range.
        RuntimeError: CUDA is not compiled or a CUDA call failed.
    """
    tests = _filter(mutual, ratio, margin, max_distance)
    return _match(Job([(d1, d2)], [("d1", "d2")], stream, workspace), tests)[0]


def match_pairs(
    pairs: Iterable[tuple[Any, Any]],
    *,
    mutual: bool = True,
    ratio: float | None = None,
    margin: int | None = None,
    max_distance: int | None = None,
    stream: Any = None,
    workspace: Workspace | None = None,
) -> list[DeviceMatches]:
    """Match many pairs of images, as :func:`match` does one, up to 32 pairs a launch.

    Args:
        pairs: ``(d1, d2)`` of each pair of images, of any sizes, one width and one GPU.
        mutual: see :func:`match`, as for every other option.
        ratio: see :func:`match`.
        margin: see :func:`match`.
        max_distance: see :func:`match`.
        stream: see :func:`match`.
        workspace: see :func:`match`.

    Returns:
        The matches of each pair, in order.
    """
    tests = _filter(mutual, ratio, margin, max_distance)
    listed = list(pairs)
    names = [(f"pairs[{p}][0]", f"pairs[{p}][1]") for p in range(len(listed))]
    return _match(Job(listed, names, stream, workspace), tests) if listed else []


def nearest(
    query: Any,
    train: Any,
    k: int = 2,
    *,
    stream: Any = None,
    workspace: Workspace | None = None,
) -> DeviceNearest:
    """The k nearest train descriptors of each query, and the nearest query of each of them.

    Args:
        query: see ``d1`` of :func:`match`.
        train: see ``d2`` of :func:`match`.
        k: neighbours a query, 1 to 32; more than 2 take longer.
        stream: see :func:`match`.
        workspace: see :func:`match`.

    Returns:
        Indices and distances, nearest first, on the device.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: as for :func:`match`, or k is out of range.
        RuntimeError: CUDA is not compiled or a CUDA call failed.
    """
    k = check_integer("k", k, 1, MAX_K)
    job = Job([(query, train)], [("query", "train")], stream, workspace)
    n, m = job.rows(0)[0], job.rows(1)[0]
    outputs = (
        job.allocate((n, k), "int32"),
        job.allocate((n, k), "uint16"),
        job.allocate((m,), "int32"),
        job.allocate((m,), "uint16"),
    )
    job.nearest(k, outputs)
    return DeviceNearest(*outputs, job.device, job.stream)


def radius(query: Any, train: Any, max_distance: int, *, stream: Any = None) -> DeviceNeighbours:
    """All train descriptors within a Hamming distance of each query.

    Two passes: one counts, one writes. Between them the call waits for the GPU and reads one
    number, how many neighbours there are in all, to allocate the result.

    Args:
        query: see ``d1`` of :func:`match`.
        train: see ``d2`` of :func:`match`.
        max_distance: the largest distance reported, bits, at least 0.
        stream: see :func:`match`.

    Returns:
        The neighbours of each query on the device, nearest first, the lower index first among
        equals. They take 6 bytes each, and nothing but the result takes memory.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: as for :func:`match`.
        RuntimeError: CUDA is not compiled or a CUDA call failed.
    """
    limit = min(check_integer("max_distance", max_distance, 0), 8 * MAX_BYTES)
    job = Job([(query, train)], [("query", "train")], stream, None)
    offsets, total = job.allocate((job.rows(0)[0] + 1,), "int64"), job.allocate((1,), "int64")
    job.radius_count(limit, offsets, total)
    count = int(to_host(total, "int64", job.device, job.stream)[0])
    outputs = offsets, job.allocate((count,), "int32"), job.allocate((count,), "uint16")
    job.radius_fill(limit, outputs)
    return DeviceNeighbours(*outputs, job.device, job.stream)


def _match(job: Job, tests: cuda_library.Filter) -> list[DeviceMatches]:
    rows = job.rows(0)
    pairs, distance = job.allocate((sum(rows), 2), "int32"), job.allocate((sum(rows),), "uint16")
    count = job.allocate((len(rows),), "int32")
    job.match(tests, (pairs, distance, count))
    counts = Counts(count, job.device, job.stream)
    ends = list(itertools.accumulate(rows))
    return [
        DeviceMatches(
            pairs[end - n : end], distance[end - n : end], counts, number, job.device, job.stream
        )
        for number, (n, end) in enumerate(zip(rows, ends, strict=True))
    ]


def _filter(
    mutual: bool, ratio: float | None, margin: int | None, max_distance: int | None
) -> cuda_library.Filter:
    """The tests as the library takes them; bits are cut to what no distance reaches."""
    options = check_filters(mutual, ratio, margin, max_distance)
    return cuda_library.Filter(
        _NO_RATIO if ratio is None else options["ratio"],
        0 if margin is None else min(options["margin"], _NO_LIMIT),
        _NO_LIMIT if max_distance is None else min(options["max_distance"], _NO_LIMIT),
        options["mutual"],
    )
