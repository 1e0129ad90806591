from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bindesc import reference
from bindesc.code_index import CodeIndex, create_index
from bindesc.database import Database
from bindesc.index_format import IndexFileError, IndexHeader, pack_header

HEADER = IndexHeader(bits=64, model="small", sha256="ab" * 32)


def codes(count: int, seed: int = 0, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


def content(path: Path) -> dict[str, tuple[bytes, list[int]]]:
    with CodeIndex(path) as index:
        assert len(index) == len(index.names) == len(index.codes) == len(index.stamps)
        rows = zip(index.names, index.codes, index.stamps, strict=True)
        return {name: (code.tobytes(), stamp.tolist()) for name, code, stamp in rows}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An index of two records: a, b, ü; then b replaced, a deleted, c added."""
    path = tmp_path / "x.idx"
    create_index(path, HEADER)
    with CodeIndex(path, write=True) as index:
        index.update(["a", "b", "sub/ü 1"], codes(3), np.arange(6).reshape(3, 2))
        index.update(["b", "c"], codes(2, 1), delete=["a"])
    return path


def test_round_trip(path: Path) -> None:
    old, new = codes(3), codes(2, 1)
    expected = {
        "sub/ü 1": (old[2].tobytes(), [4, 5]),
        "b": (new[0].tobytes(), [0, 0]),
        "c": (new[1].tobytes(), [0, 0]),
    }
    assert content(path) == expected
    with CodeIndex(path, HEADER, write=True) as index:
        assert index.names == ["sub/ü 1", "b", "c"] and index.header == HEADER
        assert not index.recovered and index.wasted == pytest.approx(2 / 5)
        assert not index.codes.flags.writeable
        size = path.stat().st_size
        index.compact()
        assert index.wasted == 0 and path.stat().st_size < size
        index.update(["d"], codes(1, 5))
        assert index.names == ["sub/ü 1", "b", "c", "d"]
    assert content(path) == {**expected, "d": (codes(1, 5).tobytes(), [0, 0])}
    assert [file.name for file in path.parent.iterdir()] == ["x.idx"]


def test_empty_index(tmp_path: Path) -> None:
    path = tmp_path / "x.idx"
    create_index(path, HEADER)
    with pytest.raises(FileExistsError):
        create_index(path, HEADER)
    with CodeIndex(path, write=True) as index:
        index.update()
        index.compact()
        assert len(index) == 0 and index.codes.shape == (0, 8) and index.names == []
        found, distance = index.database.nearest(codes(2), k=3)
        assert (found == -1).all() and (distance == 65535).all()


def test_arrays_outlive_the_index(path: Path) -> None:
    with CodeIndex(path, write=True) as index:
        index.compact()
        mapped = index.codes
        before = mapped.copy()
        index.update(["e"], codes(1))
        index.compact()
    path.unlink()
    np.testing.assert_array_equal(mapped, before)


def test_truncated_anywhere_it_opens_with_what_was_committed(path: Path) -> None:
    data = path.read_bytes()
    start = len(pack_header(HEADER))
    everything = content(path)
    first_end = data.index(b"BDRC", start + 1)
    states = set()
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        if size < start:
            with pytest.raises(IndexFileError, match=r"x\.idx: "):
                CodeIndex(path)
            continue
        expected = 0 if size < first_end else 3
        with CodeIndex(path, write=True) as index:
            states.add((len(index), index.names[:1] == ["a"]))
            assert len(index) == expected
            assert bool(index.recovered) == (size not in (start, first_end, len(data)))
            if size % 7:
                continue
            index.update(["new"], codes(1, 9))  # over the remains
            assert len(index) == expected + 1
        with CodeIndex(path) as index:
            assert not index.recovered and index.names[-1] == "new"
    assert states == {(0, False), (3, True), (3, False)}
    path.write_bytes(data)
    assert content(path) == everything


def test_zeros_after_a_system_crash_are_an_unfinished_write(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data + bytes(500))
    with CodeIndex(path) as index:
        assert "500 bytes" in index.recovered and len(index) == 3
    path.write_bytes(data[:-8] + bytes(8))  # the record is there, its commit is not
    with CodeIndex(path) as index:
        assert index.recovered and index.names == ["a", "b", "sub/ü 1"]


def test_any_changed_byte_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(len(data)):
        data[at] ^= 0x10
        path.write_bytes(data)
        with pytest.raises(IndexFileError, match=r"x\.idx"):
            CodeIndex(path)
        data[at] ^= 0x10


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"sha256": "cd" * 32, "model": "other"}, "made with the model small .*not with other"),
        ({"bits": 32}, "has codes of 64 bits, expected 32"),
        ({"root": "photos"}, "not of photos"),
    ],
)
def test_another_header_is_refused(path: Path, change: dict, text: str) -> None:
    with pytest.raises(IndexFileError, match=text):
        CodeIndex(path, IndexHeader(**{**vars(HEADER), **change}))


def test_other_files_are_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8] = 7
    path.write_bytes(data)
    with pytest.raises(IndexFileError, match="has format 7, this version reads format 1"):
        CodeIndex(path)
    path.write_bytes(b"hello, world, this is text")
    with pytest.raises(IndexFileError, match="is not a bindesc index"):
        CodeIndex(path)
    with pytest.raises(FileNotFoundError):
        CodeIndex(path.with_name("none"), write=True)
    with pytest.raises(ValueError, match="multiple of 16"):
        IndexHeader(bits=60, model="", sha256="")


def test_bad_updates_change_nothing(path: Path) -> None:
    before = path.read_bytes()
    with CodeIndex(path, write=True) as index:
        for arguments, error, text in (
            ((["x"], codes(2)), ValueError, r"expected \(1, 8\) uint8, got \(2, 8\)"),
            ((["x"], codes(1).astype(np.int8)), ValueError, "int8"),
            ((["x", "x"], codes(2)), ValueError, "twice"),
            ((["x\0y"], codes(1)), ValueError, "NUL"),
            ((["\udc80"], codes(1)), ValueError, "UTF-8"),
            ((["x"], codes(1), np.zeros(2, int)), ValueError, "stamps"),
            (([], None, None, ["none"]), KeyError, "none"),
        ):
            with pytest.raises(error, match=text):
                index.update(*arguments)
    with CodeIndex(path) as index, pytest.raises(OSError, match="not opened for writing"):
        index.update(["x"], codes(1))
    assert path.read_bytes() == before


def test_one_writer_at_a_time(path: Path) -> None:
    pytest.importorskip("fcntl")
    with CodeIndex(path, write=True) as index:
        for _ in range(2):
            with pytest.raises(IndexFileError, match="another process is writing"):
                CodeIndex(path, write=True)
            with CodeIndex(path) as reader:  # readers are welcome
                assert len(reader) == 3
            index.compact()  # the new file is locked too
    CodeIndex(path, write=True).close()


def test_what_a_killed_compaction_left_is_removed(path: Path) -> None:
    path.with_name(".x.0123456789abcdef.tmp.idx").write_bytes(b"half")
    path.with_name(".y.0123456789abcdef.tmp.idx").write_bytes(b"of another index")
    CodeIndex(path, write=True).close()
    assert sorted(file.name for file in path.parent.iterdir()) == [
        ".y.0123456789abcdef.tmp.idx",
        "x.idx",
    ]


WRITER = """
import sys, numpy as np
from pathlib import Path
from bindesc.code_index import CodeIndex
with CodeIndex(sys.argv[1], write=True) as index:
    for i in range(100000):
        code = np.full((3, 8), i % 256, np.uint8)
        index.update([f"{i}/{j}" for j in range(3)], code, delete=[f"{i - 1}/0"] if i else [])
        print(i, flush=True)
        if i % 40 == 39:
            index.compact()
"""


def test_killed_while_it_writes(tmp_path: Path) -> None:
    for attempt in range(3):
        path = tmp_path / f"{attempt}.idx"
        create_index(path, HEADER)
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 + 0.03 * attempt)
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        printed = process.communicate()[0].split()
        committed = int(printed[-1]) if printed else 0
        with CodeIndex(path, write=True) as index:
            last = int(index.names[-1].split("/")[0])
            assert last in (committed, committed + 1)
            expected = [f"{i}/{j}" for i in range(last + 1) for j in (0, 1, 2) if j or i == last]
            assert index.names == expected
            values = [int(name.split("/")[0]) % 256 for name in expected]
            np.testing.assert_array_equal(index.codes, np.repeat(np.c_[values], 8, axis=1))


@pytest.mark.parametrize("width", [2, 8, 32, 64])
@pytest.mark.parametrize("count", [1, 33, 9000])
def test_database_equals_the_oracle(width: int, count: int) -> None:
    train, query = codes(count, 1, width) & 3, codes(65, 2, width) & 3  # many ties
    database = Database(train)
    assert len(database) == count
    oracle = reference.nearest(query, train, 100)
    for k, threads in ((1, 1), (10, 2), (100, 1), (100, 2)):
        index, distance = database.nearest(query, k, threads)
        np.testing.assert_array_equal(index, oracle.index[:, :k])
        np.testing.assert_array_equal(distance, oracle.distance[:, :k])


@pytest.mark.parametrize("isa", ["scalar", "avx2"])
def test_database_on_other_instruction_sets(isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bindesc import _cpu

    if not _cpu.isas().get(isa):
        pytest.skip(f"this processor has no {isa}")
    monkeypatch.setenv("BINDESC_ISA", isa)
    train, query = codes(5000, 1) & 7, codes(3, 2) & 7
    oracle = reference.nearest(query, train, 5)
    np.testing.assert_array_equal(Database(train).nearest(query, 5)[0], oracle.index)


def test_database_refuses_what_it_cannot_search() -> None:
    database = Database(codes(5))
    with pytest.raises(ValueError, match="k: "):
        database.nearest(codes(1), 1025)
    with pytest.raises(ValueError, match="query: 4 bytes a row, but the database has 8"):
        database.nearest(codes(1, width=4))
    with pytest.raises(TypeError, match="codes: expected uint8"):
        Database(codes(5).astype(float))
