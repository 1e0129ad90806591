"""bindesc: a learned 256-bit binary local feature descriptor and an exact Hamming matcher."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bfmatcher import BFMatcher
    from .database import Database
    from .extractor import BinDesc, create
    from .matching import match, match_pairs
    from .retrieval import encode_images
    from .types import Features, Matches

__version__ = "0.1.0"

__all__ = [
    "BFMatcher",
    "BinDesc",
    "Database",
    "Features",
    "Matches",
    "create",
    "encode_images",
    "match",
    "match_pairs",
]

_HOME = {
    "BFMatcher": "bfmatcher",
    "BinDesc": "extractor",
    "Database": "database",
    "Features": "types",
    "Matches": "types",
    "create": "extractor",
    "encode_images": "retrieval",
    "match": "matching",
    "match_pairs": "matching",
}


def __getattr__(name: str) -> Any:
    # Each public name loads its module on first use, so that `import bindesc` is instant and
    # matching alone needs no OpenCV.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
