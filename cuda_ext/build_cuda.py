"""Builds the CUDA part, a plain C library, with nvcc; where that fails the package goes without.

Environment:
    BINDESC_CUDA: 0 skips the CUDA part, 1 makes its absence an error; unset builds it if it can.
    BINDESC_CUDA_ARCHS: architectures, such as ``80 90``; by default all of ``ARCHITECTURES`` that
        nvcc knows. PTX of the last one is added, for newer GPUs.
    NVCC: the compiler; by default the one of CUDA_HOME, then of PATH, then of /usr/local/cuda.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

FOLDER = Path("cuda_ext")
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "103", "120")
FLAGS = ("-O3", "-std=c++17")


def find_nvcc() -> str | None:
    """The CUDA compiler, or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = (
        os.environ.get("NVCC"),
        str(Path(home, "bin", "nvcc")) if home else None,
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
    )
    return next((path for path in candidates if path and os.access(path, os.X_OK)), None)


def architectures(nvcc: str) -> list[str]:
    """What to compile for, oldest first: the architectures asked for, or all that nvcc knows.

    Raises:
        ValueError: nvcc does not know one that was asked for.
    """
    listed = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True)
    known = {line.removeprefix("sm_") for line in listed.stdout.split()}
    asked = os.environ.get("BINDESC_CUDA_ARCHS", "").replace(",", " ").replace(";", " ").split()
    asked = [name.removeprefix("sm_") for name in asked]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise ValueError(f"BINDESC_CUDA_ARCHS: this nvcc has no {', '.join(unknown)}")
    return sorted(asked or known.intersection(ARCHITECTURES), key=int)


def command(nvcc: str, output: Path, targets: list[str]) -> list[str]:
    """The call of nvcc that makes the library for all targets."""
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in targets]
    newest = targets[-1]
    return [
        nvcc,
        *FLAGS,
        *codes,
        f"-gencode=arch=compute_{newest},code=compute_{newest}",
        "--threads=0",
        *("-shared", "-cudart=static", "-Xcompiler=-fPIC", "-Xlinker=--exclude-libs,ALL"),
        str(FOLDER / "hamming.cu"),
        *("-o", str(output)),
    ]


def cuda_extension() -> Extension:
    """The CUDA part; ``optional`` because the package works without it."""
    used = [*FOLDER.glob("*.cuh"), FOLDER / "hamming_cuda.h", FOLDER / "build_cuda.py"]
    return Extension(
        "bindesc._cuda",
        [str(FOLDER / "hamming.cu")],
        depends=[str(path) for path in sorted(used)],
        optional=os.environ.get("BINDESC_CUDA") != "1",
    )


class BuildWithCuda(build_ext):
    """Builds ``bindesc._cuda`` with nvcc, and everything else as usual."""

    def build_extensions(self) -> None:
        """Leave out the CUDA part where it was declined or there is no nvcc."""
        wanted = os.environ.get("BINDESC_CUDA", "")
        if wanted == "0" or (wanted != "1" and find_nvcc() is None):
            self.extensions = [e for e in self.extensions if e.name != "bindesc._cuda"]
        super().build_extensions()

    def build_extension(self, ext: Extension) -> None:
        """Run nvcc for the CUDA part."""
        if ext.name != "bindesc._cuda":
            super().build_extension(ext)
            return
        try:
            self._run_nvcc(Path(self.get_ext_fullpath(ext.name)))
        except (RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as error:
            if not ext.optional:
                raise
            self.warn(f"the CUDA part is not built: {error}")

    def _run_nvcc(self, output: Path) -> None:
        nvcc = find_nvcc()
        if nvcc is None:
            raise RuntimeError("BINDESC_CUDA=1, but there is no nvcc on PATH, in CUDA_HOME or NVCC")
        output.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(command(nvcc, output, architectures(nvcc)), check=True)
