"""Codes to and from the binary indices of faiss."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .matching import check_code

KINDS = ("flat", "ivf", "hnsw")

_LINKS = 32  # of HNSW, a node
_CODES_PER_LIST = 1000  # of IVF, about
_TRAINING = 50_000  # codes that the IVF centres are found on, at most


def to_faiss(codes: Any, kind: str = "flat") -> Any:
    """A faiss index of codes; the number that faiss finds is the position of the code.

    Args:
        codes: ``(N, B)`` uint8.
        kind: ``"flat"``, exact; ``"ivf"``, inverted lists, searched faster with a smaller
            ``nprobe`` (a sixteenth of the lists here); or ``"hnsw"``, a graph, with ``efSearch``.
            The last two are approximate.

    Returns:
        ``IndexBinaryFlat``, ``IndexBinaryIVF`` or ``IndexBinaryHNSW``; save it with
        ``faiss.write_index_binary``.

    Raises:
        ModuleNotFoundError: faiss is missing.
        ValueError: another kind, or ``"ivf"`` without codes.
    """
    faiss = _faiss()
    codes = check_code("codes", codes)
    bits = 8 * codes.shape[1]
    if kind == "flat":
        index = faiss.IndexBinaryFlat(bits)
    elif kind == "hnsw":
        index = faiss.IndexBinaryHNSW(bits, _LINKS)
    elif kind == "ivf":
        if not len(codes):
            raise ValueError("codes: an IVF index needs at least one")
        lists = max(1, len(codes) // _CODES_PER_LIST)
        index = faiss.index_binary_factory(bits, f"BIVF{lists}")
        index.cp.min_points_per_centroid = 1
        index.train(codes[:: max(1, len(codes) // _TRAINING)])
        index.nprobe = max(1, lists // 16)
    else:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    index.add(codes)
    return index


def from_faiss(index: Any) -> NDArray[np.uint8]:
    """The codes of a faiss index, ``(N, B)`` uint8, in the order in which they were added.

    Args:
        index: ``IndexBinaryFlat``, ``IndexBinaryIVF`` or ``IndexBinaryHNSW``.

    Raises:
        ModuleNotFoundError: faiss is missing.
        TypeError: another type.
    """
    faiss = _faiss()
    storage = index  # which an HNSW index owns: it must live as long
    if isinstance(index, faiss.IndexBinaryHNSW):
        storage = faiss.downcast_IndexBinary(index.storage)
    if isinstance(storage, faiss.IndexBinaryIVF):
        storage.make_direct_map()
    elif not isinstance(storage, faiss.IndexBinaryFlat):
        raise TypeError(f"index: expected a binary index of faiss, got {type(index).__name__}")
    if not storage.ntotal:
        return np.zeros((0, storage.code_size), np.uint8)
    return storage.reconstruct_n(0, storage.ntotal)


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError("faiss is missing: pip install bindesc[faiss]") from None
    return faiss
