"""k nearest neighbours and radius search of the CUDA matcher, run on a simulated device."""

import numpy as np
import pytest
from cuda_builds import NO_COMPILER, simulate

from bindesc import cuda, cuda_library, matching, reference, types
from bindesc.cuda import DeviceArray

pytestmark = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("simulated") / "cuda.so", "-shared", "-fPIC")


@pytest.fixture(autouse=True)
def device(library, monkeypatch):
    monkeypatch.setattr(cuda_library, "path", lambda: library)


def codes(rows, width, seed=0, mask=0xFF):
    return np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8) & mask


def within(query, train, limit):
    """The oracle of a radius search."""
    distance = reference.hamming(query, train)
    row, index = np.nonzero(distance <= limit)
    found = distance[row, index]
    order = np.lexsort((index, found, row))
    offsets = np.concatenate([[0], np.bincount(row, minlength=len(query)).cumsum()])
    return types.Neighbours(offsets, index[order].astype(np.int32), found[order])


def assert_same(found, expected):
    for name, want in vars(expected).items():
        got = getattr(found, name)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, err_msg=name)


def assert_equal(query, train, k, limit):
    on_device = DeviceArray.upload(query), DeviceArray.upload(train)
    assert_same(cuda.nearest(*on_device, k).to_host(), reference.nearest(query, train, k))
    assert_same(cuda.radius(*on_device, limit).to_host(), within(query, train, limit))


@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x00], ids=["random", "ties", "equal"])
@pytest.mark.parametrize(
    ("n", "m"),
    [(0, 0), (0, 3), (3, 0), (1, 1), (1, 2), (2, 1), (2, 2), (31, 33), (127, 128), (257, 129)],
)
def test_sizes(n, m, mask):
    for k, limit in ((1, 0), (3, 10), (32, 120)):
        assert_equal(codes(n, 32, 1, mask), codes(m, 32, 2, mask), k, limit)


