"""Pictures of image retrieval: precision-recall curves, and the nearest images of some queries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindesc.files import atomic_path
from bindesc.matching import nearest

_QUERIES = 10
_NEAREST = 10


def draw_precision_recall(
    path: Path, histograms: Mapping[str, NDArray[np.int64]], title: str
) -> None:
    """Write a curve a row: precision and recall of all images up to each Hamming distance.

    Args:
        path: of the PNG.
        histograms: see :func:`benchmarks.ranking.distance_histogram`, by label.
        title: one line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for label, histogram in histograms.items():
        wrong, right = np.cumsum(histogram, axis=1)
        filled = right > 0
        recall = right[filled] / right[-1]
        axes.plot(recall, right[filled] / (right + wrong)[filled], label=label)
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_neighbours(
    path: Path,
    queries: NDArray[np.uint8],
    database: NDArray[np.uint8],
    codes: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> None:
    """Write the first queries and the ten nearest images of each, a block a row of the table.

    Args:
        path: of the PNG.
        queries: ``(Q, 32, 32, 3)`` uint8.
        database: ``(N, 32, 32, 3)`` uint8.
        codes: of queries and database, by label.
    """
    from matplotlib.figure import Figure

    if not codes:
        return
    figure = Figure(figsize=(4 * len(codes), 4), layout="constrained")
    for axes, (label, (asked, there)) in zip(
        figure.subplots(1, len(codes), squeeze=False)[0], codes.items(), strict=True
    ):
        found = nearest(asked[:_QUERIES], there, _NEAREST).index
        gap = np.full((32, 16, 3), 255, np.uint8)
        rows = [
            np.hstack([query, gap, *database[indices]])
            for query, indices in zip(queries, found, strict=False)
        ]
        axes.imshow(np.vstack(rows))
        axes.set_title(label, fontsize="small")
        axes.set_axis_off()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
