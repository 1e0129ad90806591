"""Which shape of the compact network is worth its time.

Networks that ``bindesc train compact`` made with equal budgets, and the shipped one, by

- the time of 1000 patches of a 640x480 photo, in integers, on one thread and on two;
- the time of the whole ``detectAndCompute`` there, beside that of ``cv2.ORB`` in the same run;
- the mean correct matches a pair on the two sets that settings are chosen on (the protocol of
  :mod:`benchmarks.image_matching`), where ORB and TEBLID stand beside them;
- FPR@95 on the pairs of :mod:`benchmarks.brown_fpr95`: a test set, shown and not chosen by.

A network is on the Pareto front of a set if no other is as fast and matches more, or matches as
many and is faster. Run ``python -m benchmarks.pareto RUNS... --save``; a run is a model file, or a
folder that holds ``model.safetensors``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bindesc.extractor import DEFAULT_MODEL
from bindesc.models.compact import multiply_adds

from .brown_fpr95 import oxford_pairs, score
from .command import command
from .common import RESULTS, Timing, write_results
from .datasets import CHOSEN_ON, data_folder, scenes
from .image_matching import choose_descriptors, score_set
from .pareto_front import Point, draw_front, pareto_front
from .pareto_networks import Network, Times, read_networks, time_networks
from .patch_descriptors import model_rows
from .photos import vga_photo
from .render_tables import markdown

NAME = "pareto"
PEERS = ("orb", "teblid")
THREADS = (1, 2)
SHOWN = THREADS[-1]  # of detectAndCompute, of the picture and of the front


def correct_matches(networks: Sequence[Network], folder: Path) -> dict[str, dict[str, float]]:
    """Mean correct matches a pair of images, by label and set; the peers come first."""
    models = [f"{network.label}={network.path}" for network in networks]
    descriptors = choose_descriptors([*PEERS, "bindesc"], models)
    correct: dict[str, dict[str, float]] = {d.label: {} for d in descriptors}
    for name in CHOSEN_ON:
        for row in score_set(name, scenes(name, folder), descriptors, bound=False):
            correct[row.row][name] = row.correct
    return correct


def false_positive_rates(networks: Sequence[Network], folder: Path, pairs: int) -> dict[str, float]:
    """FPR@95 of ``pairs`` pairs of patches of each kind, by label; none of 0 pairs."""
    if not pairs:
        return {}
    test = oxford_pairs(folder, pairs, draws=1)
    rates = {}
    for network in networks:
        *_, of_squares = model_rows(network.label, network.path)
        rates[network.label] = score(test, of_squares)[0].fpr95
    return rates


def points_of(
    networks: Sequence[Network],
    times: Mapping[str, Times],
    correct: Mapping[str, Mapping[str, float]],
) -> list[Point]:
    """The networks as points of the picture."""
    points = []
    for network in networks:
        time = times[network.label].network
        assert time is not None  # only ORB has none
        of_sets = correct[network.label]
        points.append(Point(network.label, network.shape, 1e3 * time.median, of_sets))
    return points


def result_rows(
    networks: Sequence[Network],
    times: Mapping[int, Mapping[str, Times]],
    correct: Mapping[str, Mapping[str, float]],
    fpr95: Mapping[str, float],
) -> list[dict[str, Any]]:
    """What is saved: a row for each label of ``correct``, with what is known of it.

    Args:
        networks: the networks among the labels.
        times: by number of threads and label.
        correct: by label and set.
        fpr95: by label.
    """
    rows: dict[str, dict[str, Any]] = {
        label: {
            "label": label,
            "correct": of_sets,
            "fpr95": fpr95.get(label),
            "times": {str(n): times[n][label] for n in THREADS if label in times[n]},
        }
        for label, of_sets in correct.items()
    }
    for network in networks:
        rows[network.label] |= {
            "shape": network.shape,
            "multiply_adds": multiply_adds(network.config),
            "bytes": network.path.stat().st_size,
            "front": [],
            "command": network.command,
        }
    points = points_of(networks, times[SHOWN], correct)
    for name in CHOSEN_ON:
        values = [point.correct[name] for point in points]
        for index in pareto_front([point.time for point in points], values):
            rows[points[index].label]["front"].append(name)
    return list(rows.values())


def table(rows: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Header and rows of text; a star marks what is on the Pareto front of a set."""
    header = ["network", "channels / strides", "multiply-adds", "file"]
    header += [f"1000 patches, {n} thread{'s'[: n - 1]}" for n in THREADS]
    header += ["detectAndCompute", *CHOSEN_ON, "FPR@95 (test)"]
    cells = []
    for row in rows:
        times = [row["times"].get(str(n)) for n in THREADS]
        networks = [None if time is None else time.network for time in times]
        whole = None if times[-1] is None else times[-1].whole
        front = row.get("front", ())
        cells.append(
            [
                row["label"],
                row.get("shape", "-"),
                f"{row['multiply_adds'] / 1e6:.1f} M" if "multiply_adds" in row else "-",
                f"{row['bytes'] / 1e6:.1f} MB" if "bytes" in row else "-",
                *map(_milliseconds, [*networks, whole]),
                *(f"{row['correct'][s]:.1f}{' *' if s in front else ''}" for s in CHOSEN_ON),
                "-" if row["fpr95"] is None else f"{row['fpr95']:.1%}",
            ]
        )
    return {"header": header, "rows": cells}


@command(NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = _parser().parse_args(arguments)
    folder = data_folder()
    networks = read_networks(options.models)
    gray = vga_photo()
    times = {n: time_networks(networks, gray, n, options.repeats) for n in THREADS}
    correct = correct_matches(networks, folder)
    fpr95 = false_positive_rates(networks, folder, options.pairs)
    rows = result_rows(networks, times, correct, fpr95)
    shown = table(rows)
    print(markdown(shown["header"], shown["rows"]))
    if options.save:
        settings = {"repeats": options.repeats, "pairs": options.pairs}
        written = write_results(NAME, rows, settings=settings, table=shown)
        points = points_of(networks, times[SHOWN], correct)
        ours = {point.label for point in points}
        peers = {label: of_sets for label, of_sets in correct.items() if label not in ours}
        picture = RESULTS / f"{NAME}.png"
        time_label = f"ms for 1000 patches, {SHOWN} threads"
        draw_front(picture, points, peers, DEFAULT_MODEL, time_label)
        print(f"wrote {written} {picture}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pareto",
        description="Which shape of the compact network is worth its time.",
    )
    parser.add_argument(
        "models", nargs="*", type=Path, help="model files, or folders of runs; 'compact' is added"
    )
    parser.add_argument("--repeats", type=int, default=15, help="timed turns (%(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=4000, help="of FPR@95, of each kind; 0: none (%(default)s)"
    )
    parser.add_argument(
        "--save", action="store_true", help=f"write benchmarks/results/{NAME}.json and .png"
    )
    return parser


def _milliseconds(time: Timing | None) -> str:
    return "-" if time is None else f"{time.median * 1e3:.1f} ms"


if __name__ == "__main__":
    sys.exit(main())
