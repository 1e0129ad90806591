"""Arrays in GPU memory that other libraries own, read without a copy."""

from __future__ import annotations

import ctypes
import math
from ctypes import c_int, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import cuda_library

_DEFAULT_STREAM = 1  # as DLPack and __cuda_array_interface__ call it; CUDA takes 0 and 1
_DLPACK_CUDA = (2, 13)  # device memory, managed memory
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f"}


@dataclass(frozen=True)
class View:
    """Another library's array, borrowed.

    Attributes:
        pointer: device address; 0 if the array is empty.
        shape: its axes.
        strides: bytes from one entry to the next along each axis; None means C order, no gaps.
        dtype: NumPy type.
        device: number of the GPU, or None if nothing tells (an empty array).
        stream: handle of the stream on which its contents are ready, or None.
        keep: object that must live as long as the view.
    """

    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    dtype: np.dtype[Any]
    device: int | None
    stream: int | None
    keep: object

    def is_contiguous(self) -> bool:
        """Whether the array is in C order without gaps."""
        if self.strides is None or math.prod(self.shape) == 0:
            return True
        step = self.dtype.itemsize
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length != 1 and stride != step:
                return False
            step *= length
        return True


def view(name: str, array: Any, stream: int | None = None) -> View:
    """Borrow a device array, without a copy.

    Args:
        name: what errors call it.
        array: anything with ``__cuda_array_interface__`` or DLPack, in GPU memory.
        stream: handle of the stream that will read it; DLPack producers make it wait.

    Raises:
        TypeError: not an array in GPU memory.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        return _from_interface(name, array, interface)
    if hasattr(array, "__dlpack_device__"):
        kind, device = array.__dlpack_device__()
        if kind in _DLPACK_CUDA:
            return _from_dlpack(array.__dlpack__(stream=stream or _DEFAULT_STREAM), int(device))
    raise TypeError(
        f"{name}: expected an array in GPU memory (torch, CuPy, or anything with DLPack or "
        f"__cuda_array_interface__), got {type(array).__module__}.{type(array).__name__}"
    )


def _from_interface(name: str, array: Any, interface: dict[str, Any]) -> View:
    if interface.get("mask") is not None:
        raise TypeError(f"{name}: masked arrays are not supported")
    pointer = interface["data"][0] or 0
    device = None
    if pointer:
        found = c_int()
        cuda_library.call("device_of", pointer, ctypes.byref(found))
        if found.value < 0:
            raise TypeError(f"{name}: its address is not in GPU memory")
        device = found.value
    return View(
        pointer,
        tuple(interface["shape"]),
        interface.get("strides"),
        np.dtype(interface["typestr"]),
        device,
        interface.get("stream"),
        array,
    )


class _DLTensor(ctypes.Structure):
    """``DLTensor`` of the DLPack ABI; the first member of the struct that a capsule holds."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", ctypes.POINTER(c_int64)),
        ("strides", ctypes.POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_capsule_pointer.restype = c_void_p


def _from_dlpack(capsule: object, device: int) -> View:
    address = _capsule_pointer(capsule, b"dltensor")
    tensor = ctypes.cast(address, ctypes.POINTER(_DLTensor)).contents
    kind = _DLPACK_KINDS.get(tensor.code, "V")
    dtype = np.dtype(f"{kind}{max(1, tensor.bits * tensor.lanes // 8)}")
    axes = range(tensor.ndim)
    strides = None
    if tensor.strides:
        strides = tuple(tensor.strides[axis] * dtype.itemsize for axis in axes)
    return View(
        (tensor.data or 0) + tensor.byte_offset,
        tuple(tensor.shape[axis] for axis in axes),
        strides,
        dtype,
        device,
        None,
        capsule,
    )