@pytest.mark.parametrize("width", range(2, 65, 2))
def test_widths_and_every_k(width):
    """One k a width: 1 to 32."""
    query, train = codes(61, width, 3), codes(47, width, 4)
    query[7] = ~train[5]
    query[8] = train[5]
    assert_equal(query, train, width // 2, 4 * width)


@pytest.mark.parametrize("k", range(1, 33))
def test_every_k_on_ties(k):
    query, train = codes(35, 32, k, 0x11), codes(150, 32, k + 99, 0x11)
    assert_equal(query, train, k, 40 + k)


@pytest.mark.parametrize("k", [3, 32])
def test_many_blocks_and_chunks(k):
    """The lists of several chunks meet; in the second case they grow worse from chunk to chunk."""
    query, train = codes(130, 32, 5, 0x11), codes(1300, 32, 6, 0x11)
    assert_equal(query, train, k, 44)
    order = np.argsort(reference.hamming(query[:1], train)[0], kind="stable")
    assert_equal(query[:2], train[order], k, 20)
    assert_equal(query[:2], train[order[::-1]], k, 20)


@pytest.mark.parametrize("limit", [0, 1, 31, 32, 33, 255, 256, 512, 10**12])
def test_radii(limit):
    query, train = codes(40, 32, 7, 0x11), codes(90, 32, 8, 0x11)
    query[::3] = train[:14]
    query[1] = ~train[2]
    assert_equal(query, train, 3, limit)


@pytest.mark.parametrize("m", [1, 2, 3, 255, 256, 257, 700])
def test_all_codes_are_neighbours(m):
    query, train = codes(3, 4, 9), codes(m, 4, 10, 0x13)
    assert_equal(query, train, 32, 32)


def test_more_rows_than_one_step_of_the_sum():
    query, train = codes(1100, 2, 11), codes(5, 2, 12)
    assert_equal(query, train, 4, 6)


def test_addresses_off_a_16_byte_boundary():
    query, train = codes(41, 32, 9), codes(37, 32, 10)
    padded = DeviceArray.upload(np.concatenate([np.zeros(2, np.uint8), query.ravel()]))
    odd = DeviceArray(padded.pointer + 2, query.shape, query.dtype, 0, owner=padded)
    other = DeviceArray.upload(train)
    assert_same(cuda.nearest(odd, other, 6).to_host(), reference.nearest(query, train, 6))
    assert_same(cuda.radius(odd, other, 120).to_host(), within(query, train, 120))


def test_one_workspace_serves_every_k():
    workspace = cuda.Workspace()
    for k in (2, 20, 1, 5):
        query, train = codes(50, 32, k), codes(60, 32, k + 1)
        found = cuda.nearest(*map(DeviceArray.upload, (query, train)), k, workspace=workspace)
        assert_same(found.to_host(), reference.nearest(query, train, k))


@pytest.mark.parametrize("k", [1, 2, 3, 17])
def test_the_front_end_finds_the_same_as_on_the_processor(k):
    query, train = codes(70, 32, 1), codes(80, 32, 2)
    on_device = DeviceArray.upload(query), DeviceArray.upload(train)
    found = matching.nearest(*on_device, k)
    assert isinstance(found.index, DeviceArray)
    assert found.index.shape == (70, k)
    assert_same(found.to_host(), matching.nearest(query, train, k))
    within_radius = matching.radius(*on_device, 110)
    assert within_radius.offsets.shape == (71,)
    assert_same(within_radius.to_host(), matching.radius(query, train, 110))


@pytest.mark.parametrize("value", [0, 33, -1])
def test_k_is_checked(value):
    query = DeviceArray.upload(codes(3, 32))
    for nearest in (cuda.nearest, matching.nearest):
        with pytest.raises(ValueError, match=rf"^k: expected 1 to 32, got {value}"):
            nearest(query, query, value)
        with pytest.raises(TypeError, match=r"^k: expected an integer, got float"):
            nearest(query, query, 2.0)


def test_bad_arguments_of_a_radius_search_are_named():
    query = DeviceArray.upload(codes(3, 32))
    for radius in (cuda.radius, matching.radius):
        with pytest.raises(ValueError, match=r"^max_distance: expected at least 0, got -1"):
            radius(query, query, -1)
        with pytest.raises(ValueError, match=r"^train: 16 bytes a row, but query has 32"):
            radius(query, DeviceArray.upload(codes(3, 16)), 5)
    with pytest.raises(ValueError, match=r"^train: is in host memory, but query is on a device"):
        matching.radius(query, codes(3, 32), 5)
    with pytest.raises(ValueError, match=r"^query: is in host memory, but train is on a device"):
        matching.nearest(codes(3, 32), query, 5)
    with pytest.raises(TypeError, match=r"^train: expected an array in GPU memory"):
        cuda.radius(query, codes(3, 32), 5)


FAILING = ["cudaSetDevice", "cudaDeviceGetAttribute", "cudaMemsetAsync", "cudaLaunchKernelEx"]


@pytest.mark.parametrize("function", [*FAILING, "cudaMemcpyAsync", "cudaStreamSynchronize"])
def test_a_failing_cuda_call_is_named(monkeypatch, function):
    query = DeviceArray.upload(codes(3, 32))
    named = "launch" if function == "cudaLaunchKernelEx" else function
    for search in (cuda.nearest, cuda.radius):
        monkeypatch.setenv("SIMT_FAIL", function)
        with pytest.raises(RuntimeError, match=rf"^CUDA: {named}.*unknown error"):
            search(query, query, 5).to_host()


@pytest.mark.parametrize("pass_", ["radius_count", "radius_fill"])
def test_a_failure_of_either_pass_is_named(monkeypatch, pass_):
    query = DeviceArray.upload(codes(3, 32))
    call = cuda_library.call

    def failing(name, *arguments):
        if name == pass_:
            monkeypatch.setenv("SIMT_FAIL", "cudaLaunchKernelEx")
        call(name, *arguments)

    monkeypatch.setattr(cuda_library, "call", failing)
    with pytest.raises(RuntimeError, match=r"^CUDA: launch.*unknown error"):
        cuda.radius(query, query, 5)


def test_the_workspace_is_linear_in_the_sizes():
    def needed(rows, k):
        pair = cuda_library.Pair(0, 0, rows, rows)
        return cuda_library.workspace_bytes((cuda_library.Pair * 1)(pair), k)

    assert needed(100_000, 2) < 2_500_000
    rows = 2**31 - 1
    assert needed(rows, 1) == needed(rows, 2) == rows * 24 + 2**23 * 4
    assert needed(rows, 32) == rows * (32 + 1) * 8 + 2**23 * 4


def test_the_stream_of_the_caller_is_used(monkeypatch):
    streams = []
    call = cuda_library.call

    def recording(name, *arguments):
        if name in ("nearest", "radius_count", "radius_fill", "copy"):
            streams.append((name, arguments[-1]))
        call(name, *arguments)

    query = DeviceArray.upload(codes(30, 32))
    monkeypatch.setattr(cuda_library, "call", recording)
    cuda.radius(query, query, 100, stream=9)
    cuda.nearest(query, query, 7, stream=8)
    names = ["radius_count", "copy", "radius_fill", "nearest"]
    assert streams == list(zip(names, (9, 9, 9, 8), strict=True))
