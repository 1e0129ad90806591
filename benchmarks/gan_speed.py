"""Images a second and peak memory of BinGAN's whole training step: discriminator, then generator.

Each configuration runs in a process of its own, so that its peak is its own. A step is checked
before it is timed: its losses are those of networks that have just been initialised from data. Run
``python -m benchmarks.gan_speed --save``; with ``--device cuda`` it writes ``gan_speed_cuda.json``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from bindesc.training.gan_step import Gan, GanConfig
from bindesc.training.memory import keep_freed_memory

from .common import Timing, write_results

THREADS = 2
_BATCHES = {"cpu": (25, 50), "cuda": (25, 100)}
_WARM_UP = 2  # steps that are not timed
_TOLERANCE = 0.2  # of the discriminator's first loss, relative


def time_steps(batch: int, dtype: str, device: str, repeats: int) -> dict[str, Any]:
    """Time the steps of a configuration in this process.

    Args:
        batch: patches of data, and generated ones, in a step.
        dtype: of the convolutions.
        device: a torch device; reading the losses waits for it.
        repeats: timed steps.

    Returns:
        ``batch``, ``dtype``, ``step`` (:class:`Timing`, seconds), ``images`` a second by the
        median, and ``peak``, the largest memory in MiB: of the process, or of torch on a GPU.
    """
    torch.set_num_threads(THREADS)
    keep_freed_memory()  # as training does
    patches = np.random.default_rng(0).integers(0, 256, (20 * batch, 32, 32), np.uint8)
    config = GanConfig(batch=batch, bfloat16=dtype == "bfloat16")
    gan = Gan(config, device)
    gan.initialise(patches[:100], discriminator=True)
    seconds = []
    for number in range(_WARM_UP + repeats):
        real = patches[number * batch % (10 * batch) :][:batch]
        start = time.perf_counter()
        losses = gan.discriminator_step(real) | gan.generator_step(real)
        seconds.append(time.perf_counter() - start)
        if number == 0:
            _check(losses, config)
    step = Timing.of(seconds[_WARM_UP:])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    images = batch / step.median
    return {"batch": batch, "dtype": dtype, "step": step, "images": images, "peak": peak}


def _check(losses: dict[str, float], config: GanConfig) -> None:
    """The first step's losses are finite, the discriminator's that of logits near zero."""
    if not np.isfinite(list(losses.values())).all():
        raise AssertionError(f"{config}: {losses}")
    untrained = np.log(3) - np.log(2) / 2
    if abs(losses["D"] / untrained - 1) > _TOLERANCE:
        raise AssertionError(f"the first loss is {losses['D']:.3f}, expected {untrained:.3f}")


def main() -> None:
    """Print the table, and save it if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gan_speed", description=__doc__)
    parser.add_argument(
        "--save", action="store_true", help="write benchmarks/results/gan_speed.json"
    )
    parser.add_argument("--device", choices=_BATCHES, default="cpu", help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=11, help="timed steps (%(default)s)")
    parser.add_argument("--one", nargs=2, metavar=("BATCH", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        row = time_steps(int(options.one[0]), options.one[1], options.device, options.repeats)
        print(json.dumps(row, default=asdict))
        return
    rows = []
    dtypes = ("float32", "bfloat16")
    for batch, dtype in itertools.product(_BATCHES[options.device], dtypes):
        command = [sys.executable, "-m", "benchmarks.gan_speed", "--repeats", str(options.repeats)]
        command += ["--device", options.device, "--one", str(batch), dtype]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        print(f"batch {batch} {dtype:9} {row['images']:6.1f} images/s {row['peak']:6.0f} MiB")
    if options.save:
        cells = [
            [
                f"batch of {row['batch']}, {row['dtype']}",
                f"{row['step']['median'] * 1e3:.4g} ms",
                f"{row['images']:,.1f}",
                f"{row['peak']:.0f} MiB",
            ]
            for row in rows
        ]
        where = f"{THREADS} threads"
        if options.device == "cuda":
            where = torch.cuda.get_device_name()
        header = [f"BinGAN's step, {where}", "median", "images a second", "peak memory"]
        table = {"header": header, "rows": cells}
        name = "gan_speed" if options.device == "cpu" else f"gan_speed_{options.device}"
        write_results(name, rows, libraries=("torch",), threads=THREADS, table=table)


if __name__ == "__main__":
    main()
