"""Exact Hamming matching on NVIDIA GPUs, for arrays that are already there.

Takes torch (2.3 or later) CUDA tensors, CuPy arrays and anything with DLPack or
``__cuda_array_interface__``, without a copy. Work is enqueued on the caller's stream and results
stay on the device, as arrays of the library that the queries come from; nothing waits until the
number of matches is asked for. The results equal :mod:`bindesc.reference` bit for bit: ties go to
the lowest index, a missing neighbour has index -1 and distance 65535.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import cuda_library, reference, types
from .cuda_job import Job, Workspace, address
from .device_array import DeviceArray
from .match_options import check_filters

__all__ = [
    "DeviceArray",
    "DeviceMatches",
    "DeviceNearest",
    "Status",
    "Workspace",
    "match",
    "match_pairs",
    "nearest",
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


class _Counts:
    """The number of matches of each pair of a call, read once, when first asked for."""

    def __init__(self, on_device: Any, device: int, stream: int) -> None:
        self._on_device, self._device, self._stream = on_device, device, stream
        self._host: NDArray[np.int32] | None = None

    def __getitem__(self, pair: int) -> int:
        if self._host is None:
            self._host = _to_host(self._on_device, "int32", self._device, self._stream)
        return int(self._host[pair])


class DeviceMatches:
    """The matches of one pair of images, on the device; like :class:`bindesc.types.Matches`.

    The first use of ``len()``, ``pairs`` or ``distance`` waits for the work that makes them.
    """

    def __init__(
        self, pairs: Any, distance: Any, counts: _Counts, number: int, device: int, stream: int
    ) -> None:
        self._pairs, self._distance = pairs, distance
        self._counts, self._number = counts, number
        self._device, self._stream = device, stream

    def __len__(self) -> int:
        return self._counts[self._number]

    @property
    def pairs(self) -> Any:
        """``(K, 2)`` int32, the query and the train index, in ascending query order."""
        return self._pairs[: len(self)]

    @property
    def distance(self) -> Any:
        """``(K,)`` uint16, the Hamming distance in bits."""
        return self._distance[: len(self)]

    def to_host(self) -> types.Matches:
        """A copy in host memory."""
        return types.Matches(
            _to_host(self.pairs, "int32", self._device, self._stream),
            _to_host(self.distance, "uint16", self._device, self._stream),
        )


@dataclass(frozen=True, eq=False)
class DeviceNearest:
    """Nearest neighbours on the device; like :class:`bindesc.reference.Nearest` for k = 2.

    Attributes:
        index: ``(N, 2)`` int32, the two nearest train indices of each query, nearest first.
        distance: ``(N, 2)`` uint16, their distances in bits.
        column_index: ``(M,)`` int32, the nearest query of each train descriptor.
        column_distance: ``(M,)`` uint16, its distance in bits.
        device: number of the GPU.
        stream: handle of the stream on which the arrays are written.
    """

    index: Any
    distance: Any
    column_index: Any
    column_distance: Any
    device: int
    stream: int

    def to_host(self) -> reference.Nearest:
        """A copy in host memory."""
        return reference.Nearest(
            _to_host(self.index, "int32", self.device, self.stream),
            _to_host(self.distance, "uint16", self.device, self.stream),
            _to_host(self.column_index, "int32", self.device, self.stream),
            _to_host(self.column_distance, "uint16", self.device, self.stream),
        )


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
    """The two nearest train descriptors of each query, and the nearest query of each of them.

    Args:
        query: see ``d1`` of :func:`match`.
        train: see ``d2`` of :func:`match`.
        k: neighbours a query; the GPU finds 2, no other number.
        stream: see :func:`match`.
        workspace: see :func:`match`.

    Returns:
        Indices and distances, nearest first, on the device.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: as for :func:`match`, or k is not 2.
        RuntimeError: CUDA is not compiled or a CUDA call failed.
    """
    if k != 2:
        raise ValueError(f"k: the GPU finds 2 neighbours, got {k}; copy the arrays to host memory")
    job = Job([(query, train)], [("query", "train")], stream, workspace)
    n, m = job.rows(0)[0], job.rows(1)[0]
    outputs = (
        job.allocate((n, 2), "int32"),
        job.allocate((n, 2), "uint16"),
        job.allocate((m,), "int32"),
        job.allocate((m,), "uint16"),
    )
    job.nearest(outputs)
    return DeviceNearest(*outputs, job.device, job.stream)


def _match(job: Job, tests: cuda_library.Filter) -> list[DeviceMatches]:
    rows = job.rows(0)
    pairs, distance = job.allocate((sum(rows), 2), "int32"), job.allocate((sum(rows),), "uint16")
    count = job.allocate((len(rows),), "int32")
    job.match(tests, (pairs, distance, count))
    counts = _Counts(count, job.device, job.stream)
    ends = list(itertools.accumulate(rows))
    return [
        DeviceMatches(
            pairs[end - n : end], distance[end - n : end], counts, number, job.device, job.stream
        )
        for number, (n, end) in enumerate(zip(rows, ends, strict=True))
    ]


def _to_host(array: Any, dtype: str, device: int, stream: int) -> NDArray[Any]:
    """A copy in host memory, once the work on the stream is done."""
    host = np.empty(tuple(array.shape), dtype)
    cuda_library.call("copy", device, host.ctypes.data, address(array), host.nbytes, stream)
    return host


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
