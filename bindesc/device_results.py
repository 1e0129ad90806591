"""What the CUDA matcher finds, on the device until it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import cuda_library, reference, types
from .cuda_job import address


def to_host(array: Any, dtype: str, device: int, stream: int) -> NDArray[Any]:
    """A copy in host memory, once the work on the stream is done."""
    host = np.empty(tuple(array.shape), dtype)
    cuda_library.call("copy", device, host.ctypes.data, address(array), host.nbytes, stream)
    return host


class Counts:
    """The number of matches of each pair of a call, read once, when first asked for."""

    def __init__(self, on_device: Any, device: int, stream: int) -> None:
        self._on_device, self._device, self._stream = on_device, device, stream
        self._host: NDArray[np.int32] | None = None

    def __getitem__(self, pair: int) -> int:
        if self._host is None:
            self._host = to_host(self._on_device, "int32", self._device, self._stream)
        return int(self._host[pair])


class DeviceMatches:
    """The matches of one pair of images, on the device; like :class:`bindesc.types.Matches`.

    The first use of ``len()``, ``pairs`` or ``distance`` waits for the work that makes them.
    """

    def __init__(
        self, pairs: Any, distance: Any, counts: Counts, number: int, device: int, stream: int
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
            to_host(self.pairs, "int32", self._device, self._stream),
            to_host(self.distance, "uint16", self._device, self._stream),
        )


@dataclass(frozen=True, eq=False)
class DeviceNearest:
    """Nearest neighbours on the device; like :class:`bindesc.reference.Nearest`.

    Attributes:
        index: ``(N, k)`` int32, the k nearest train indices of each query, nearest first.
        distance: ``(N, k)`` uint16, their distances in bits.
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
            to_host(self.index, "int32", self.device, self.stream),
            to_host(self.distance, "uint16", self.device, self.stream),
            to_host(self.column_index, "int32", self.device, self.stream),
            to_host(self.column_distance, "uint16", self.device, self.stream),
        )


@dataclass(frozen=True, eq=False)
class DeviceNeighbours:
    """Neighbours within a radius on the device; like :class:`bindesc.types.Neighbours`.

    Attributes:
        offsets: ``(N + 1,)`` int64; the neighbours of query i are at ``offsets[i]:offsets[i + 1]``.
        index: ``(K,)`` int32, train indices, nearest first within a query.
        distance: ``(K,)`` uint16, their distances in bits.
        device: number of the GPU.
        stream: handle of the stream on which the arrays are written.
    """

    offsets: Any
    index: Any
    distance: Any
    device: int
    stream: int

    def to_host(self) -> types.Neighbours:
        """A copy in host memory."""
        return types.Neighbours(
            to_host(self.offsets, "int64", self.device, self.stream),
            to_host(self.index, "int32", self.device, self.stream),
            to_host(self.distance, "uint16", self.device, self.stream),
        )
