"""One call of the CUDA matcher: its inputs checked, its device, stream and memory found."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from . import cuda_library
from .device_array import DeviceArray, allocator, stream_of
from .device_view import View, view

MAX_BYTES = 64
_MAX_ROWS = 2**31 - 1
_DEFAULT_STREAMS = (0, 1)  # two handles of one stream


class Workspace:
    """Scratch memory that calls share, so that a loop over frames allocates once.

    One workspace serves one stream at a time. It grows to what the largest call needs, about
    8 max(k, 2) N + 8 M bytes for N queries, M train descriptors and k neighbours of a query (2 to
    match), and is freed with the object.
    """

    def __init__(self) -> None:
        self._memory: DeviceArray | None = None

    def reserve(self, size: int, device: int) -> DeviceArray:
        """At least ``size`` bytes on a device."""
        memory = self._memory
        if memory is None or len(memory) < size or memory.device != device:
            memory = self._memory = DeviceArray.empty((size,), "uint8", device)
        return memory


class Job:
    """A call of the library.

    Args:
        pairs: the query and train arrays of each pair of images, at least one pair.
        names: what errors call them.
        stream: a stream or its handle; None means the one that the first array's library uses.
        workspace: scratch memory, or None to allocate it.

    Attributes:
        views: the arrays of each pair.
        device: number of the GPU that they are on.
        stream: handle of the stream.
        allocate: makes an array, without a value, of a shape and dtype name.

    Raises:
        TypeError: an array or the stream has the wrong type.
        ValueError: an array has the wrong shape, layout or device.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Any, Any]],
        names: Sequence[tuple[str, str]],
        stream: Any,
        workspace: Workspace | None,
    ) -> None:
        example = pairs[0][0]
        self.stream = stream_of(example) if stream is None else _handle(stream)
        self.views = [
            (view(name1, d1, self.stream), view(name2, d2, self.stream))
            for (d1, d2), (name1, name2) in zip(pairs, names, strict=True)
        ]
        named = [
            entry
            for pair, labels in zip(self.views, names, strict=True)
            for entry in zip(labels, pair, strict=True)
        ]
        self._width = _common_width(named)
        self.device = _common_device(named)
        self.allocate = allocator(example, self.device, self.stream)
        self._workspace = workspace
        self._structs = (cuda_library.Pair * len(pairs))(
            *(
                cuda_library.Pair(query.pointer, train.pointer, query.shape[0], train.shape[0])
                for query, train in self.views
            )
        )
        self._wait_for({found.stream for _, found in named if found.stream is not None})

    def rows(self, side: int) -> list[int]:
        """Descriptors of each pair's queries (side 0) or train array (side 1)."""
        return [pair[side].shape[0] for pair in self.views]

    def match(self, tests: cuda_library.Filter, outputs: Sequence[Any]) -> None:
        """Enqueue the search and the tests; outputs: pairs, distance, count."""
        scratch = self._scratch(2)
        self._run(
            "match",
            ctypes.byref(tests),
            address(scratch),
            ctypes.byref(cuda_library.Matches(*map(address, outputs))),
        )

    def nearest(self, k: int, outputs: Sequence[Any]) -> None:
        """Enqueue the search; outputs: index, distance, column_index, column_distance."""
        scratch = self._scratch(k)
        self._run(
            "nearest",
            k,
            address(scratch),
            ctypes.byref(cuda_library.Nearest(*map(address, outputs))),
        )

    def radius_count(self, max_distance: int, offsets: Any, total: Any) -> None:
        """Enqueue the first pass of a radius search of the one pair."""
        self._radius("radius_count", max_distance, (offsets,), address(total))

    def radius_fill(self, max_distance: int, outputs: Sequence[Any]) -> None:
        """Enqueue the second pass; outputs: offsets as the first left them, index, distance."""
        self._radius("radius_fill", max_distance, outputs)

    def _radius(self, name: str, max_distance: int, outputs: Sequence[Any], *more: int) -> None:
        neighbours = cuda_library.Neighbours(*map(address, outputs))
        cuda_library.call(
            name,
            self.device,
            self._structs,
            self._width,
            max_distance,
            ctypes.byref(neighbours),
            *more,
            self.stream,
        )

    def _scratch(self, k: int) -> Any:
        size = max(1, cuda_library.workspace_bytes(self._structs, k))
        if self._workspace is not None:
            return self._workspace.reserve(size, self.device)
        return self.allocate((size,), "uint8")

    def _run(self, name: str, *arguments: object) -> None:
        cuda_library.call(
            name,
            self.device,
            self._structs,
            len(self._structs),
            self._width,
            *arguments,
            self.stream,
        )

    def _wait_for(self, streams: set[int]) -> None:
        """Let the work begin after the inputs' producers are done."""
        for other in streams:
            same = other == self.stream or {other, self.stream} <= set(_DEFAULT_STREAMS)
            if not same:
                cuda_library.call("wait", self.device, self.stream, other)


def address(array: Any) -> int:
    """Device address of an array that a job allocated."""
    if hasattr(array, "data_ptr"):  # of torch, which did not always export uint16
        return array.data_ptr()
    return array.__cuda_array_interface__["data"][0]


def _handle(stream: Any) -> int:
    """A stream's handle: of torch (``cuda_stream``), of CuPy (``ptr``), or an integer as it is."""
    for attribute in ("cuda_stream", "ptr"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    if isinstance(stream, int):
        return stream
    raise TypeError(
        f"stream: expected a torch or CuPy stream or its handle, got {type(stream).__name__}"
    )


def _common_width(named: Sequence[tuple[str, View]]) -> int:
    """Bytes of a descriptor; every array checked."""
    for name, found in named:
        if found.dtype != "uint8":
            raise TypeError(f"{name}: expected uint8, got {found.dtype}")
        if len(found.shape) != 2:
            raise ValueError(f"{name}: expected 2 axes (N, B), got shape {found.shape}")
        rows, width = found.shape
        if width % 2 or not 2 <= width <= MAX_BYTES:
            raise ValueError(
                f"{name}: expected an even number of bytes a row, 2 to {MAX_BYTES}, got {width}"
            )
        if rows > _MAX_ROWS:
            raise ValueError(f"{name}: at most {_MAX_ROWS} rows, got {rows}")
        if not found.is_contiguous():
            raise ValueError(
                f"{name}: expected C order without gaps, got strides {found.strides}; "
                "copy it (contiguous() in torch, ascontiguousarray in CuPy)"
            )
        if found.pointer % 2:
            raise ValueError(f"{name}: must start at an even address; copy it")
        first_name, first = named[0]
        if width != first.shape[1]:
            raise ValueError(f"{name}: {width} bytes a row, but {first_name} has {first.shape[1]}")
    return named[0][1].shape[1]


def _common_device(named: Sequence[tuple[str, View]]) -> int:
    """The GPU that all arrays are on; 0 if all are empty."""
    known = [(name, found.device) for name, found in named if found.device is not None]
    if not known:
        return 0
    first_name, device = known[0]
    for name, other in known:
        if other != device:
            raise ValueError(f"{name}: on device {other}, but {first_name} is on device {device}")
    return device
