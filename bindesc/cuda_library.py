"""The CUDA part as a C library (``cuda_ext/hamming_cuda.h``), opened with ctypes."""

from __future__ import annotations

import ctypes
import functools
import weakref
from ctypes import POINTER, c_char_p, c_double, c_int, c_int32, c_int64, c_void_p
from pathlib import Path

_FOLDER = Path(__file__).parent


class Pair(ctypes.Structure):
    """``bindesc_pair``: the addresses and sizes of one pair of images."""

    _fields_ = [("query", c_void_p), ("train", c_void_p), ("n", c_int64), ("m", c_int64)]


class Filter(ctypes.Structure):
    """``bindesc_filter``: a negative ratio means no ratio test."""

    _fields_ = [
        ("ratio", c_double),
        ("margin", c_int32),
        ("max_distance", c_int32),
        ("mutual", c_int32),
    ]


class Matches(ctypes.Structure):
    """``bindesc_matches``: the addresses of the outputs."""

    _fields_ = [("pairs", c_void_p), ("distance", c_void_p), ("count", c_void_p)]


class Nearest(ctypes.Structure):
    """``bindesc_nearest``: the addresses of the outputs."""

    _fields_ = [
        ("index", c_void_p),
        ("distance", c_void_p),
        ("column_index", c_void_p),
        ("column_distance", c_void_p),
    ]


class Neighbours(ctypes.Structure):
    """``bindesc_neighbours``: the addresses of the outputs."""

    _fields_ = [("offsets", c_void_p), ("index", c_void_p), ("distance", c_void_p)]


_SEARCH = [c_int, POINTER(Pair), c_int, c_int]
_RADIUS = [c_int, POINTER(Pair), c_int, c_int, POINTER(Neighbours)]
_FALLIBLE = {
    "match": [*_SEARCH, POINTER(Filter), c_void_p, POINTER(Matches), c_void_p],
    "nearest": [*_SEARCH, c_int, c_void_p, POINTER(Nearest), c_void_p],
    "radius_count": [*_RADIUS, c_void_p, c_void_p],
    "radius_fill": [*_RADIUS, c_void_p],
    "devices": [POINTER(c_int)],
    "describe": [c_int, c_char_p, c_int],
    "device_of": [c_void_p, POINTER(c_int)],
    "allocate": [c_int, c_int64, POINTER(c_void_p)],
    "free": [c_int, c_void_p],
    "copy": [c_int, c_void_p, c_void_p, c_int64, c_void_p],
    "wait": [c_int, c_void_p, c_void_p],
}


@functools.cache  # a search of the folder takes longer than a small match
def path() -> Path | None:
    """The compiled library, or None if the package was built without CUDA."""
    return next(iter(sorted(_FOLDER.glob("_cuda*.so"))), None)


@functools.cache
def _open(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    for name, arguments in _FALLIBLE.items():
        function = getattr(opened, f"bindesc_cuda_{name}")
        function.argtypes = arguments
        function.restype = c_int
    opened.bindesc_cuda_workspace.argtypes = [POINTER(Pair), c_int, c_int]
    opened.bindesc_cuda_workspace.restype = c_int64
    opened.bindesc_cuda_error.argtypes = []
    opened.bindesc_cuda_error.restype = c_char_p
    return opened


def _library() -> ctypes.CDLL:
    library = path()
    if library is None:
        raise RuntimeError(
            "CUDA: not compiled; reinstall bindesc with nvcc on the path and BINDESC_CUDA=1"
        )
    try:
        return _open(library)
    except OSError as error:
        raise RuntimeError(f"CUDA: {library.name} does not load: {error}") from error


def call(name: str, *arguments: object) -> None:
    """Call one of the library's functions.

    Args:
        name: the function, without ``bindesc_cuda_``.
        arguments: what it takes.

    Raises:
        RuntimeError: the library is missing, or a CUDA call failed; the text names the call and
            the cause.
    """
    _call(_library(), name, *arguments)


def _call(library: ctypes.CDLL, name: str, *arguments: object) -> None:
    if getattr(library, f"bindesc_cuda_{name}")(*arguments):
        raise RuntimeError(f"CUDA: {library.bindesc_cuda_error().decode()}")


def free_with(holder: object, device: int, pointer: int) -> None:
    """Free device memory when ``holder`` goes; at the end of the process CUDA does it."""
    weakref.finalize(holder, _call, _library(), "free", device, pointer).atexit = False


def workspace_bytes(pairs: ctypes.Array[Pair], k: int) -> int:
    """Bytes of device memory that a search for k neighbours of these pairs needs."""
    return _library().bindesc_cuda_workspace(pairs, len(pairs), k)
