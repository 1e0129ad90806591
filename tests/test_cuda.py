"""The Python interface, the launcher and the kernels, run on a simulated device."""

import contextlib
import sys
import threading
import types

import numpy as np
import pytest
from cuda_builds import NO_COMPILER, REDUCTIONS, SHUFFLES, simulate

from benchmarks import cuda_check
from bindesc import cuda, cuda_library, matching, reference
from bindesc.cuda import DeviceArray

pytestmark = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    return {
        architecture: simulate(
            folder / f"cuda{architecture}.so", "-shared", "-fPIC", architecture=architecture
        )
        for architecture in (SHUFFLES, REDUCTIONS)
    }


@pytest.fixture
def device(libraries, monkeypatch):
    monkeypatch.setattr(cuda_library, "path", lambda: libraries[REDUCTIONS])


def codes(rows, width, seed=0, mask=0xFF):
    return np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8) & mask


def assert_equal(query, train, **options):
    """Everything that the device finds, against the oracle."""
    expected = reference.nearest(query, train)
    on_device = DeviceArray.upload(query), DeviceArray.upload(train)
    found = cuda.nearest(*on_device).to_host()
    for name in ("index", "distance", "column_index", "column_distance"):
        got, want = getattr(found, name), getattr(expected, name)
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, err_msg=name)
    for tests in ({"mutual": False}, {"mutual": True}, options):
        got = cuda.match(*on_device, **tests).to_host()
        want = reference.select(expected, **tests)
        np.testing.assert_array_equal(got.pairs, want.pairs)
        np.testing.assert_array_equal(got.distance, want.distance)


@pytest.mark.parametrize("architecture", [SHUFFLES, REDUCTIONS])
@pytest.mark.parametrize("mask", [0xFF, 0x01, 0x00], ids=["random", "ties", "equal"])
@pytest.mark.parametrize(
    ("n", "m"),
    [(0, 0), (0, 3), (3, 0), (1, 1), (1, 2), (2, 1), (2, 2), (31, 33), (127, 128), (509, 129)],
)
def test_sizes(libraries, monkeypatch, architecture, mask, n, m):
    monkeypatch.setattr(cuda_library, "path", lambda: libraries[architecture])
    assert_equal(codes(n, 32, 1, mask), codes(m, 32, 2, mask), ratio=0.8, margin=3)


@pytest.mark.parametrize("width", range(2, 65, 2))
def test_widths(device, width):
    assert_equal(codes(61, width, 3), codes(47, width, 4), ratio=0.9)


@pytest.mark.parametrize("width", [2, 32, 64])
def test_largest_distance(device, width):
    query = codes(5, width)
    assert_equal(query, ~query[2:3], max_distance=8 * width)
    assert_equal(query[:1], ~query[:1], max_distance=8 * width - 1)


def test_many_blocks_and_chunks(device):
    query, train = codes(1100, 32, 5, 0x11), codes(1300, 32, 6, 0x11)
    assert_equal(query, train, ratio=0.95, max_distance=60)


@pytest.mark.parametrize("ratio", [None, 1, 0.5, 1e-9])
@pytest.mark.parametrize("margin", [None, 0, 1, 10**12])
@pytest.mark.parametrize("max_distance", [None, 0, 20, 10**12])
def test_filters(device, ratio, margin, max_distance):
    train = codes(60, 4, 7)
    query = np.concatenate([train[::-1], codes(40, 4, 8)])
    tests = {"ratio": ratio, "margin": margin, "max_distance": max_distance, "mutual": False}
    assert_equal(query, train, **tests)


def test_pairs_of_many_sizes_in_one_call(device):
    sizes = [(5, 3), (0, 4), (300, 200), (4, 0), (0, 0), (1, 1), (600, 10)] * 6
    pairs = [(codes(n, 32, i), codes(m, 32, i + 99)) for i, (n, m) in enumerate(sizes)]
    pairs[2][0][::7] = pairs[2][1][:43]
    on_device = [tuple(map(DeviceArray.upload, pair)) for pair in pairs]
    found = cuda.match_pairs(on_device, ratio=0.9)
    assert len(found) == len(pairs)
    for got, (query, train) in zip(found, pairs, strict=True):
        want = reference.select(reference.nearest(query, train), ratio=0.9)
        np.testing.assert_array_equal(got.to_host().pairs, want.pairs)
        np.testing.assert_array_equal(got.to_host().distance, want.distance)
    assert len(found[2]) >= 43


