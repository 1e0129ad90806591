"""What nvcc makes of the kernels, and how the package is built with and without it."""

import re
import subprocess
import sys

import pytest
from cuda_builds import NO_NVCC, SOURCES, build_cuda, nvcc
from setuptools import Distribution

needs_nvcc = pytest.mark.skipif(bool(NO_NVCC), reason=NO_NVCC)


@needs_nvcc
@pytest.mark.parametrize("architecture", build_cuda.ARCHITECTURES)
def test_every_architecture_compiles_without_spills(tmp_path, architecture):
    if architecture not in build_cuda.architectures(build_cuda.find_nvcc()):
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    report = nvcc(
        f"-arch=sm_{architecture}",
        *("-cubin", "-Xptxas=-v", "-Werror=all-warnings"),
        *("-o", str(tmp_path / "hamming.cubin")),
    ).stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes", report)
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", report)]
    assert len(spills) == len(registers) == 21  # kernels
    assert set(spills) == {("0", "0", "0")}
    assert max(registers) <= 96  # five blocks of 128 threads on a multiprocessor


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Builds the CUDA part with a stand-in for nvcc; returns what was built and the log."""
    monkeypatch.chdir(SOURCES.parent)
    for name in ("CUDA_HOME", "CUDA_PATH", "NVCC", "BINDESC_CUDA", "BINDESC_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)

    def run(compiler=None):
        monkeypatch.setattr(build_cuda, "find_nvcc", lambda: compiler)
        distribution = Distribution({"ext_modules": [build_cuda.cuda_extension()]})
        command = build_cuda.BuildWithCuda(distribution)
        command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
        command.ensure_finalized()
        command.run()
        return sorted(path.name for path in (tmp_path / "lib").rglob("_cuda*"))

    return run


def stand_in(tmp_path, body):
    script = tmp_path / "nvcc"
    script.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "if '--list-gpu-code' in sys.argv: print('sm_75 sm_80 sm_999'); sys.exit()\n" + body
    )
    script.chmod(0o755)
    return str(script)


WORKS = "open(sys.argv[sys.argv.index('-o') + 1], 'w').write(' '.join(sys.argv))"
FAILS = "sys.exit(1)"


def test_without_nvcc_there_is_no_cuda_part(build):
    assert build() == []


def test_with_nvcc_there_is_one(build, tmp_path):
    (name,) = build(stand_in(tmp_path, WORKS))
    call = (tmp_path / "lib" / "bindesc" / name).read_text()
    codes = re.findall(r",code=(\w+)", call)
    assert codes == ["sm_75", "sm_80", "compute_80"]
    assert "static" in call


def test_a_failing_nvcc_does_not_fail_the_install(build, tmp_path):
    assert build(stand_in(tmp_path, FAILS)) == []


def test_asked_for_the_cuda_part_must_build(build, tmp_path, monkeypatch):
    monkeypatch.setenv("BINDESC_CUDA", "1")
    with pytest.raises(subprocess.CalledProcessError):
        build(stand_in(tmp_path, FAILS))
    with pytest.raises(RuntimeError, match="BINDESC_CUDA=1, but there is no nvcc"):
        build()
    assert len(build(stand_in(tmp_path, WORKS))) == 1


def test_declined_it_is_not_built(build, tmp_path, monkeypatch):
    monkeypatch.setenv("BINDESC_CUDA", "0")
    assert build(stand_in(tmp_path, WORKS)) == []


def test_architectures_can_be_chosen(build, tmp_path, monkeypatch):
    monkeypatch.setenv("BINDESC_CUDA", "1")
    monkeypatch.setenv("BINDESC_CUDA_ARCHS", "sm_999")
    (name,) = build(stand_in(tmp_path, WORKS))
    call = (tmp_path / "lib" / "bindesc" / name).read_text()
    assert re.findall(r",code=(\w+)", call) == ["sm_999", "compute_999"]
    monkeypatch.setenv("BINDESC_CUDA_ARCHS", "80,81")
    with pytest.raises(ValueError, match="BINDESC_CUDA_ARCHS: this nvcc has no 81"):
        build(stand_in(tmp_path, WORKS))


@needs_nvcc
def test_the_library_loads_where_there_is_no_gpu(tmp_path, monkeypatch):
    """Compiled for one architecture; whether a GPU is found is for status() to say."""
    from bindesc import cuda, cuda_library

    monkeypatch.chdir(SOURCES.parent)
    library = tmp_path / "_cuda.so"
    subprocess.run(build_cuda.command(build_cuda.find_nvcc(), library, ["75"]), check=True)
    monkeypatch.setattr(cuda_library, "path", lambda: library)
    status = cuda.status()
    assert status.compiled
    if not status.usable:
        assert status.text.startswith("CUDA: compiled, never run on a GPU here; cudaGetDeviceCount")
    linked = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True)
    assert not re.search("libcudart|libtorch|libpython", linked.stdout)
