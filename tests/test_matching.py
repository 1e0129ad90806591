"""The matching front end against the NumPy oracle, and its errors."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bindesc import _cpu, matching, reference

ISAS = [name for name, usable in _cpu.isas().items() if usable]
FILTERS = [
    {},
    {"mutual": False},
    {"ratio": 0.9},
    {"ratio": 1.0, "mutual": False},
    {"margin": 0},
    {"margin": 3, "mutual": False},
    {"max_distance": 0},
    {"max_distance": 10**30},
    {"margin": 10**30},
    {"ratio": 0.95, "margin": 2, "max_distance": 110},
]


@pytest.fixture(params=ISAS)
def isa(request, monkeypatch):
    monkeypatch.setenv("BINDESC_ISA", request.param)
    assert _cpu.isa() == request.param
    return request.param


def codes(rows, width, seed=0, values=256):
    """Random codes; few values give many ties."""
    return np.random.default_rng(seed).integers(0, values, (rows, width), np.uint8)


def assert_same(found, expected):
    for name in vars(expected):
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


SHAPES = [(0, 5), (5, 0), (0, 0), (1, 1), (1, 2), (2, 1), (61, 67), (64, 64), (65, 257), (131, 32)]


@pytest.mark.parametrize("width", [2, 4, 6, 8, 16, 20, 30, 32, 34, 48, 62, 64])
@pytest.mark.parametrize("k", [1, 2, 3, 32])
def test_nearest(isa, width, k):
    for n, m in SHAPES:
        for values in (2, 256):
            query, train = codes(n, width, 1, values), codes(m, width, 2, values)
            assert_same(matching.nearest(query, train, k), reference.nearest(query, train, k))


@pytest.mark.parametrize("width", [2, 32, 64])
@pytest.mark.parametrize("inverted", [0, 0xFF])
def test_all_equal_and_complement(isa, width, inverted):
    """Every distance ties; the complement has the largest distance there is."""
    query = np.full((70, width), 0x5A, np.uint8)
    train = np.full((133, width), 0x5A ^ inverted, np.uint8)
    for k in (2, 5):
        assert_same(matching.nearest(query, train, k), reference.nearest(query, train, k))


def test_more_than_one_run_of_blocks(isa):
    """Keys count 64 or 128 blocks and then start again."""
    for width in (2, 64):
        query, train = codes(3, width, 1), codes(9001, width, 2)
        assert_same(matching.nearest(query, train), reference.nearest(query, train))


# Tables of 512 codes serve 256 bits from 768 train codes and 64 queries on; the first 256 to 767
# train codes go another way.
TABLE_SHAPES = [(63, 768), (64, 767), (64, 768), (67, 1279), (521, 1280), (1031, 1600)]


@pytest.mark.parametrize("shape", TABLE_SHAPES)
@pytest.mark.parametrize("k", [1, 2])
def test_nearest_by_tables(isa, shape, k):
    for values in (2, 256):
        query, train = codes(shape[0], 32, 1, values), codes(shape[1], 32, 2, values)
        train[-20:] = train[:20]  # the same distance in the first and in the last block
        query[-9:] = query[:9]
        expected = reference.nearest(query, train, k)
        for threads in (1, 3):
            assert_same(matching.nearest(query, train, k, num_threads=threads), expected)


@pytest.mark.parametrize("inverted", [0, 0xFF])
def test_ties_in_tables(isa, inverted):
    query = np.full((70, 32), 0x5A, np.uint8)
    train = np.full((1300, 32), 0x5A ^ inverted, np.uint8)
    assert_same(matching.nearest(query, train), reference.nearest(query, train))


def test_every_bit_counts_in_tables(isa):
    """Query i differs from train code 1500 + i in bit i alone, and from the others in many."""
    train = codes(1800, 32, 1)
    bits = np.unpackbits(train[1500:1756], axis=1)
    query = np.packbits(bits ^ np.eye(256, dtype=np.uint8), axis=1)
    found = matching.nearest(query, train)
    assert_same(found, reference.nearest(query, train))
    assert (found.distance[:, 0] == 1).all()


@pytest.mark.parametrize("filters", FILTERS)
def test_match(isa, filters):
    for values in (2, 256):
        for n, m in [*SHAPES, (90, 101)]:
            query, train = codes(n, 32, 3, values), codes(m, 32, 4, values)
            train[: min(n, m) // 2] = query[: min(n, m) // 2]
            expected = reference.select(reference.nearest(query, train), **filters)
            assert_same(matching.match(query, train, **filters), expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(0, 40),
    st.integers(1, 32),
    st.integers(1, 256),
    st.booleans(),
    st.none() | st.floats(0, 1, exclude_min=True),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 300),
)
def test_any_match(n, m, words, values, mutual, ratio, margin, max_distance):
    query, train = codes(n, 2 * words, 5, values), codes(m, 2 * words, 6, values)
    filters = {"mutual": mutual, "ratio": ratio, "margin": margin, "max_distance": max_distance}
    expected = reference.select(reference.nearest(query, train), **filters)
    assert_same(matching.match(query, train, **filters), expected)


@pytest.mark.parametrize("limit", [0, 1, 110, 256, 10**9])
def test_radius(isa, limit):
    for n, m in SHAPES:
        query, train = codes(n, 32, 1), codes(m, 32, 2)
        query[:2] = train[:1] if m else 0
        found = matching.radius(query, train, limit)
        all_pairs = reference.hamming(query, train)
        assert found.offsets.dtype == np.int64 and len(found.offsets) == n + 1
        assert found.offsets[-1] == len(found.index) == len(found.distance)
        for i, row in enumerate(all_pairs):
            order = np.argsort(row, kind="stable")[: np.count_nonzero(row <= limit)]
            here = slice(found.offsets[i], found.offsets[i + 1])
            np.testing.assert_array_equal(found.index[here], order)
            np.testing.assert_array_equal(found.distance[here], row[order])


def test_the_number_of_threads_changes_nothing(isa):
    query, train = codes(1500, 32, 1, 3), codes(1201, 32, 2, 3)
    expected = reference.Nearest(*_cpu.nearest(query, train, 3, 1))
    for threads in (2, 3, 7):
        assert_same(matching.nearest(query, train, 3, num_threads=threads), expected)


def test_eight_python_threads_at_once():
    query, train = codes(900, 32, 1, 3), codes(1100, 32, 2, 3)
    expected = matching.match(query, train, num_threads=1)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: matching.match(query, train, num_threads=2), range(24))
        for matches in found:
            assert_same(matches, expected)


def test_match_pairs():
    pairs = [(codes(n, 32, n), codes(m, 32, m)) for n, m in [*SHAPES, (300, 700)]]
    for threads in (1, 2, 50):
        found = matching.match_pairs(iter(pairs), ratio=0.98, num_threads=threads)
        assert len(found) == len(pairs)
        for matches, (query, train) in zip(found, pairs, strict=True):
            assert_same(matches, matching.match(query, train, ratio=0.98))
    assert matching.match_pairs([]) == []
    with pytest.raises(ValueError, match=r"pairs\[1\]\[0\]: expected 2 axes"):
        matching.match_pairs([pairs[0], (np.zeros(3, np.uint8), pairs[0][1])])


def test_layouts_that_are_not_contiguous_are_copied():
    query, train = codes(40, 64, 1)[::2, ::2], np.asfortranarray(codes(50, 32, 2))
    shifted = np.zeros(50 * 32 + 1, np.uint8)[1:].reshape(50, 32)
    shifted[:] = train
    train.flags.writeable = False
    for given_train in (train, shifted):
        found = matching.match(query, given_train)
        assert_same(found, reference.select(reference.nearest(query, train)))


def test_a_tensor_on_the_cpu_is_read_through_dlpack():
    torch = pytest.importorskip("torch")
    query, train = codes(30, 32, 1), codes(40, 32, 2)
    found = matching.match(torch.from_numpy(query), train)
    assert_same(found, matching.match(query, train))


GOOD = codes(5, 32)


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("codes", TypeError, "expected an array .*str"),
        (GOOD.tolist(), TypeError, "expected an array .*list"),
        (GOOD.astype(np.float32), TypeError, "expected uint8, got float32"),
        (GOOD.astype(np.int8), TypeError, "expected uint8, got int8"),
        (GOOD[0], ValueError, r"expected 2 axes .*\(32,\)"),
        (GOOD[None], ValueError, r"expected 2 axes .*\(1, 5, 32\)"),
        (GOOD[:, :0], ValueError, "expected an even number of bytes a row, 2 to 64, got 0"),
        (GOOD[:, :31], ValueError, "expected an even number of bytes a row, 2 to 64, got 31"),
        (codes(5, 66), ValueError, "expected an even number of bytes a row, 2 to 64, got 66"),
    ],
)
def test_bad_arrays(bad, error, message):
    calls = {
        "d1": lambda: matching.match(bad, GOOD),
        "d2": lambda: matching.match(GOOD, bad),
        "query": lambda: matching.nearest(bad, GOOD),
        "train": lambda: matching.radius(GOOD, bad, 3),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=f"^{name}: {message}"):
            call()


@pytest.mark.parametrize("other", [GOOD, GOOD[:, :16], None], ids=["32", "16", "none"])
def test_none_is_no_codes(other):
    count = 0 if other is None else len(other)
    assert len(matching.match(other, None)) == len(matching.match(None, other)) == 0
    assert list(map(len, matching.match_pairs([(None, other), (GOOD, GOOD)]))) == [0, 5]
    assert matching.nearest(other, None, 3).index.tolist() == [[-1] * 3] * count
    assert matching.radius(other, None, 9).offsets.tolist() == [0] * (count + 1)
    with pytest.raises(TypeError, match=r"^d1: expected an array"):
        matching.match(3, None)


def test_widths_must_agree():
    with pytest.raises(ValueError, match=r"^d2: 16 bytes a row, but d1 has 32"):
        matching.match(GOOD, GOOD[:, :16])


class OnDevice:
    """Looks like an array on a GPU."""

    def __dlpack_device__(self):
        return (2, 0)


def test_both_arrays_must_be_in_one_place():
    with pytest.raises(ValueError, match=r"^d1: is in host memory, but d2 is on a device"):
        matching.match(GOOD, OnDevice())
    with pytest.raises(ValueError, match=r"^d2: is in host memory, but d1 is on a device"):
        matching.match(OnDevice(), GOOD)
    with pytest.raises(ValueError, match=r"^pairs: some are in host memory"):
        matching.match_pairs([(GOOD, GOOD), (OnDevice(), OnDevice())])


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ({"ratio": -0.5}, ValueError),
        ({"ratio": 0}, ValueError),
        ({"ratio": 1.1}, ValueError),
        ({"ratio": float("nan")}, ValueError),
        ({"ratio": "0.8"}, TypeError),
        ({"margin": -1}, ValueError),
        ({"margin": 1.5}, TypeError),
        ({"max_distance": -1}, ValueError),
        ({"max_distance": 2.0}, TypeError),
        ({"num_threads": 0}, ValueError),
        ({"num_threads": 1.0}, TypeError),
    ],
)
def test_bad_options(option, error):
    (name,) = option
    with pytest.raises(error, match=f"^{name}: expected"):
        matching.match(GOOD, GOOD, **option)
    with pytest.raises(error, match=f"^{name}: expected"):
        matching.match_pairs([], **option)


def test_bad_k_and_radius():
    for k in (0, 33, -1):
        with pytest.raises(ValueError, match=r"^k: expected 1 to 32"):
            matching.nearest(GOOD, GOOD, k)
    with pytest.raises(ValueError, match=r"^max_distance: expected at least 0"):
        matching.radius(GOOD, GOOD, -1)


@pytest.mark.parametrize("wanted", ["mmx", "AVX2 "])
def test_an_unknown_isa_is_an_error_that_lists_the_usable_ones(monkeypatch, wanted):
    monkeypatch.setenv("BINDESC_ISA", wanted)
    with pytest.raises(ValueError, match=f'BINDESC_ISA: "{wanted}".*usable: .*scalar'):
        matching.match(GOOD, GOOD)


def test_threads_follow_opencv_once_it_is_loaded(monkeypatch):
    class Cv2:
        @staticmethod
        def getNumThreads():
            return 5

    monkeypatch.setitem(sys.modules, "cv2", Cv2)
    assert matching.threads_to_use(None) == 5
    monkeypatch.delitem(sys.modules, "cv2")
    assert matching.threads_to_use(None) == os.cpu_count()


def test_ctrl_c_stops_a_long_match_within_a_second(monkeypatch):
    monkeypatch.setenv("BINDESC_ISA", "scalar")
    # A shell that starts the tests in the background has them ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    query = codes(100_000, 32)
    sent = []

    def interrupt():
        sent.append(time.perf_counter())
        _thread.interrupt_main()

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            matching.match(query, query, num_threads=2)
        assert time.perf_counter() - sent[0] < 1
    finally:
        signal.signal(signal.SIGINT, before)


def test_import_loads_neither_torch_nor_opencv():
    code = "import sys, bindesc.matching; sys.exit(bool({'torch', 'cv2'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_grows_with_n_plus_m():
    """30,000 x 30,000 pairs: one byte a pair would be 900 MB."""
    code = (
        "import re, numpy as np; from bindesc import matching\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', status())[1])\n"
        "a = np.random.default_rng(0).integers(0, 256, (30_000, 32), np.uint8)\n"
        "matching.match(a[:100], a[:100]); before = peak(); matching.match(a, a)\n"
        "print((peak() - before) // 1024)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert 0 < int(out.stdout) < 20


def test_matches_as_those_of_opencv():
    random = np.random.default_rng(0)
    query, train = (random.integers(0, 256, (50, 32)).astype(np.uint8) for _ in range(2))
    found = matching.match(query, train)
    values = [(m.queryIdx, m.trainIdx, m.distance) for m in found.dmatches()]
    assert len(values) == len(found) > 0
    pairs = zip(found.pairs.tolist(), found.distance.tolist(), strict=True)
    assert values == [(*pair, distance) for pair, distance in pairs]
    assert matching.match(query[:0], train).dmatches() == ()
