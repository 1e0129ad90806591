"""Pictures of a verification test: ROC curves and histograms of distances. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bindesc.files import atomic_path

_CURVE_POINTS = 500
_COLUMNS = 4


class Distances(NamedTuple):
    """Distances of the pairs that match, ``(n,)``, and of those that do not, ``(m,)``."""

    matched: NDArray
    unmatched: NDArray


def roc_curve(distances: Distances) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rate at thresholds spread over all distances, ``(T,)`` each."""
    matched, unmatched = np.sort(distances.matched), np.sort(distances.unmatched)
    thresholds = np.unique(np.concatenate(distances))
    if len(thresholds) > _CURVE_POINTS:
        thresholds = np.quantile(thresholds, np.linspace(0, 1, _CURVE_POINTS))
    rates = [np.searchsorted(d, thresholds, side="right") / len(d) for d in (unmatched, matched)]
    return rates[0], rates[1]


def draw_roc(path: Path, title: str, rows: Mapping[str, Distances]) -> None:
    """Write the ROC curves of all rows into one PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for index, (label, distances) in enumerate(rows.items()):
        false, true = roc_curve(distances)
        # Ten colours, so the second ten rows are dashed.
        style = "-" if index < 10 else "--"
        axes.plot(false, true, style, color=f"C{index % 10}", label=label)
    axes.axhline(0.95, color="grey", linewidth=0.8, linestyle=":")
    axes.set(
        title=title,
        xlim=(0, 0.6),
        ylim=(0.6, 1.002),
        xlabel="non-matches accepted",
        ylabel="matches accepted",
    )
    axes.legend(loc="lower right", fontsize="small")
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def draw_histograms(path: Path, title: str, rows: Mapping[str, Distances]) -> None:
    """Write one histogram a row, of matching and other pairs, into one PNG."""
    from matplotlib.figure import Figure

    lines = -(-len(rows) // _COLUMNS)
    columns = min(len(rows), _COLUMNS)
    figure = Figure(figsize=(3 * columns, 2.2 * lines), layout="constrained")
    cells = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (label, distances) in zip(cells, rows.items(), strict=False):
        highest = max(d.max() for d in distances)
        bins = np.linspace(0, highest, 60)
        if np.issubdtype(distances.matched.dtype, np.integer):
            bins = np.arange(0, highest + 2, max(1, highest // 60)) - 0.5
        for values, name in zip(distances, ("match", "other"), strict=True):
            axes.hist(values, bins=bins, alpha=0.6, density=True, label=name)
        axes.set_title(label, fontsize="small")
        axes.set_yticks([])
    for axes in cells[len(rows) :]:
        axes.set_axis_off()
    cells[0].legend(fontsize="small")
    figure.suptitle(f"{title}: distances of pairs of patches")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
