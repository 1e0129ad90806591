import sys
from pathlib import Path

import nanobind
from setuptools import Extension, setup

sys.path.insert(0, str(Path(__file__).parent / "cuda_ext"))
from build_cuda import BuildWithCuda, cuda_extension

NANOBIND = Path(nanobind.include_dir()).parent


def cpu_extension() -> Extension:
    """The CPU matcher. Every file builds everywhere; one for another processor is empty."""
    sources = [*sorted(Path("cuda_ext").glob("cpu_*.cpp")), "cuda_ext/bindings.cpp"]
    flags = ["/std:c++17", "/O2", "/EHsc"]
    if sys.platform != "win32":
        flags = ["-std=c++17", "-O3", "-fvisibility=hidden", "-fno-strict-aliasing", "-pthread"]
        flags.append("-ffp-contract=off")  # a fused multiply-add would round otherwise
    return Extension(
        "bindesc._cpu",
        [*map(str, sources), str(NANOBIND / "src" / "nb_combined.cpp")],
        depends=[str(header) for header in sorted(Path("cuda_ext").glob("*.h"))],
        include_dirs=[nanobind.include_dir(), str(NANOBIND / "ext" / "robin_map" / "include")],
        define_macros=[("NDEBUG", None), ("NB_COMPACT_ASSERTIONS", None)],
        extra_compile_args=flags,
        language="c++",
    )


setup(
    ext_modules=[cpu_extension(), cuda_extension()],
    cmdclass={"build_ext": BuildWithCuda},
    name="bindesc",
    version="0.1.0",
    packages=["bindesc", "bindesc.models", "bindesc.training"],
    package_data={"bindesc": ["py.typed", "_cpu.pyi", "weights/*"]},
    python_requires=">=3.10",
    install_requires=["numpy>=1.24", "scipy>=1.10", "torch>=2.3", "safetensors>=0.4", "tqdm>=4.60"],
    # None of the four OpenCV wheels is required, because two of them in one environment clash.
    extras_require={
        "opencv": ["opencv-python>=4.8"],
        "opencv-headless": ["opencv-python-headless>=4.8"],
        "viz": ["scikit-image>=0.20", "matplotlib>=3.7"],
        "h5": ["h5py>=3.8"],
        "onnx": ["onnx>=1.15"],
        "sfm": ["matplotlib>=3.7", "pycolmap>=4.0"],
        "faiss": ["faiss-cpu>=1.7.4"],
        "benchmarks": [
            "faiss-cpu>=1.7.4",
            "kornia>=0.7",
            "matplotlib>=3.7",
            "onnxruntime>=1.16",
            "openvino>=2024.0",
            "pycolmap>=4.0",
            "scikit-image>=0.20",
        ],
        "dev": [
            "cmake>=3.16",
            "h5py>=3.8",
            "hypothesis>=6.100",
            "matplotlib>=3.7",
            "mypy>=1.11",
            "onnx>=1.15",
            "pycolmap>=4.0",
            "pytest>=8",
            "ruff>=0.6",
            "scikit-image>=0.20",
        ],
    },
    entry_points={"console_scripts": ["bindesc = bindesc.cli:main"]},
)
