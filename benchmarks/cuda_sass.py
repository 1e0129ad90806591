"""Instructions that a GPU spends on one pair of 256-bit codes, and the rate that follows from them.

Compiles the matcher's kernel for each architecture, disassembles it and counts the instructions of
its inner loop by the unit that executes them. The rate of a GPU is that of its busiest unit, by the
documented rates of CUDA's Best Practices Guide ("Throughput of Native Arithmetic Instructions").
Nothing is run; these are upper bounds.

Run ``python -m benchmarks.cuda_sass --save``; it needs nvcc and nvdisasm (of the CUDA toolkit, or
``pip install nvidia-cuda-nvdisasm`` and ``--nvdisasm``).
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from .common import write_results

SOURCES = Path(__file__).resolve().parents[1] / "cuda_ext"
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")
POPCOUNTS = 4  # of a pair
KERNEL = "search_kernelILi8ELi4ELb1ENS0_10TwoNearestE"

# Results a clock and multiprocessor. Integer addition and minimum are twice as fast on 10.0 and
# later; "issue" is the four schedulers, which start one warp instruction a clock each.
RATES = {"popcount": 16, "logic": 64, "multiply-add": 64, "shared memory": 32, "issue": 128}
OPCODES = {
    "popcount": {"POPC", "REDUX"},
    "logic": {"LOP3", "SHF", "SEL", "PRMT", "PLOP3", "LEA", "ISETP"},
    "add, minimum": {"IADD3", "VIADD", "IADD", "IMNMX", "VIMNMX", "VIMNMX3", "VIADDMNMX"},
    "multiply-add": {"IMAD", "FFMA"},
    "shared memory": {"LDS", "STS", "SHFL", "ATOMS"},
}
# Multiprocessors and boost clock in GHz, of NVIDIA's data sheets.
GPUS = {
    "T4": ("75", 40, 1.59),
    "A100": ("80", 108, 1.41),
    "RTX 3090": ("86", 82, 1.70),
    "RTX 4090": ("89", 128, 2.52),
    "H100 SXM": ("90", 132, 1.98),
    "RTX 5090": ("120", 170, 2.41),
}


def inner_loop(sass: str) -> list[str]:
    """The opcodes of the innermost loop with the most popcounts."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    best: list[str] = []
    for line in sass.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(opcodes)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9]*)", line):
            opcodes.append(found[1])
            jump = re.search(r"BRA\S*\s.*`\((\.L_x_\d+)\)", line)
            start = labels.get(jump[1]) if jump else None
            if start is not None:
                body = opcodes[start:]
                inner = body.count("BRA") <= 2  # its own jump, and one of a divergent warp
                if inner and body.count("POPC") > best.count("POPC"):
                    best = body
    if not best:
        raise ValueError("no loop with popcounts found")
    return best


def count(architecture: str, nvcc: str, nvdisasm: str) -> dict[str, float]:
    """Instructions a pair, by opcode."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = str(Path(folder, "hamming.cubin"))
        command = [nvcc, "-O3", "-std=c++17", f"-arch=sm_{architecture}", "-cubin", "-o", cubin]
        subprocess.run([*command, str(SOURCES / "hamming.cu")], check=True)
        listing = subprocess.run(
            [nvdisasm, "-c", cubin], check=True, capture_output=True, text=True
        )
    (section,) = (s for s in listing.stdout.split("\n.text.")[1:] if KERNEL in s.split(":", 1)[0])
    loop = inner_loop(section)
    pairs = loop.count("POPC") / POPCOUNTS
    return {name: number / pairs for name, number in collections.Counter(loop).most_common()}


def clocks(architecture: str, opcodes: dict[str, float]) -> dict[str, float]:
    """Clocks a pair that each unit of a multiprocessor is busy."""
    load = {unit: sum(opcodes.get(o, 0) for o in members) for unit, members in OPCODES.items()}
    adds = load.pop("add, minimum")
    busy = {unit: number / RATES[unit] for unit, number in load.items()}
    if int(architecture) >= 100:
        busy["add, minimum"] = adds / 128
    else:
        busy["logic"] += adds / RATES["logic"]  # the same unit
    busy["issue"] = sum(opcodes.values()) / RATES["issue"]
    return busy


def main() -> None:
    """Count, print and, if asked, save."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nvcc", default=os.environ.get("NVCC", "nvcc"))
    parser.add_argument("--nvdisasm", default="nvdisasm")
    parser.add_argument("--save", action="store_true", help="write results/cuda_sass.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for architecture in ARCHITECTURES:
        opcodes = count(architecture, options.nvcc, options.nvdisasm)
        busy = clocks(architecture, opcodes)
        limit = max(busy, key=lambda unit: busy[unit])
        rates = {
            name: round(processors * clock / busy[limit])
            for name, (of, processors, clock) in GPUS.items()
            if of == architecture
        }
        total = sum(opcodes.values())
        print(f"sm_{architecture}: {total:.1f} instructions a pair, limit {limit}", end="")
        print(f" {busy[limit]:.3f} clocks", *(f"; {n} {r} G pairs/s" for n, r in rates.items()))
        rows.append(
            {
                "architecture": f"sm_{architecture}",
                "instructions": round(total, 2),
                "opcodes": {name: round(number, 3) for name, number in opcodes.items()},
                "clocks": {unit: round(number, 4) for unit, number in busy.items()},
                "limit": limit,
                "bound_gpairs_per_second": rates,
            }
        )
    if options.save:
        release = subprocess.run([options.nvcc, "--version"], capture_output=True, text=True)
        version = re.search(r"release ([\d.]+)", release.stdout)
        print(write_results("cuda_sass", rows, nvcc=version[1] if version else "unknown"))


if __name__ == "__main__":
    main()
