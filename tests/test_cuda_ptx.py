"""The code that nvcc makes for GPUs, interpreted and compared with the oracle."""

import ctypes
import itertools

import numpy as np
import ptx_interpreter
import pytest
from cuda_builds import NO_NVCC, nvcc
from ptx_interpreter import Memory, PtxError
from ptx_parser import Kernel, parse

from bindesc import reference

pytestmark = pytest.mark.skipif(bool(NO_NVCC), reason=NO_NVCC)

THREADS, GROUP, MAX_PAIRS = 128, 256, 32
EMPTY = np.uint64(2**64 - 1)


class Pair(ctypes.Structure):
    """``bindesc::cuda::Pair``."""

    _fields_ = [
        ("query", ctypes.c_uint64),
        ("train", ctypes.c_uint64),
        ("first_row", ctypes.c_int64),
        ("first_column", ctypes.c_int64),
        ("n", ctypes.c_uint32),
        ("m", ctypes.c_uint32),
        ("chunk", ctypes.c_uint32),
    ]


class Batch(ctypes.Structure):
    """``bindesc::cuda::Batch``."""

    _fields_ = [
        ("pair", Pair * MAX_PAIRS),
        ("first_block", ctypes.c_uint32 * MAX_PAIRS),
        ("first_group", ctypes.c_uint32 * MAX_PAIRS),
        ("count", ctypes.c_int32),
        ("width", ctypes.c_int32),
        *((name, ctypes.c_uint64) for name in ("nearest", "second", "column", "group_count")),
    ]


class KNearestBatch(ctypes.Structure):
    """``bindesc::cuda::KNearestBatch``."""

    _fields_ = [("batch", Batch), ("k", ctypes.c_int32)]


class RadiusBatch(ctypes.Structure):
    """``bindesc::cuda::RadiusBatch``."""

    _fields_ = [
        ("batch", Batch),
        ("limit", ctypes.c_uint32),
        *((name, ctypes.c_uint64) for name in ("offsets", "index", "distance")),
    ]


class Filter(ctypes.Structure):
    """``bindesc::cuda::Filter``."""

    _fields_ = [("ratio", ctypes.c_double)] + [
        (name, ctypes.c_int32) for name in ("margin", "max_distance", "mutual")
    ]


@pytest.fixture(scope="module", params=[75, 90])
def kernels(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("ptx") / "hamming.ptx"
    nvcc(f"-arch=compute_{request.param}", "-ptx", "-o", str(path))
    return parse(path.read_text())


def named(kernels, part):
    (name,) = (name for name in kernels if part in name)
    return kernels[name]


def search(kernels, width, vectors=False, row="TwoNearest"):
    words, queries = (2, 4) if width <= 8 else (8, 4) if width <= 32 else (16, 2)
    queries = min(queries, {"KNearest": 1, "FillWithin": 2}.get(row, queries))
    part = f"search_kernelILi{words}ELi{queries}ELb{int(vectors)}ENS0_{len(row)}{row}E"
    return named(kernels, part), THREADS * queries


def codes(rows, width, seed, mask=0xFF):
    return np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8) & mask