def test_no_pairs(device):
    assert cuda.match_pairs([]) == []


def test_addresses_off_a_16_byte_boundary(device):
    query, train = codes(41, 32, 9), codes(37, 32, 10)
    padded = DeviceArray.upload(np.concatenate([np.zeros(2, np.uint8), query.ravel()]))
    odd = DeviceArray(padded.pointer + 2, query.shape, query.dtype, 0, owner=padded)
    found = cuda.nearest(odd, DeviceArray.upload(train)).to_host()
    np.testing.assert_array_equal(found.index, reference.nearest(query, train).index)


def test_workspace_is_reused_and_grows(device):
    workspace = cuda.Workspace()
    addresses = []
    for n in (50, 20, 400, 300):
        query, train = codes(n, 32, n), codes(n, 32, n + 1)
        got = cuda.match(*map(DeviceArray.upload, (query, train)), workspace=workspace).to_host()
        want = reference.select(reference.nearest(query, train))
        np.testing.assert_array_equal(got.pairs, want.pairs)
        addresses.append(workspace.reserve(1, 0).pointer)
    assert addresses[0] == addresses[1]
    assert addresses[2] == addresses[3]


def test_results_are_device_arrays(device):
    query = codes(20, 32)
    found = cuda.match(DeviceArray.upload(query), DeviceArray.upload(query[::-1].copy()))
    assert len(found) == 20
    interface = found.pairs.__cuda_array_interface__
    assert (interface["shape"], interface["typestr"]) == ((20, 2), "<i4")
    np.testing.assert_array_equal(found.pairs[3:5].numpy(), [[3, 16], [4, 15]])
    np.testing.assert_array_equal(found.distance.numpy(), np.zeros(20, np.uint16))


def test_front_end_sends_device_arrays_here(device):
    query, train = codes(30, 32, 1), codes(40, 32, 2)
    found = matching.match(DeviceArray.upload(query), DeviceArray.upload(train), ratio=0.99)
    want = reference.select(reference.nearest(query, train), ratio=0.99)
    np.testing.assert_array_equal(found.to_host().pairs, want.pairs)


class Exporter:
    """A device array that speaks DLPack alone, and tells what stream it was asked for."""

    def __init__(self, array, device=(2, 0)):
        self.array, self.device, self.stream = array, device, None

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, stream=None):
        self.stream = stream
        return self.array.__dlpack__()


def test_dlpack(device):
    query, train = codes(30, 32, 1), codes(40, 32, 2)
    exporter = Exporter(query)
    found = cuda.nearest(exporter, Exporter(train, (13, 0)), stream=0)
    np.testing.assert_array_equal(found.to_host().index, reference.nearest(query, train).index)
    assert exporter.stream == 1


