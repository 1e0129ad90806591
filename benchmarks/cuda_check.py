"""Checks the CUDA matcher on a GPU against the oracle, then times it.

Run ``make cuda-check``, or ``python -m benchmarks.cuda_check``; it writes ``results/cuda.json``.
The exit code is 0 if all results are equal, 1 if one is not, and 2 without a usable GPU. A time
spans the call, its work on the GPU and the read of the number of matches.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bindesc import cuda, matching, reference
from bindesc.cuda import DeviceArray

from .common import Contender, measure, write_results

CHECK_SIZES = ((0, 3), (3, 0), (1, 1), (2, 1), (31, 33), (509, 129), (1021, 1031), (5000, 4999))
CHECK_WIDTHS = (2, 4, 8, 10, 16, 30, 32, 34, 64)
CHECK_K = (1, 3, 32)
CHECK_RADII = (0.1, 0.4)  # of the bits
MASKS = {"random": 0xFF, "ties": 0x01, "equal": 0x00}
SIZES = (500, 1000, 2000, 5000, 20_000, 100_000)
TIMED_K = (10, 32)
RADIUS = 90
BATCH = 32
BATCH_SIZE = 2000


def codes(rows: int, width: int, seed: int, mask: int = 0xFF) -> NDArray[np.uint8]:
    """Random codes with only the bits of the mask in each byte."""
    return np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8) & np.uint8(mask)


def is_equal(query: NDArray[np.uint8], train: NDArray[np.uint8]) -> bool:
    """Whether the GPU finds what the processor finds: neighbours, and matches of every filter."""
    want = matching.nearest(query, train)
    d1, d2 = DeviceArray.upload(query), DeviceArray.upload(train)
    if not _same_fields(cuda.nearest(d1, d2).to_host(), want):
        return False
    for k in CHECK_K:
        if not _same_fields(cuda.nearest(d1, d2, k).to_host(), matching.nearest(query, train, k)):
            return False
    for share in CHECK_RADII:
        limit = int(share * 8 * query.shape[1])
        within = matching.radius(query, train, limit)
        if not _same_fields(cuda.radius(d1, d2, limit).to_host(), within):
            return False
    for mutual, ratio, margin in itertools.product((False, True), (None, 0.8), (None, 5)):
        kept = reference.select(want, mutual=mutual, ratio=ratio, margin=margin)
        got = cuda.match(d1, d2, mutual=mutual, ratio=ratio, margin=margin).to_host()
        if not np.array_equal(got.pairs, kept.pairs):
            return False
        if not np.array_equal(got.distance, kept.distance):
            return False
    return True


def _same_fields(found: Any, want: Any) -> bool:
    return all(np.array_equal(getattr(found, name), value) for name, value in vars(want).items())


def check(sizes: tuple[tuple[int, int], ...], widths: tuple[int, ...]) -> list[str]:
    """Compare all sizes, widths and kinds of codes; returns the cases that differ."""
    wrong = []
    for (n, m), width, (kind, mask) in itertools.product(sizes, widths, MASKS.items()):
        query, train = codes(n, width, 1, mask), codes(m, width, 2, mask)
        if n and m:
            query[-1] = ~train[0]
        if not is_equal(query, train):
            wrong.append(f"{n} x {m}, {width} bytes, {kind}")
    return wrong


def time_sizes(sizes: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Time mutual matching of N x N random 256-bit codes and of a batch of pairs, and lists."""
    workspace = cuda.Workspace()
    rows = []
    for n in sizes:
        d1, d2 = DeviceArray.upload(codes(n, 32, 1)), DeviceArray.upload(codes(n, 32, 2))
        rows.append(_row(f"{n} x {n}", 1, n, [(d1, d2)], workspace, repeats))
        rows += _list_rows(n, d1, d2, workspace, repeats)
    n = min(BATCH_SIZE, max(sizes))
    pairs = [
        (DeviceArray.upload(codes(n, 32, i)), DeviceArray.upload(codes(n, 32, i + BATCH)))
        for i in range(BATCH)
    ]
    rows.append(_row(f"{BATCH} pairs of {n} x {n}", BATCH, n, pairs, workspace, repeats))
    return rows


def _row(
    name: str,
    count: int,
    n: int,
    pairs: list[tuple[DeviceArray, DeviceArray]],
    workspace: cuda.Workspace,
    repeats: int,
) -> dict[str, Any]:
    def run() -> list[int]:
        return [len(found) for found in cuda.match_pairs(pairs, workspace=workspace)]

    def verify(counts: list[int]) -> None:
        expected = [len(matching.match(a.numpy(), b.numpy())) for a, b in pairs]
        if counts != expected:
            raise ValueError(f"{name}: the GPU finds {counts} matches, the processor {expected}")

    return _timed(name, count, n, Contender(run, verify), repeats)


def _list_rows(
    n: int, d1: DeviceArray, d2: DeviceArray, workspace: cuda.Workspace, repeats: int
) -> list[dict[str, Any]]:
    """The k nearest, and all within a radius that few random codes are in."""

    def run_nearest(k: int) -> Any:
        found = cuda.nearest(d1, d2, k, workspace=workspace)
        found.index[:0].numpy()  # waits
        return found

    def run_radius() -> Any:
        return cuda.radius(d1, d2, RADIUS)

    def verify_nearest(found: Any) -> None:
        k = found.index.shape[1]
        if not _same_fields(found.to_host(), matching.nearest(d1.numpy(), d2.numpy(), k)):
            raise ValueError(f"{n} x {n}, k = {k}: the GPU finds other neighbours")

    def verify_radius(found: Any) -> None:
        if not _same_fields(found.to_host(), matching.radius(d1.numpy(), d2.numpy(), RADIUS)):
            raise ValueError(f"{n} x {n}, radius {RADIUS}: the GPU finds other neighbours")

    contenders = {
        f"{n} x {n}, {k} nearest": Contender(functools.partial(run_nearest, k), verify_nearest)
        for k in TIMED_K
    }
    contenders[f"{n} x {n}, radius {RADIUS}"] = Contender(run_radius, verify_radius)
    return [_timed(name, 1, n, one, repeats) for name, one in contenders.items()]


def _timed(name: str, count: int, n: int, one: Contender, repeats: int) -> dict[str, Any]:
    timing = measure({name: one}, repeats=repeats)[name]
    rate = count * n * n / timing.median / 1e9
    print(f"{name}: {timing.median * 1e3:.3f} ms, {rate:.1f} G pairs/s")
    return {"name": name, "pairs": count, "n": n, "time": timing, "gpairs_per_second": rate}


def main() -> int:
    """Check, time and save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=30, help="timed calls of each size")
    options = parser.parse_args()
    status = cuda.status()
    print(status)
    if not status.usable:
        return 2
    wrong = check(CHECK_SIZES, CHECK_WIDTHS)
    cases = len(CHECK_SIZES) * len(CHECK_WIDTHS) * len(MASKS)
    print(f"{cases - len(wrong)} of {cases} cases equal the oracle", *wrong, sep="\n  ")
    rows = [] if wrong else time_sizes(SIZES, options.repeats)
    print(write_results("cuda", rows, device=status.text, cases=cases, wrong=wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
