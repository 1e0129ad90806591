"""What every benchmark script shares: checked, interleaved timing and results as JSON.

A contender is checked before it is timed, so a table never holds the time of a wrong answer.
Contenders take turns, so a disturbance hits all of them alike. A turn is one call, or as many as
take 20 ms, of which the mean counts, after as many that do not: a short call is timed in its own
stride, not in the caches that another contender left, nor beside its threads, which spin for a
while when they are done.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bindesc import _cpu
from bindesc.files import atomic_path

_TURN = 0.02  # seconds
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        run: does the job once and returns its result.
        check: is given that result once, before any timing, and raises if it is wrong.
    """

    run: Callable[[], Any]
    check: Callable[[Any], None]


@dataclass(frozen=True)
class Timing:
    """Repeated wall-clock times of one contender, in seconds.

    Attributes:
        median: the median.
        q1: the lower quartile; ``q3 - q1`` is the interquartile range.
        q3: the upper quartile.
        best: the shortest time.
        repeats: the number of timed turns.
    """

    median: float
    q1: float
    q3: float
    best: float
    repeats: int

    @staticmethod
    def of(seconds: list[float]) -> Timing:
        """Summarise a list of at least one time."""
        if len(seconds) == 1:
            q1 = median = q3 = seconds[0]
        else:
            q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
        return Timing(median, q1, q3, min(seconds), len(seconds))


def measure(
    contenders: Mapping[str, Contender],
    *,
    repeats: int = 7,
    budget: float = 5.0,
) -> dict[str, Timing]:
    """Check every contender, then time them in turns.

    Args:
        contenders: what to time, by name.
        repeats: turns of each, at least 1.
        budget: seconds a contender may use for its turns; it leaves the rounds early, with the
            turns made so far, once they have taken longer.

    Returns:
        The times of a call by name, in the order given. The call that is checked also says how many
        make a turn, and does not count. Nor do as many calls before each turn of several.

    Raises:
        ValueError: ``repeats`` is below 1.
        Exception: whatever a check raises.
    """
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}")
    calls = {}
    for name, contender in contenders.items():
        start = time.perf_counter()
        result = contender.run()
        calls[name] = math.ceil(_TURN / (time.perf_counter() - start))
        contender.check(result)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            if sum(seconds[name]) * calls[name] <= budget:
                if calls[name] > 1:
                    _time(contender.run, calls[name])
                seconds[name].append(_time(contender.run, calls[name]))
    return {name: Timing.of(times) for name, times in seconds.items()}


def _time(run: Callable[[], Any], calls: int) -> float:
    """Mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def machine() -> dict[str, Any]:
    """The processor, the cores this process may use, the system and the time of the run."""
    return {
        "processor": _processor(),
        "instructions": _cpu.isa(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def timed_as(name: str) -> str:
    """What a table of times is called: those without AVX-512 are tables of their own."""
    return name if _cpu.isa() == "avx512" else f"{name}_{_cpu.isa()}"


def versions(*distributions: str) -> dict[str, str]:
    """Of NumPy, of OpenCV, which several distributions install, and of each distribution.

    One that is missing is "not installed".
    """
    found = {"numpy": np.__version__, "opencv": cv2.__version__}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def write_results(
    name: str, rows: list[dict[str, Any]], *, libraries: tuple[str, ...] = (), **extra: Any
) -> Path:
    """Write one table to ``benchmarks/results/<name>.json``, whole or not at all.

    Args:
        name: the table's name, without a suffix.
        rows: the table's rows; a :class:`Timing` value is written as its fields.
        libraries: distributions whose versions are saved too.
        extra: further top-level entries, such as the settings of the run.

    Returns:
        The path written.
    """
    document = {
        "machine": machine(),
        "versions": versions(*libraries),
        **extra,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(document, indent=1, default=asdict) + "\n")
    return path


def _processor() -> str:
    """The processor's own name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
