"""The CPU core: exact Hamming neighbours, and networks in integers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Codes = NDArray[np.uint8]
_Indices = NDArray[np.int32]
_Distances = NDArray[np.uint16]
_Layer = tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.float32] | None, int]

class Network:
    """A network of bindesc.models.integer, ready to run."""

    def __init__(self, layers: Sequence[_Layer], input_scale: float, round: bool = False) -> None:
        """Weights (O, H, W, I), bias (O,), multiplier (O,) or None in the last layer, stride."""

    def describe(self, patches: NDArray[np.uint8], threads: int) -> _Codes:
        """(N, S, S) to packed codes, (N, outputs / 8)."""

    def activations(self, patches: NDArray[np.uint8], threads: int) -> _Indices:
        """(N, S, S) to (N, outputs)."""

    def adapt(
        self, patches: NDArray[np.uint8], upright: NDArray[np.bool_], threads: int
    ) -> tuple[NDArray[np.uint8], _Indices]:
        """Of an orientation network: log-polar patches, turned and stretched, and how (N, 3)."""

class Database:
    """Codes packed once, to be searched many times."""

    def __init__(self, codes: _Codes) -> None:
        """codes: (M, B), copied."""

    def nearest(self, query: _Codes, k: int, threads: int) -> tuple[_Indices, _Distances]:
        """(index, distance), (N, k) each, of reference.Nearest."""

def nearest(
    query: _Codes, train: _Codes, k: int, threads: int
) -> tuple[_Indices, _Distances, _Indices, _Distances]:
    """(index, distance, column_index, column_distance) of reference.Nearest."""

def radius(
    query: _Codes, train: _Codes, max_distance: int, threads: int
) -> tuple[NDArray[np.int64], _Indices, _Distances]:
    """(offsets, index, distance) of matching.Neighbours."""

def match(
    query: _Codes,
    train: _Codes,
    mutual: bool,
    ratio: float,
    margin: int,
    max_distance: int,
    threads: int,
) -> tuple[_Indices, _Distances]:
    """(pairs, distance) of types.Matches; a negative value switches a filter off."""

def match_pairs(
    pairs: Sequence[tuple[_Codes, _Codes]],
    mutual: bool,
    ratio: float,
    margin: int,
    max_distance: int,
    threads: int,
) -> list[tuple[_Indices, _Distances]]:
    """match() of each (query, train) pair."""

def isa() -> str:
    """The instruction set that a call made now would use."""

def isas() -> dict[str, bool]:
    """The instruction sets in this build, the fastest first, and whether they run here."""

def disc_moments(image: NDArray[np.uint8], xy: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sums of brightness times x, and times y, over the discs of corners.intensity_centroid."""

def subpixel_offsets(image: NDArray[np.uint8], xy: NDArray[np.int32]) -> NDArray[np.float64]:
    """corners.subpixel_offsets at (N, 2) pixels."""

def suppression_radius(xy: NDArray[np.float32]) -> NDArray[np.float64]:
    """detectors.suppression_radius."""

def sample(
    levels: Sequence[NDArray[np.uint8]],
    affine: NDArray[np.float32],
    level: NDArray[np.int32],
    side: int,
    threads: int,
) -> NDArray[np.uint8]:
    """(N, side, side): patches at affine (N, 2, 3), patch n from levels[level[n]]."""

def sample_log_polar(
    levels: Sequence[NDArray[np.uint8]], affine: NDArray[np.float32], threads: int
) -> NDArray[np.uint8]:
    """(N, RINGS, DIRECTIONS) of log_polar: patches at affine (N, 2, 3), of the unit circle."""

def describe_log_polar(
    network: Network,
    orientation: Network | None,
    levels: Sequence[NDArray[np.uint8]],
    affine: NDArray[np.float32],
    upright: NDArray[np.bool_],
    threads: int,
) -> _Codes:
    """What sample_log_polar, adapt (if there is an orientation network) and describe make."""

def log_polar_levels(affine: NDArray[np.float32]) -> int:
    """How many levels of a pyramid they can make use of."""
