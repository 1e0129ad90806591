"""Compiles the CUDA part for tests: for a simulated device with g++, and for GPUs with nvcc."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "cuda_ext"
sys.path.insert(0, str(SOURCES))
import build_cuda  # noqa: E402

SHUFFLES, REDUCTIONS = 750, 900  # what the kernel takes a minimum over a warp with

_COMPILER = shutil.which("g++") or shutil.which("c++")
NO_COMPILER = "" if _COMPILER else "no C++ compiler: the kernels cannot run on a simulated device"
NO_NVCC = "" if build_cuda.find_nvcc() else "no nvcc: nothing is compiled for GPUs here"


def simulate(
    output: Path, *extra: str, architecture: int = REDUCTIONS, sources: Path = SOURCES
) -> Path:
    """The launcher and its kernels for the simulated device, as a library or, with more, a program.

    Args:
        output: the file to make.
        extra: flags, and sources to add.
        architecture: what ``__CUDA_ARCH__`` says.
        sources: a copy of ``cuda_ext``.
    """
    command = [
        str(_COMPILER),
        "-std=c++17",
        "-O1",
        "-g",
        *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
        f"-D__CUDA_ARCH__={architecture}",
        f"-I{sources / 'simt'}",
        *("-x", "c++", str(sources / "hamming.cu")),
        *extra,
        *("-o", str(output)),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return output


def nvcc(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the CUDA compiler on the launcher and its kernels."""
    command = [str(build_cuda.find_nvcc()), *build_cuda.FLAGS, *arguments]
    done = subprocess.run(
        [*command, str(SOURCES / "hamming.cu")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done
