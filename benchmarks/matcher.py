"""Time of exact matching against OpenCV, faiss, a matrix product and NumPy.

Random 256-bit codes, as many queries as train codes. Every contender is checked against the NumPy
oracle first: completely up to 1,000 codes, above that on 64 queries and 64 train codes.

Run ``python -m benchmarks.matcher --save``; ``--sizes`` chooses the numbers of codes and keeps the
other sizes that the file already has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from bindesc import BFMatcher, _cpu, matching, reference

from .common import RESULTS, Contender, Timing, measure, write_results

SIZES = (500, 1000, 2000, 5000, 20_000, 100_000)
LIBRARIES = ("faiss-cpu", "torch")
OURS = "bindesc.match"
# The most codes a contender is timed on, and what it computes.
LARGEST = {
    OURS: (100_000, "top-2, mutual"),
    f"{OURS} avx2": (20_000, "top-2, mutual"),
    f"{OURS} scalar": (5000, "top-2, mutual"),
    "bindesc.BFMatcher.knnMatch": (20_000, "top-2 as DMatch"),
    "cv2.BFMatcher.match": (20_000, "top-1"),
    "cv2.BFMatcher.knnMatch": (20_000, "top-2"),
    "cv2.BFMatcher crossCheck": (20_000, "top-1, mutual"),
    "faiss.IndexBinaryFlat": (20_000, "top-2"),
    "torch matrix product": (5000, "top-2"),
    "NumPy": (1000, "top-2, mutual"),
}
_SAMPLE = 64
_MEMORY = """
import re, sys, numpy as np
from bindesc import matching
n = int(sys.argv[1])
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 1024
a, b = np.random.default_rng(0).integers(0, 256, (2, n, 32), np.uint8)
matching.match(a[:100], b[:100])
before = peak()
matching.match(a, b)
print(peak() - before)
"""

Codes = NDArray[np.uint8]


def contenders(query: Codes, train: Codes, threads: int) -> dict[str, Contender]:
    """Every way to match, for one size and number of threads."""
    n = len(query)
    rows = np.arange(n) if n <= 1000 else np.linspace(0, n - 1, _SAMPLE).astype(int)
    oracle = reference.nearest(query[rows], train)
    columns = reference.nearest(query, train[rows])  # the columns of these train codes
    cv2.setNumThreads(threads)
    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(threads)

    def expect(index: Any, distance: Any) -> None:
        """Rows' neighbours, given for all queries; an index may be None where ties are open."""
        width = np.shape(distance)[1]
        np.testing.assert_array_equal(np.asarray(distance)[rows], oracle.distance[:, :width])
        if index is not None:
            np.testing.assert_array_equal(np.asarray(index)[rows], oracle.index[:, :width])

    def mutual(pairs: set[tuple[int, int]]) -> None:
        mates = {int(q): int(t) for q, t in zip(columns.column_index, rows, strict=True)}
        nearest = {int(q): int(t) for q, t in zip(rows, oracle.index[:, 0], strict=True)}
        for q, t in pairs:
            assert nearest.get(q, t) == t
        for q, t in mates.items():
            if q in nearest:
                assert ((q, t) in pairs) == (nearest[q] == t)

    def knn(found: Any) -> None:
        expect([[m.trainIdx for m in r] for r in found], [[m.distance for m in r] for r in found])

    def product() -> tuple[torch.Tensor, torch.Tensor]:
        dots = signs_q @ signs_t.T
        return torch.topk(dots, 2)

    def isa(name: str) -> Callable[[], Any]:
        def run() -> Any:
            os.environ["BINDESC_ISA"] = name
            try:
                return matching.match(query, train, num_threads=threads)
            finally:
                del os.environ["BINDESC_ISA"]

        return run

    def ours(found: Any) -> None:
        mutual(set(map(tuple, found.pairs.tolist())))

    brute, crossed = cv2.BFMatcher(cv2.NORM_HAMMING), cv2.BFMatcher(cv2.NORM_HAMMING, True)
    index = faiss.IndexBinaryFlat(256)
    index.add(train)
    usable = _cpu.isas()
    found = {
        OURS: Contender(lambda: matching.match(query, train, num_threads=threads), ours),
        "bindesc.BFMatcher.knnMatch": Contender(lambda: BFMatcher().knnMatch(query, train, 2), knn),
        "cv2.BFMatcher.match": Contender(
            lambda: brute.match(query, train),
            lambda r: expect([[m.trainIdx] for m in r], [[m.distance] for m in r]),
        ),
        "cv2.BFMatcher.knnMatch": Contender(lambda: brute.knnMatch(query, train, 2), knn),
        "cv2.BFMatcher crossCheck": Contender(
            lambda: crossed.match(query, train),
            lambda r: mutual({(m.queryIdx, m.trainIdx) for m in r}),
        ),
        "faiss.IndexBinaryFlat": Contender(
            lambda: index.search(query, 2), lambda r: expect(None, r[0])
        ),
        "NumPy": Contender(
            lambda: reference.nearest(query, train), lambda r: expect(r.index, r.distance)
        ),
    }
    for name in ("avx2", "scalar"):
        if usable.get(name):
            found[f"{OURS} {name}"] = Contender(isa(name), ours)
    if n <= LARGEST["torch matrix product"][0]:
        signs_q, signs_t = (
            torch.from_numpy(np.unpackbits(c, axis=1).astype(np.float32) * 2 - 1)
            for c in (query, train)
        )
        found["torch matrix product"] = Contender(
            product, lambda r: expect(None, (256 - r[0].numpy()) / 2)
        )
    return {name: found[name] for name, (most, _) in LARGEST.items() if name in found and n <= most}


