"""Arrays that bindesc makes in GPU memory."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from ctypes import c_void_p
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import cuda_library

_DEFAULT_STREAM = 1  # as __cuda_array_interface__ calls it; CUDA takes 0 and 1


class DeviceArray:
    """An array in GPU memory; any library that reads ``__cuda_array_interface__`` takes it as is.

    Attributes:
        pointer: device address.
        shape: its axes; C order, no gaps.
        dtype: NumPy type.
        device: number of the GPU.
        stream: handle of the stream on which it is written.

    Example:
        ``torch.as_tensor(array, device="cuda")`` and ``cupy.asarray(array)`` share its memory.
    """

    def __init__(
        self,
        pointer: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        device: int,
        stream: int = 0,
        owner: object = None,
    ) -> None:
        self.pointer, self.shape, self.dtype = pointer, shape, dtype
        self.device, self.stream = device, stream
        self._owner = owner

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: str, device: int = 0, stream: int = 0) -> DeviceArray:
        """Allocate, without a value; freed with the last view of it."""
        kind = np.dtype(dtype)
        address = c_void_p()
        bytes_needed = max(1, math.prod(shape) * kind.itemsize)
        cuda_library.call("allocate", device, bytes_needed, ctypes.byref(address))
        array = DeviceArray(address.value or 0, shape, kind, device, stream)
        cuda_library.free_with(array, device, array.pointer)
        return array

    @staticmethod
    def upload(values: ArrayLike, device: int = 0) -> DeviceArray:
        """Copy an array from host memory."""
        host = np.ascontiguousarray(values)
        array = DeviceArray.empty(host.shape, host.dtype.name, device)
        cuda_library.call("copy", device, array.pointer, host.ctypes.data, host.nbytes, None)
        return array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer if math.prod(self.shape) else 0, False),
            "strides": None,
            "stream": self.stream or _DEFAULT_STREAM,
            "version": 3,
        }

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Consecutive rows, sharing memory."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError(f"rows: only consecutive rows can be taken, got step {step}")
        pointer = self.pointer + start * math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (max(0, stop - start), *self.shape[1:])
        return DeviceArray(pointer, shape, self.dtype, self.device, self.stream, owner=self)

    def numpy(self) -> NDArray[Any]:
        """Wait for its stream and copy it to host memory."""
        host = np.empty(self.shape, self.dtype)
        cuda_library.call(
            "copy", self.device, host.ctypes.data, self.pointer, host.nbytes, self.stream
        )
        return host


def stream_of(array: Any) -> int:
    """Handle of the stream on which an array's library works now; 0 is the default stream."""
    if type(array).__module__.partition(".")[0] == "torch":
        return sys.modules["torch"].cuda.current_stream(array.device).cuda_stream
    return int(getattr(array, "__cuda_array_interface__", {}).get("stream") or 0)


def allocator(array: Any, device: int, stream: int) -> Callable[[tuple[int, ...], str], Any]:
    """What makes arrays of the same library as ``array``: torch, CuPy, or else DeviceArray.

    Args:
        array: the example.
        device: number of the GPU.
        stream: handle of the stream on which the new arrays are written; torch and CuPy give
            their memory to other work only after it.

    Returns:
        A function of shape and dtype name that returns an array without a value.
    """
    library = type(array).__module__.partition(".")[0]
    if library == "torch":
        torch = sys.modules["torch"]

        def allocate(shape: tuple[int, ...], dtype: str) -> Any:
            with torch.cuda.stream(torch.cuda.ExternalStream(stream, device)):
                return torch.empty(shape, dtype=getattr(torch, dtype), device=f"cuda:{device}")

    elif library == "cupy":
        cupy = sys.modules["cupy"]

        def allocate(shape: tuple[int, ...], dtype: str) -> Any:
            with cupy.cuda.Device(device), cupy.cuda.ExternalStream(stream, device):
                return cupy.empty(shape, dtype)

    else:

        def allocate(shape: tuple[int, ...], dtype: str) -> Any:
            return DeviceArray.empty(shape, dtype, device, stream)

    return allocate
