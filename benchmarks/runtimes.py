"""One network in several runtimes: 1000 patches, two threads each.

bindesc's own core runs it in integers, by the best instruction set and by lesser ones; the others
run its float weights from the ONNX file that ``bindesc export`` writes. ONNX Runtime and OpenVINO
are timed where they are installed. Run ``python -m benchmarks.runtimes --save``.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from bindesc import _cpu
from bindesc.detectors import create_detector, detect, to_arrays
from bindesc.extractor import DEFAULT_MODEL
from bindesc.onnx_export import export_onnx
from bindesc.packing import pack_bits, unpack_bits
from bindesc.runtime import Runtime
from bindesc.weights import load_model

from .common import Contender, measure, timed_as, write_results
from .photos import vga_photo

THREADS = 2
COUNT = 1000
_MOST_CHANGED = 0.03  # of the bits: bfloat16 and integers round

Describe = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def with_isa(describe: Describe, isa: str) -> Describe:
    """The core of bindesc by another instruction set."""

    def limited(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        os.environ["BINDESC_ISA"] = isa
        try:
            return describe(patches)
        finally:
            del os.environ["BINDESC_ISA"]

    return limited


def with_torch(dtype: torch.dtype) -> Describe:
    """The float network in torch."""
    loaded: Any = load_model(DEFAULT_MODEL)[0]
    network = loaded.for_inference().to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def describe(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return pack_bits((network(torch.from_numpy(patches)[:, None].float()) >= 0).numpy())

    return describe


def with_opencv(path: Path) -> Describe:
    """The ONNX file in cv2.dnn."""
    network = cv2.dnn.readNetFromONNX(str(path))

    def describe(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        network.setInput(patches[:, None].astype(np.float32))
        return pack_bits(network.forward() >= 0)

    return describe


def with_onnxruntime(path: Path) -> Describe:
    """The ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def describe(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        (values,) = session.run(None, {"patches": patches[:, None].astype(np.float32)})
        return pack_bits(values >= 0)

    return describe


def with_openvino(path: Path) -> Describe:
    """The ONNX file in OpenVINO, which chooses the precision itself."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": THREADS}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)

    def describe(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return pack_bits(compiled(patches[:, None].astype(np.float32))[0] >= 0)

    return describe


def main() -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runtimes", description=__doc__)
    parser.add_argument(
        "--save",
        action="store_true",
        help="write benchmarks/results/runtimes.json, runtimes_avx2.json without AVX-512",
    )
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)
    gray = vga_photo()
    runtime = Runtime(DEFAULT_MODEL)
    xy, size, angle, _ = to_arrays(detect(create_detector("orb", COUNT), gray, None, COUNT))
    patches, _ = runtime.cut(gray, xy, size, angle, scale=runtime.support)
    patches, _ = runtime.adapt(patches)
    expected = unpack_bits(with_torch(torch.float32)(patches))

    def check(found: NDArray[np.uint8]) -> None:
        changed = (unpack_bits(found) != expected).mean()
        if changed > _MOST_CHANGED:
            raise AssertionError(f"{changed:.1%} of the bits differ from torch's")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(DEFAULT_MODEL, path)
        ways: dict[str, Describe] = {
            "bindesc, int8": runtime.encode,
            **{
                f"bindesc, int8 by {isa}": with_isa(runtime.encode, isa)
                for isa, usable in _cpu.isas().items()
                if usable and isa not in (_cpu.isa(), "scalar")
            },
            "torch, float32": with_torch(torch.float32),
            "torch, bfloat16": with_torch(torch.bfloat16),
            "cv2.dnn, float32": with_opencv(path),
        }
        for name, make in (("ONNX Runtime", with_onnxruntime), ("OpenVINO", with_openvino)):
            try:
                ways[f"{name}, float32"] = make(path)
            except ModuleNotFoundError as error:
                print(f"skipped {name}: {error}")
        contenders = {
            name: Contender(partial(describe, patches), check) for name, describe in ways.items()
        }
        times = measure(contenders, repeats=15, budget=4.0)
    cells = [[name, f"{time.median * 1e3:.1f} ms"] for name, time in times.items()]
    for name, cell in cells:
        print(f"{name:24} {cell:>9}")
    if options.save:
        rows = [{"name": name, "time": time} for name, time in times.items()]
        libraries = ("torch", "onnxruntime", "openvino")
        table = {"header": [f"{len(patches)} patches, {THREADS} threads", "median"], "rows": cells}
        write_results(timed_as("runtimes"), rows, libraries=libraries, threads=THREADS, table=table)


if __name__ == "__main__":
    main()