def assert_equal(kernels, arrays, chunk=THREADS, vectors=False, ratio=0.9):
    """Search, count, emit and decode for all pairs of arrays, against the oracle."""
    width = arrays[0][0].shape[1]
    search_kernel, rows_of_block = search(kernels, width, vectors)
    memory, batch = Memory(), Batch(count=len(arrays), width=width)
    blocks = groups = rows = columns = 0
    for p, (query, train) in enumerate(arrays):
        addresses = memory.allocate(query), memory.allocate(train)
        batch.pair[p] = Pair(*addresses, rows, columns, len(query), len(train), chunk)
        batch.first_block[p], batch.first_group[p] = blocks, groups
        blocks += -(-len(query) // rows_of_block) * -(-len(train) // chunk)
        groups += -(-len(query) // GROUP)
        rows, columns = rows + len(query), columns + len(train)
    batch.nearest = memory.allocate(np.full(rows, EMPTY))
    batch.second = memory.allocate(np.full(rows, EMPTY))
    batch.column = memory.allocate(np.full(columns, EMPTY))
    batch.group_count = memory.allocate(np.zeros(groups, np.uint32), written=False)
    ptx_interpreter.launch(search_kernel, blocks, THREADS, bytes(batch), memory)

    pairs = memory.allocate(np.zeros((rows, 2), np.int32), written=False)
    distance = memory.allocate(np.zeros(rows, np.uint16), written=False)
    count = memory.allocate(np.zeros(len(arrays), np.int32), written=False)
    tests = bytes(Filter(ratio, 1, 8 * width, 1))
    outputs = b"".join(address.to_bytes(8, "little") for address in (pairs, distance, count))
    arguments = bytes(batch) + tests
    ptx_interpreter.launch(named(kernels, "count_kernel"), groups, GROUP, arguments, memory)
    ptx_interpreter.launch(
        named(kernels, "emit_kernel"), groups, GROUP, arguments + outputs, memory
    )

    index, bits = decode(kernels, memory, batch.nearest, rows)
    index2, bits2 = decode(kernels, memory, batch.second, rows)
    column_index, column_bits = decode(kernels, memory, batch.column, columns)
    row = column = 0
    for p, (query, train) in enumerate(arrays):
        want = reference.nearest(query, train)
        n, m = len(query), len(train)
        mine, theirs = slice(row, row + n), slice(column, column + m)
        np.testing.assert_array_equal(np.stack([index, index2], 1)[mine], want.index)
        np.testing.assert_array_equal(np.stack([bits, bits2], 1)[mine], want.distance)
        np.testing.assert_array_equal(column_index[theirs], want.column_index)
        np.testing.assert_array_equal(column_bits[theirs], want.column_distance)
        kept = reference.select(want, ratio=ratio, margin=1, max_distance=8 * width)
        assert memory.array(count, (len(arrays),), "int32")[p] == len(kept)
        front = slice(row, row + len(kept))
        np.testing.assert_array_equal(memory.array(pairs, (rows, 2), "int32")[front], kept.pairs)
        np.testing.assert_array_equal(
            memory.array(distance, (rows,), "uint16")[front], kept.distance
        )
        row, column = row + n, column + m


def decode(kernels, memory, keys, count):
    index = memory.allocate(np.zeros(count, np.int32), written=False)
    bits = memory.allocate(np.zeros(count, np.uint16), written=False)
    numbers = ((keys, 8), (count, 8), (1, 4), (0, 4), (index, 8), (bits, 8))
    arguments = b"".join(value.to_bytes(size, "little") for value, size in numbers)
    kernel = named(kernels, "decode_kernel")
    ptx_interpreter.launch(kernel, -(-count // GROUP), GROUP, arguments, memory)
    return memory.array(index, (count,), "int32"), memory.array(bits, (count,), "uint16")


@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize(("n", "m", "mask"), [(1, 1, 255), (2, 1, 0), (37, 131, 1), (515, 3, 255)])
def test_256_bits(kernels, n, m, mask, vectors):
    query, train = codes(n, 32, 1, mask), codes(m, 32, 2, mask)
    query[-1] = ~train[0]
    assert_equal(kernels, [(query, train)], vectors=vectors)


@pytest.mark.parametrize("width", [2, 6, 8, 10, 30, 34, 64])
def test_widths(kernels, width):
    assert_equal(kernels, [(codes(35, width, 3), codes(21, width, 4))])


def test_several_pairs_in_one_launch(kernels):
    sizes = [(5, 3), (1, 140), (300, 2)]
    seeds = itertools.count()
    arrays = [(codes(n, 32, next(seeds), 3), codes(m, 32, next(seeds), 3)) for n, m in sizes]
    assert_equal(kernels, arrays)


def one_pair(memory, query, train, rows_of_block, chunk):
    """A launch for one pair; returns its argument and its number of blocks."""
    batch = Batch(count=1, width=query.shape[1])
    addresses = memory.allocate(query), memory.allocate(train)
    batch.pair[0] = Pair(*addresses, 0, 0, len(query), len(train), chunk)
    return batch, -(-len(query) // rows_of_block) * -(-len(train) // chunk)


@pytest.mark.parametrize(
    ("width", "n", "m", "k", "vectors"),
    [(2, 5, 3, 4, False), (32, 131, 150, 3, True), (32, 3, 140, 32, False), (62, 3, 40, 31, False)],
)
def test_k_nearest(kernels, width, n, m, k, vectors):
    query, train = codes(n, width, 1, 0x13), codes(m, width, 2, 0x13)
    kernel, rows_of_block = search(kernels, width, vectors, "KNearest")
    memory = Memory()
    batch, blocks = one_pair(memory, query, train, rows_of_block, THREADS)
    batch.nearest = memory.allocate(np.full((n, k), EMPTY))
    batch.column = memory.allocate(np.full(m, EMPTY))
    ptx_interpreter.launch(kernel, blocks, THREADS, bytes(KNearestBatch(batch, k)), memory)
    want = reference.nearest(query, train, k)
    index, bits = decode(kernels, memory, batch.nearest, n * k)
    np.testing.assert_array_equal(index.reshape(n, k), want.index)
    np.testing.assert_array_equal(bits.reshape(n, k), want.distance)
    column_index, column_bits = decode(kernels, memory, batch.column, m)
    np.testing.assert_array_equal(column_index, want.column_index)
    np.testing.assert_array_equal(column_bits, want.column_distance)


@pytest.mark.parametrize(
    ("width", "n", "m", "limit", "vectors"),
    [
        (2, 5, 3, 16, False),
        (32, 260, 3, 30, True),
        (32, 2, 140, 40, False),
        (64, 3, 37, 512, False),
    ],
)
def test_radius(kernels, width, n, m, limit, vectors):
    query, train = codes(n, width, 1, 0x13), codes(m, width, 2, 0x13)
    memory = Memory()
    offsets = memory.allocate(np.zeros(n + 1, np.uint64))
    total = memory.allocate(np.zeros(1, np.uint64), written=False)
    kernel, rows_of_block = search(kernels, width, vectors, "CountWithin")
    batch, blocks = one_pair(memory, query, train, rows_of_block, THREADS)
    arguments = RadiusBatch(batch, limit, offsets)
    ptx_interpreter.launch(kernel, blocks, THREADS, bytes(arguments), memory)
    numbers = ((offsets + 8, 8), (n, 8), (total, 8))  # n has 4 bytes and 4 of padding
    packed = b"".join(value.to_bytes(size, "little") for value, size in numbers)
    ptx_interpreter.launch(named(kernels, "offsets_kernel"), 1, GROUP, packed, memory)

    distance = reference.hamming(query, train)
    count = int(memory.array(total, (1,), "uint64")[0])
    assert count == (distance <= limit).sum()
    arguments.index = memory.allocate(np.zeros(count, np.int32), written=False)
    arguments.distance = memory.allocate(np.zeros(count, np.uint16), written=False)
    kernel, rows_of_block = search(kernels, width, vectors, "FillWithin")
    blocks = -(-n // rows_of_block) * -(-m // THREADS)
    ptx_interpreter.launch(kernel, blocks, THREADS, bytes(arguments), memory)
    numbers = (offsets, arguments.index, arguments.distance)
    packed = b"".join(value.to_bytes(8, "little") for value in numbers)
    ptx_interpreter.launch(named(kernels, "sort_kernel"), n, THREADS, packed, memory)

    row, index = np.nonzero(distance <= limit)
    found = distance[row, index]
    order = np.lexsort((index, found, row))
    ends = np.bincount(row, minlength=n).cumsum()
    np.testing.assert_array_equal(memory.array(offsets, (n + 1,), "int64"), [0, *ends])
    np.testing.assert_array_equal(memory.array(arguments.index, (count,), "int32"), index[order])
    np.testing.assert_array_equal(
        memory.array(arguments.distance, (count,), "uint16"), found[order]
    )


def kernel_of(statements):
    return parse(f".visible .entry k(\n.param .u64 k_param_0\n)\n{{\n{statements}\n}}\n")["k"]


@pytest.mark.parametrize(
    ("statements", "text"),
    [
        ("ld.param.u64 %rd1, [k_param_0];\nld.global.u32 %r1, [%rd1+64];\nret;", "outside every"),
        ("ld.param.u64 %rd1, [k_param_0];\nld.global.u32 %r1, [%rd1+2];\nret;", "misaligned"),
        ("ld.param.u64 %rd1, [k_param_0];\nld.global.u32 %r1, [%rd1];\nret;", "never written"),
        ("mov.u32 %r1, %tid.x;\nredux.sync.min.u32 %r2, %r1, 65535;\nret;", "arrived"),
        ("mov.u32 %r1, %tid.x;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 ret;\nbar.sync 0;\nret;", "divided"),
        ("frobnicate.u32 %r1;\nret;", "unknown instruction"),
    ],
)
def test_the_interpreter_refuses(statements, text):
    memory = Memory()
    buffer = memory.allocate(np.zeros(64, np.uint8), written=False)
    kernel = kernel_of(statements)
    assert isinstance(kernel, Kernel)
    with pytest.raises(PtxError, match=text):
        ptx_interpreter.launch(kernel, 1, 32, buffer.to_bytes(8, "little"), memory)