def test_dlpack_strides_and_types_are_read(device):
    whole = codes(30, 64)
    with pytest.raises(ValueError, match=r"^d2: expected C order without gaps"):
        cuda.match(Exporter(whole[:, :32].copy()), Exporter(whole[:, :32]))
    with pytest.raises(TypeError, match=r"^d1: expected uint8, got float32"):
        cuda.match(Exporter(np.zeros((2, 8), np.float32)), Exporter(whole))


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_results_come_from_the_library_of_the_queries(device, monkeypatch, library):
    """On the device and the stream of the call; with a stand-in for the library."""
    places = []
    array_type = type("Array", (DeviceArray,), {"__module__": library})

    def empty(shape, dtype, device="cuda:0"):
        made = DeviceArray.empty(shape, dtype, int(str(device)[-1]))
        return array_type(made.pointer, shape, made.dtype, made.device, owner=made)

    @contextlib.contextmanager
    def place(*where):
        places.append(where)
        yield

    gpu = types.SimpleNamespace(
        Device=place,
        stream=place,
        ExternalStream=place if library == "cupy" else lambda *where: where,
        current_stream=lambda number: types.SimpleNamespace(cuda_stream=5),
    )
    dtypes = {name: name for name in ("int32", "int64", "uint16", "uint8")}
    module = types.SimpleNamespace(cuda=gpu, empty=empty, **dtypes)
    monkeypatch.setitem(sys.modules, library, module)
    query, train = codes(30, 32, 1), codes(40, 32, 2)
    uploaded = DeviceArray.upload(query)
    mine = array_type(uploaded.pointer, (30, 32), uploaded.dtype, 0, stream=5, owner=uploaded)
    found = cuda.nearest(mine, DeviceArray.upload(train))
    assert type(found.index) is array_type
    np.testing.assert_array_equal(found.to_host().index, reference.nearest(query, train).index)
    within = cuda.radius(mine, mine, 0)
    assert {type(a) for a in (within.offsets, within.index, within.distance)} == {array_type}
    np.testing.assert_array_equal(within.to_host().index, np.arange(30))
    used = {where if library == "cupy" else where[0] for where in places}
    assert used == ({(0,), (5, 0)} if library == "cupy" else {(5, 0)})


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"d1": codes(3, 32)}, TypeError, "d1: expected an array in GPU memory"),
        ({"d2": [1, 2]}, TypeError, "d2: expected an array in GPU memory"),
        ({"d1": "int8"}, TypeError, "d1: expected uint8, got int8"),
        ({"d2": (2, 3, 4)}, ValueError, r"d2: expected 2 axes \(N, B\), got shape"),
        ({"d1": (64,)}, ValueError, "d1: expected 2 axes"),
        ({"d2": (3, 31)}, ValueError, "d2: expected an even number of bytes a row, 2 to 64"),
        ({"d1": (3, 66)}, ValueError, "d1: expected an even number of bytes a row"),
        ({"d1": (3, 0)}, ValueError, "d1: expected an even number of bytes a row"),
        ({"d2": (3, 16)}, ValueError, "d2: 16 bytes a row, but d1 has 32"),
        ({"ratio": -0.5}, ValueError, "ratio: expected a number above 0, at most 1, got -0.5"),
        ({"ratio": float("nan")}, ValueError, "ratio: expected a number above 0.*got nan"),
        ({"ratio": "0.8"}, TypeError, "ratio: expected a number, got str"),
        ({"margin": -1}, ValueError, "margin: expected at least 0, got -1"),
        ({"margin": 1.5}, TypeError, "margin: expected an integer, got float"),
        ({"max_distance": -3}, ValueError, "max_distance: expected at least 0"),
        ({"stream": "fast"}, TypeError, "stream: expected a torch or CuPy stream"),
    ],
)
def test_bad_arguments_are_named(device, change, error, text):
    arguments = {"d1": DeviceArray.upload(codes(3, 32)), "d2": DeviceArray.upload(codes(4, 32))}
    for name, value in change.items():
        if isinstance(value, tuple):
            value = DeviceArray.upload(np.zeros(value, np.uint8))
        elif isinstance(value, str) and value == "int8":
            value = DeviceArray.upload(np.zeros((3, 32), np.int8))
        arguments[name] = value
    with pytest.raises(error, match=f"^{text}"):
        cuda.match(arguments.pop("d1"), arguments.pop("d2"), **arguments)


def test_bad_addresses_are_named(device):
    good = DeviceArray.upload(codes(4, 32))
    host = codes(4, 32)
    stray = DeviceArray(host.ctypes.data, host.shape, host.dtype, 0, owner=host)
    with pytest.raises(TypeError, match=r"^d2: its address is not in GPU memory"):
        cuda.match(good, stray)
    odd = DeviceArray(good.pointer + 1, (3, 32), good.dtype, 0, owner=good)
    with pytest.raises(ValueError, match=r"^d1: must start at an even address"):
        cuda.match(odd, good)


def test_device_mismatch_names_the_argument(device):
    here, there = (DeviceArray.upload(codes(3, 32), device=d) for d in (0, 1))
    with pytest.raises(ValueError, match=r"^d2: on device 1, but d1 is on device 0"):
        cuda.match(here, there)
    with pytest.raises(ValueError, match=r"^pairs\[1\]\[0\]: on device 0, but pairs\[0\]\[0\]"):
        cuda.match_pairs([(there, there), (here, here)])
    assert len(cuda.match(there, there)) == 3


@pytest.mark.parametrize(
    "function",
    [
        "cudaGetDevice",
        "cudaSetDevice",
        "cudaDeviceGetAttribute",
        "cudaMemsetAsync",
        "cudaLaunchKernelEx",
        "cudaPointerGetAttributes",
        "cudaMalloc",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaEventCreateWithFlags",
        "cudaEventRecord",
        "cudaStreamWaitEvent",
        "cudaEventDestroy",
    ],
)
def test_a_failing_cuda_call_is_named(device, monkeypatch, function):
    query = DeviceArray.upload(codes(3, 32))
    elsewhere = DeviceArray(query.pointer, query.shape, query.dtype, 0, stream=7, owner=query)
    monkeypatch.setenv("SIMT_FAIL", function)
    named = "launch" if function == "cudaLaunchKernelEx" else function
    with pytest.raises(RuntimeError, match=rf"^CUDA: {named}.*unknown error \(cudaErrorUnknown\)"):
        cuda.match(query, elsewhere).to_host()


