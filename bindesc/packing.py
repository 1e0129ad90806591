"""Bits to bytes and back: the one place that knows the bit order (most significant bit first)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


def pack_bits(bits: ArrayLike) -> NDArray[np.uint8]:
    """Pack bits into bytes; bit 0 of a code is the most significant bit of its first byte.

    Args:
        bits: ``(..., K)`` bool or 0/1 integers, K a multiple of 8.

    Returns:
        ``(..., K // 8)`` uint8.

    Raises:
        ValueError: K is not a multiple of 8, or a value is neither 0 nor 1.

    Example:
        >>> pack_bits([[1, 0, 0, 0, 0, 0, 1, 1]])
        array([[131]], dtype=uint8)
    """
    array = np.asarray(bits)
    if array.ndim == 0 or array.shape[-1] % 8:
        raise ValueError(f"bits: the last axis must be a multiple of 8, got shape {array.shape}")
    if array.dtype != np.bool_:
        if not np.issubdtype(array.dtype, np.integer) or ((array != 0) & (array != 1)).any():
            raise ValueError("bits: only bool, or integers 0 and 1, can be packed")
        array = array.astype(np.bool_)
    return np.packbits(array, axis=-1)


def unpack_bits(codes: ArrayLike) -> NDArray[np.uint8]:
    """Unpack bytes into bits, the inverse of :func:`pack_bits`.

    Args:
        codes: ``(..., B)`` uint8.

    Returns:
        ``(..., 8 * B)`` uint8 of 0 and 1.

    Raises:
        ValueError: ``codes`` is not uint8 or has no axis.

    Example:
        >>> unpack_bits(np.array([[131]], np.uint8))
        array([[1, 0, 0, 0, 0, 0, 1, 1]], dtype=uint8)
    """
    array = np.asarray(codes)
    if array.ndim == 0 or array.dtype != np.uint8:
        raise ValueError(f"codes: expected (..., B) uint8, got {array.dtype} {array.shape}")
    return np.unpackbits(array, axis=-1)


def majority_codes(
    codes: NDArray[np.uint8], label: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.uint8]]:
    """The median of each cluster of codes in Hamming space: each bit by majority, a tie gives 1.

    Args:
        codes: ``(N, B)`` uint8, N at least 1.
        label: ``(N,)`` integers, the cluster of each code.

    Returns:
        ``(K,)`` the labels that occur, ascending, and ``(K, B)`` uint8, their medians.
    """
    order = np.argsort(label, kind="stable")
    used, start = np.unique(label[order], return_index=True)
    clusters = np.split(codes[order], start[1:])  # unpacked one by one, to bound the memory
    return used, pack_bits(np.stack([2 * unpack_bits(c).sum(0) >= len(c) for c in clusters]))


def unit_vectors(codes: NDArray[np.uint8], dtype: DTypeLike = np.float32) -> NDArray[np.floating]:
    """Codes for software that knows floats only: bit 1 becomes ``1 / sqrt(K)``, bit 0 minus that.

    The vectors have length 1, and their squared distance is ``4 / K`` times the Hamming distance,
    so that the nearest neighbours are the same.

    Args:
        codes: ``(N, B)`` uint8, of ``K = 8 * B`` bits.
        dtype: a floating dtype.

    Returns:
        ``(N, K)`` of ``dtype``.
    """
    bits = unpack_bits(codes)
    sign = np.array([-1, 1], dtype) / np.array(bits.shape[-1] ** 0.5, dtype)
    vectors: NDArray[np.floating] = sign[bits]
    return vectors