def time_size(n: int, repeats: int, budget: float) -> list[dict[str, Any]]:
    """The rows of one size."""
    rng = np.random.default_rng(n)
    query, train = rng.integers(0, 256, (2, n, 32), np.uint8)
    rows = []
    for threads in (1, 2):
        timed = measure(contenders(query, train, threads), repeats=repeats, budget=budget)
        for name, timing in timed.items():
            rate = n * n / timing.median / 1e9
            print(f"{n:7d} {threads} {name:28s} {timing.median * 1e3:10.3f} ms {rate:7.3f} G/s")
            rows.append({"size": n, "threads": threads, "name": name, "time": timing})
    return rows


def ceilings(n: int) -> dict[str, float] | None:
    """Pairs a second of the AVX-512 distances alone and of the whole matcher, one thread.

    Both at the multiple of 512 codes next above n.
    """
    compiler = shutil.which("g++")
    if compiler is None or not _cpu.isas().get("avx512"):
        return None
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "ceiling")
        kernels = sorted((here.parent / "cuda_ext").glob("cpu_*.cpp"))
        sources = [s for s in kernels if s.name != "cpu_table_avx512.cpp"]  # ceiling.cpp has it
        command = [compiler, "-std=c++17", "-O3", "-pthread", str(here / "ceiling.cpp")]
        subprocess.run([*command, *map(str, sources), "-o", program], check=True)
        size = str(-(-n // 512) * 512)
        out = subprocess.run([program, size], check=True, capture_output=True, text=True).stdout
    distances, matcher = map(float, out.split())
    return {"distances_only": distances, "top2_and_columns": matcher}


def peak_memory(n: int) -> float | None:
    """MiB that one match of n x n needs beyond its inputs, where the system tells."""
    if not Path("/proc/self/status").exists():
        return None
    command = [sys.executable, "-c", _MEMORY, str(n)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Billion pairs a second, one thread; the sizes as columns."""
    sizes = sorted({row["size"] for row in rows})
    rates = {
        (row["name"], row["size"]): row["size"] ** 2 / row["time"]["median"] / 1e9
        for row in rows
        if row["threads"] == 1
    }
    return {
        "header": [
            "10^9 pairs a second, one thread",
            "finds",
            *(f"N = {size:,}" for size in sizes),
        ],
        "rows": [
            [name, what, *(f"{rates[name, s]:.3g}" if (name, s) in rates else "-" for s in sizes)]
            for name, (_, what) in LARGEST.items()
            if any((name, size) in rates for size in sizes)
        ],
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Time over the number of codes, one thread, log-log."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5), layout="constrained")
    for name in LARGEST:
        line = sorted(
            (row["size"], row["time"]["median"])
            for row in rows
            if row["name"] == name and row["threads"] == 1
        )
        style = "o-" if name.startswith("bindesc") else "s--"
        axes.loglog(*zip(*line, strict=True), style, label=name, markersize=4)
    axes.set(xlabel="codes in each of the two images", ylabel="seconds, one thread")
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    """Time, print and, if asked, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.matcher", description="Time of exact 256-bit matching."
    )
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=SIZES)
    parser.add_argument("--repeats", type=int, default=15, help="calls of each contender at most")
    parser.add_argument("--budget", type=float, default=3.0, help="seconds for each contender")
    parser.add_argument("--save", action="store_true", help="write results/matcher.json and .svg")
    arguments = parser.parse_args()

    rows: list[dict[str, Any]] = []
    notes: dict[str, dict[str, Any]] = {}
    for size in arguments.sizes:
        rows += time_size(size, arguments.repeats, arguments.budget)
        notes[str(size)] = {
            "peak_memory_mib": peak_memory(size),
            "avx512_rates": ceilings(size) if size <= 20_000 else None,
        }
        print(f"{size:7d} {notes[str(size)]}")
    if not arguments.save:
        return 0
    saved = RESULTS / "matcher.json"
    if saved.exists():
        old = json.loads(saved.read_text())
        rows += [row for row in old["rows"] if row["size"] not in arguments.sizes]
        notes = {**old["sizes"], **notes}
    for row in rows:
        if isinstance(row["time"], Timing):
            row["time"] = vars(row["time"])
    rows.sort(key=lambda row: (row["size"], row["threads"]))
    path = write_results("matcher", rows, libraries=LIBRARIES, sizes=notes, table=table(rows))
    plot(rows, path.with_suffix(".svg"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
