"""Search in a million codes and more: an index file, exact search, and faiss on the same inputs.

Random 64-bit codes; the queries are codes of the index with 6 of their bits changed on average, so
that recall means something for the approximate indices. Exact answers are checked to be equal in
distance, and in index where no tie is cut, before anything is timed.

Run ``python -m benchmarks.index_scale --save``; ``--large`` adds ten million codes, ``--sizes``
chooses others.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from bindesc import matching
from bindesc.code_index import CodeIndex, create_index
from bindesc.database import Database
from bindesc.faiss_index import to_faiss
from bindesc.index_format import IndexHeader

from .common import Contender, Timing, measure, write_results

BITS, TOP = 64, 10
BATCHES = (1, 16, 256)
_BATCH = 100_000  # codes an append
_APPROXIMATE_QUERIES = 200
OURS, UNPACKED, FAISS = "bindesc.Database", "bindesc.matching.nearest", "faiss.IndexBinaryFlat"

Codes = NDArray[np.uint8]


def make_codes(count: int) -> tuple[Codes, Codes]:
    """The codes of the index, and as many queries as the largest batch needs."""
    rng = np.random.default_rng(count)
    codes = rng.integers(0, 256, (count, BITS // 8), np.uint8)
    flips = np.packbits(rng.random((max(BATCHES), BITS)) < 6 / BITS, axis=1)
    return codes, codes[rng.integers(0, count, max(BATCHES))] ^ flips


def time_file(codes: Codes, path: Path) -> dict[str, float]:
    """Seconds to build, open and pack, and bytes a code; names are paths of 18 letters."""
    names = [f"photos/{row:07d}.jpg" for row in range(len(codes))]
    seconds = {}

    def clock(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - start
        return result

    def build() -> None:
        create_index(path, IndexHeader(BITS, "random", ""))
        with CodeIndex(path, write=True) as index:
            for first in range(0, len(codes), _BATCH):
                rows = slice(first, first + _BATCH)
                index.update(names[rows], codes[rows])

    clock("build", build)
    with clock("open", lambda: CodeIndex(path)) as index:
        np.testing.assert_array_equal(index.codes, codes)
        assert index.names == names
        clock("pack", lambda: Database(index.codes))
    return {**seconds, "bytes_a_code": path.stat().st_size / len(codes)}


def contenders(codes: Codes, query: Codes, flat: Any, database: Database) -> dict[str, Contender]:
    """The exact searches with one thread and with two."""
    expected = database.nearest(query, TOP, 1)

    def ours(found: tuple[Any, Any]) -> None:
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])

    def theirs(found: tuple[Any, Any]) -> None:
        distance, index = found
        np.testing.assert_array_equal(distance, expected[1])
        whole = distance < distance[:, -1:]  # not of the tie that the last place cuts
        for row in range(len(query)):
            kept = whole[row]
            assert set(index[row, kept]) == set(expected[0][row, kept])

    def run_faiss(threads: int) -> Any:
        faiss.omp_set_num_threads(threads)
        return flat.search(query, TOP)

    def run_unpacked() -> Any:
        found = matching.nearest(query, codes, TOP, 1)
        return found.index, found.distance

    found = {}
    for threads in (1, 2):
        found[f"{OURS} {threads}"] = Contender(partial(database.nearest, query, TOP, threads), ours)
        found[f"{FAISS} {threads}"] = Contender(partial(run_faiss, threads), theirs)
    found[f"{UNPACKED} 1"] = Contender(run_unpacked, ours)
    return found


def recall(codes: Codes, query: Codes, database: Database) -> list[dict[str, Any]]:
    """Recall of the nearest code, and time of a query, of the approximate indices of faiss.

    An answer counts if it is as near as the nearest.
    """
    faiss.omp_set_num_threads(1)
    query = query[:_APPROXIMATE_QUERIES]
    nearest = database.nearest(query, 1, 1)[1][:, 0]
    rows = []
    for kind in ("ivf", "hnsw"):
        start = time.perf_counter()
        index = to_faiss(codes, kind)
        built = time.perf_counter() - start
        start = time.perf_counter()
        distance, _ = index.search(query, TOP)
        seconds = (time.perf_counter() - start) / len(query)
        found = float((distance[:, 0] == nearest).mean())
        rows.append({"kind": kind, "codes": len(codes), "build": built, "query": seconds})
        rows[-1]["recall"] = found
        print(f"faiss {kind}: build {built:.1f} s, {seconds * 1e3:.3f} ms, recall {found:.3f}")
    return rows


def time_size(count: int, repeats: int, budget: float) -> list[dict[str, Any]]:
    """The exact searches of one size."""
    codes, queries = make_codes(count)
    database, flat = Database(codes), to_faiss(codes)
    rows = []
    for batch in BATCHES:
        timed = measure(
            contenders(codes, queries[:batch], flat, database), repeats=repeats, budget=budget
        )
        for key, timing in timed.items():
            name, threads = key.split()
            rows.append(
                {"codes": count, "queries": batch, "name": name, "threads": int(threads)}
                | {"time": timing}
            )
            each = timing.median / batch * 1e3
            print(f"{count:9,d} {batch:4d} queries, {threads} threads {name:26s} {each:9.4f} ms")
    return rows


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Milliseconds a query."""
    times: dict[tuple[Any, ...], Timing] = {
        (r["codes"], r["name"], r["threads"], r["queries"]): r["time"] for r in rows
    }
    lines = list(dict.fromkeys(key[:3] for key in times))
    return {
        "header": [
            "milliseconds a query, the 10 nearest",
            "codes",
            "threads",
            *(f"{batch} at once" for batch in BATCHES),
        ],
        "rows": [
            [
                name,
                f"{count:,}",
                str(threads),
                *(f"{times[count, name, threads, b].median / b * 1e3:.3g}" for b in BATCHES),
            ]
            for count, name, threads in lines
        ],
    }


def main() -> int:
    """Check, time, print and, if asked, save."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.index_scale", description="Search in millions of codes."
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--large", action="store_true", help="ten million codes too")
    parser.add_argument("--approximate", type=int, default=50_000, help="codes for IVF and HNSW")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=1.5, help="seconds for each contender")
    parser.add_argument("--save", action="store_true", help="write results/index_scale.json")
    arguments = parser.parse_args()

    rows, files = [], []
    for count in arguments.sizes + [10_000_000] * arguments.large:
        with tempfile.TemporaryDirectory() as folder:
            files.append(
                {"codes": count, **time_file(make_codes(count)[0], Path(folder) / "x.idx")}
            )
        print(files[-1])
        rows += time_size(count, arguments.repeats, arguments.budget)
    codes, queries = make_codes(arguments.approximate)
    approximate = recall(codes, queries, Database(codes))
    if arguments.save:
        write_results(
            "index_scale",
            rows,
            libraries=("faiss-cpu",),
            files=files,
            approximate=approximate,
            table=table(rows),
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
