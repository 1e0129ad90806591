"""What running the network in integers costs: bits that change, and FPR@95 before and after.

On the pairs of ``oxford_affine`` that :mod:`benchmarks.brown_fpr95` uses. Run
``python -m benchmarks.quantisation --save``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bindesc.extractor import DEFAULT_MODEL
from bindesc.packing import pack_bits, unpack_bits
from bindesc.patches import PATCH_SIDE
from bindesc.runtime import Runtime
from bindesc.training.scores import false_positive_rate, pair_distances
from bindesc.weights import load_model

from .brown_fpr95 import oxford_pairs
from .command import command
from .common import write_results
from .datasets import data_folder
from .render_tables import markdown


@torch.inference_mode()
def describe_in_floats(model: str, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The codes of the stored float network."""
    network: Any = load_model(model)[0]
    network = network.for_inference()
    parts = torch.from_numpy(patches)[:, None].split(256)
    return pack_bits(torch.cat([network(part.float()) >= 0 for part in parts]).numpy())


@command("quantisation")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantisation", description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="(%(default)s)")
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/quantisation.json"
    )
    options = parser.parse_args(arguments)
    test = oxford_pairs(data_folder())
    runtime = Runtime(options.model)
    patches = test.cut(runtime.support, None if runtime.log_polar else PATCH_SIDE)
    patches, _ = runtime.adapt(patches, np.ones(len(patches), bool))
    codes = {
        "float32": describe_in_floats(options.model, patches),
        "int8": runtime.encode(patches),
    }
    rates = {}
    for name, code in codes.items():
        distance = pair_distances(code[test.pairs[:, 0]], code[test.pairs[:, 1]])
        rates[name] = false_positive_rate(distance[test.same], distance[~test.same])
    changed = float((unpack_bits(codes["float32"]) != unpack_bits(codes["int8"])).mean())
    table: dict[str, list] = {
        "header": ["network", "bits that differ", "FPR@95"],
        "rows": [
            ["float32", "-", f"{rates['float32']:.1%}"],
            ["int8", f"{changed:.2%}", f"{rates['int8']:.1%}"],
        ],
    }
    print(markdown(table["header"], table["rows"]))
    if options.save:
        row = {"model": options.model, "patches": len(patches), "changed": changed, **rates}
        write_results("quantisation", [row], libraries=("torch",), table=table)


if __name__ == "__main__":
    sys.exit(main())