def test_a_failing_free_is_reported(device, monkeypatch):
    reports = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reports.append(str(report.exc_value)))
    array = DeviceArray.upload(codes(3, 32))
    monkeypatch.setenv("SIMT_FAIL", "cudaFree")
    del array
    assert reports == ["CUDA: cudaFree(pointer): unknown error (cudaErrorUnknown)"]


def test_waits_only_for_other_streams(device, monkeypatch):
    calls = []
    call = cuda_library.call
    monkeypatch.setattr(
        cuda_library, "call", lambda name, *rest: (calls.append((name, rest)), call(name, *rest))
    )
    query = DeviceArray.upload(codes(3, 32))
    elsewhere = DeviceArray(query.pointer, query.shape, query.dtype, 0, stream=7, owner=query)
    cuda.match(query, query)
    assert "wait" not in dict(calls)
    cuda.match(query, elsewhere)
    assert dict(calls)["wait"] == (0, 1, 7)
    calls.clear()
    cuda.match(elsewhere, elsewhere)
    assert "wait" not in dict(calls)


def test_the_check_for_gpus(device, capsys, monkeypatch):
    monkeypatch.setattr(cuda_check.torch.cuda, "is_available", lambda: False)
    assert cuda_check.check(((0, 3), (3, 2), (40, 50)), (2, 32)) == []
    rows = cuda_check.time_sizes((30,), repeats=1)
    names = [cuda_check.OURS, "10 nearest", "32 nearest", "radius 90", cuda_check.BATCHED]
    assert [row["name"] for row in rows] == names
    assert "G pairs/s" in capsys.readouterr().out
    shown = cuda_check.table(rows)
    assert shown["header"] == ["milliseconds", "N = 30"]
    assert [row[0] for row in shown["rows"]] == names


def test_the_check_for_gpus_finds_a_difference(device, monkeypatch):
    real = reference.nearest

    def wrong(*arguments):
        found = real(*arguments)
        found.distance[-1, 0] += 1
        return found

    monkeypatch.setattr(cuda_check.matching, "nearest", wrong)
    assert len(cuda_check.check(((3, 2),), (32,))) == 3


def test_the_check_for_gpus_without_one(monkeypatch, capsys):
    monkeypatch.setattr(cuda_library, "path", lambda: None)
    monkeypatch.setattr("sys.argv", ["cuda_check"])
    assert cuda_check.main() == 2
    assert "not compiled" in capsys.readouterr().out


def test_status(device, monkeypatch):
    assert str(cuda.status()) == "CUDA: usable; 2 x simulated device (sm_00, 1 multiprocessors)"
    monkeypatch.setenv("SIMT_FAIL", "cudaFuncGetAttributes")
    broken = cuda.status()
    assert broken.compiled
    assert not broken.usable
    assert broken.text.startswith("CUDA: compiled, never run on a GPU here; cudaFuncGetAttributes")
    monkeypatch.setattr(cuda_library, "path", lambda: None)
    assert not cuda.status().compiled


def test_without_the_library(monkeypatch):
    monkeypatch.setattr(cuda_library, "path", lambda: None)
    with pytest.raises(RuntimeError, match=r"^CUDA: not compiled; reinstall bindesc with nvcc"):
        DeviceArray.upload(codes(3, 32))


def test_a_broken_library_is_named(monkeypatch, tmp_path):
    broken = tmp_path / "_cuda.so"
    broken.write_text("no library")
    monkeypatch.setattr(cuda_library, "path", lambda: broken)
    status = cuda.status()
    assert status.compiled
    assert not status.usable
    assert "_cuda.so does not load" in status.text


def test_errors_do_not_leak_between_threads(device, monkeypatch):
    """The text of an error belongs to the thread that met it."""
    texts = []

    def fail(device_number):
        with pytest.raises(RuntimeError) as caught:
            DeviceArray.empty((1,), "uint8", device_number)
        texts.append(str(caught.value))

    threads = [threading.Thread(target=fail, args=(number,)) for number in (7, 8, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["CUDA: cudaSetDevice(device): invalid argument (cudaErrorInvalidValue)"] * 3
