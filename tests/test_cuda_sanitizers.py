"""The kernels on the simulated device under ThreadSanitizer, AddressSanitizer and UBSan."""

import os
import shutil
import subprocess

import pytest
from cuda_builds import NO_COMPILER, REDUCTIONS, SHUFFLES, SOURCES, simulate

pytestmark = pytest.mark.skipif(bool(NO_COMPILER), reason=NO_COMPILER)

BARRIER = "__syncthreads();"
BARRIERS = {"hamming_kernel.cuh": 2, "hamming_radius.cuh": 4}


def run(program):
    environment = {**os.environ, "TSAN_OPTIONS": "halt_on_error=1"}
    return subprocess.run([program], capture_output=True, text=True, env=environment)


def build(folder, sanitizer, architecture=REDUCTIONS, sources=SOURCES):
    flags = (f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all")
    check = str(sources / "simt" / "check.cpp")
    program = folder / "check"
    return simulate(program, *flags, check, architecture=architecture, sources=sources)


@pytest.mark.parametrize("architecture", [SHUFFLES, REDUCTIONS])
@pytest.mark.parametrize("sanitizer", ["thread", "address,undefined"])
def test_clean(tmp_path, sanitizer, architecture):
    done = run(build(tmp_path, sanitizer, architecture))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": equal\n") == len(done.stdout.splitlines()) > 20


@pytest.mark.parametrize(
    ("name", "barrier"),
    [(name, barrier) for name, count in BARRIERS.items() for barrier in range(count)],
)
def test_a_missing_barrier_is_a_race(tmp_path, name, barrier):
    """The check above can fail: without any one barrier the sanitizer reports a race."""
    sources = tmp_path / "cuda_ext"
    shutil.copytree(SOURCES, sources)
    kernel = sources / name
    first, *parts = kernel.read_text().split(BARRIER)
    assert len(parts) == BARRIERS[name]
    text = "".join(("" if n == barrier else BARRIER) + part for n, part in enumerate(parts))
    kernel.write_text(first + text)
    done = run(build(tmp_path, "thread", sources=sources))
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr


def test_a_step_outside_an_array_is_reported(tmp_path):
    sources = tmp_path / "cuda_ext"
    shutil.copytree(SOURCES, sources)
    kernel = sources / "hamming_kernel.cuh"
    text = kernel.read_text()
    assert text.count("smaller(row, pair.n - 1)") == 1
    kernel.write_text(text.replace("smaller(row, pair.n - 1)", "row"))
    done = run(build(tmp_path, "address", sources=sources))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
