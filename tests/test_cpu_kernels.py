"""The C++ kernels against a plain loop, under the sanitizers and on another processor."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from bindesc.threads import in_parallel

ROOT = Path(__file__).parents[1]
SOURCES = sorted(map(str, (ROOT / "cuda_ext").glob("cpu_*.cpp")))
DRIVER = str(ROOT / "tests" / "cpu_kernels.cpp")


def build(compiler, out, *flags):
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = [compiler, "-std=c++17", *warnings, *flags, f"-I{ROOT / 'cuda_ext'}", "-pthread"]

    def compiled(source):
        target = out.with_name(f"{Path(source).stem}.o")
        run(*command, "-c", source, "-o", target)
        return target

    run(*command, *in_parallel(compiled, [*SOURCES, DRIVER]), "-o", out)
    return out


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# GCC takes minutes to optimise the code that the address sanitizer adds.
@pytest.mark.parametrize(("sanitizer", "level"), [("address,undefined", "-O0"), ("thread", "-O1")])
def test_sanitizers(tmp_path, sanitizer, level):
    flags = level, "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all"
    assert "scalar ok" in run(build("g++", tmp_path / "driver", *flags))


def test_neon_in_an_emulator(tmp_path):
    driver = build("aarch64-linux-gnu-g++", tmp_path / "driver", "-O2", "-static")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("compiled, not run: no qemu-aarch64")
    assert {"neondot ok", "neon ok"} <= set(run(emulator, "-cpu", "max", driver).splitlines())
    # Without the products of bytes.
    older = run(emulator, "-cpu", "cortex-a57", driver).splitlines()
    assert "neon ok" in older and "neondot ok" not in older


@pytest.mark.parametrize(
    "source", sorted(p.stem for p in (ROOT / "cuda_ext").glob("cpu_*avx*.cpp"))
)
def test_kernels_share_no_inline_function(tmp_path, source):
    """Else the linker might keep the copy that needs instructions this processor lacks."""
    out = tmp_path / "kernel.o"
    run("g++", "-std=c++17", "-O0", "-c", str(ROOT / "cuda_ext" / f"{source}.cpp"), "-o", str(out))
    symbols = run("nm", "-C", str(out))
    assert "avx" in symbols
    assert [line for line in symbols.splitlines() if " W " in line] == []
