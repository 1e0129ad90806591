"""Checks the CUDA matcher on a GPU against the oracle, then times it.

Run ``make cuda-check``, or ``python -m benchmarks.cuda_check``; it writes ``results/cuda.json``.
The exit code is 0 if all results are equal, 1 if one is not, and 2 without a usable GPU. A time
spans the call, its work on the GPU and the read of the number of matches. Beside it stands what
torch takes for the two nearest and the columns' nearest, by a matrix product in half precision of
codes that were unpacked before.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bindesc import cuda, matching, reference
from bindesc.cuda import DeviceArray
from bindesc.device_results import to_host

from .common import Contender, Timing, measure, write_results

CHECK_SIZES = ((0, 3), (3, 0), (1, 1), (2, 1), (31, 33), (509, 129), (1021, 1031), (5000, 4999))
CHECK_WIDTHS = (2, 4, 8, 10, 16, 30, 32, 34, 64)
CHECK_K = (1, 3, 32)
CHECK_RADII = (0.1, 0.4)  # of the bits
Codes = NDArray[np.uint8]
MASKS = {"random": 0xFF, "ties": 0x01, "equal": 0x00}
SIZES = (500, 1000, 2000, 5000, 20_000, 100_000)
TIMED_K = (10, 32)
RADIUS = 90
BATCH = 32
BATCH_SIZE = 2000
LARGEST_PRODUCT = 20_000
OURS, TORCH = "two nearest, mutual", "torch, two nearest, mutual"
BATCHED = f"{BATCH} image pairs at once, mutual"


def codes(rows: int, width: int, seed: int, mask: int = 0xFF) -> Codes:
    """Random codes with only the bits of the mask in each byte."""
    return np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8) & np.uint8(mask)


def to_gpu(array: Codes) -> Any:
    """A tensor, as a caller has it, whose library keeps memory for the results; or our array."""
    if torch.cuda.is_available():
        return torch.from_numpy(array).cuda()
    return DeviceArray.upload(array)


def is_equal(query: Codes, train: Codes) -> bool:
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
    """Time N x N random 256-bit codes, and a batch of pairs."""
    workspace = cuda.Workspace()
    rows = []
    for n in sizes:
        query, train = codes(n, 32, 1), codes(n, 32, 2)
        contenders = {OURS: _matching([(query, train)], workspace)}
        contenders |= _lists(query, train, workspace)
        if n <= LARGEST_PRODUCT and torch.cuda.is_available():
            contenders[TORCH] = _product(query, train)
        for name, timing in measure(contenders, repeats=repeats).items():
            rows.append(_row(name, 1, n, timing))
    n = min(BATCH_SIZE, max(sizes))
    pairs = [(codes(n, 32, i), codes(n, 32, i + BATCH)) for i in range(BATCH)]
    timing = measure({BATCHED: _matching(pairs, workspace)}, repeats=repeats)[BATCHED]
    return [*rows, _row(BATCHED, BATCH, n, timing)]


def _row(name: str, count: int, n: int, timing: Timing) -> dict[str, Any]:
    rate = count * n * n / timing.median / 1e9
    print(f"{n:7d} {name:30s} {timing.median * 1e3:9.3f} ms {rate:7.1f} G pairs/s")
    return {"name": name, "pairs": count, "n": n, "time": timing, "gpairs_per_second": rate}


def _matching(pairs: list[tuple[Codes, Codes]], workspace: cuda.Workspace) -> Contender:
    """The mutual nearest neighbours of image pairs."""
    on_gpu = [(to_gpu(query), to_gpu(train)) for query, train in pairs]

    def run() -> list[int]:
        return [len(found) for found in cuda.match_pairs(on_gpu, workspace=workspace)]

    def verify(counts: list[int]) -> None:
        expected = [len(matching.match(query, train)) for query, train in pairs]
        if counts != expected:
            raise ValueError(f"the GPU finds {counts} matches, the processor {expected}")

    return Contender(run, verify)


def _lists(query: Codes, train: Codes, workspace: cuda.Workspace) -> dict[str, Contender]:
    """The k nearest, and all within a radius that few random codes are in."""
    d1, d2 = to_gpu(query), to_gpu(train)

    def run_nearest(k: int) -> Any:
        found = cuda.nearest(d1, d2, k, workspace=workspace)
        to_host(found.index[:1], "int32", found.device, found.stream)  # waits
        return found

    def verify_nearest(found: Any) -> None:
        k = found.index.shape[1]
        if not _same_fields(found.to_host(), matching.nearest(query, train, k)):
            raise ValueError(f"k = {k}: the GPU finds other neighbours")

    def verify_radius(found: Any) -> None:
        if not _same_fields(found.to_host(), matching.radius(query, train, RADIUS)):
            raise ValueError(f"radius {RADIUS}: the GPU finds other neighbours")

    contenders = {
        f"{k} nearest": Contender(functools.partial(run_nearest, k), verify_nearest)
        for k in TIMED_K
    }
    within = Contender(lambda: cuda.radius(d1, d2, RADIUS), verify_radius)
    return contenders | {f"radius {RADIUS}": within}


def _product(query: Codes, train: Codes) -> Contender:
    """The same as :func:`_matching` for one pair, but for ties, by a matrix product."""
    first, second = (
        torch.from_numpy(np.unpackbits(array, axis=1)).cuda().half() * 2 - 1
        for array in (query, train)
    )

    def run() -> tuple[int, torch.Tensor]:
        products = first @ second.T  # exact: integers up to 256
        nearest = products.topk(2, dim=1)
        best = products.argmax(0)
        mutual = best[nearest.indices[:, 0]] == torch.arange(len(first), device=best.device)
        return int(mutual.sum()), nearest.values

    def verify(found: tuple[int, torch.Tensor]) -> None:
        distance = (256 - found[1].float().cpu().numpy()) / 2
        if not np.array_equal(distance, matching.nearest(query, train).distance):
            raise ValueError("torch finds other distances")

    return Contender(run, verify)


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds; the sizes as columns."""
    sizes = sorted({row["n"] for row in rows})
    times = {(row["name"], row["n"]): row["time"].median * 1e3 for row in rows}
    names = dict.fromkeys(row["name"] for row in rows)
    return {
        "header": ["milliseconds", *(f"N = {n:,}" for n in sizes)],
        "rows": [
            [name, *(f"{times[name, n]:.3g}" if (name, n) in times else "-" for n in sizes)]
            for name in names
        ],
    }


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
    shown = table(rows) if rows else None
    print(write_results("cuda", rows, device=status.text, cases=cases, wrong=wrong, table=shown))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
