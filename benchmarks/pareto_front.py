"""Which networks are worth their time: those that no faster one equals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bindesc.files import atomic_path


@dataclass(frozen=True)
class Point:
    """One network: its shape in words, its time in ms, and its correct matches by set."""

    label: str
    shape: str
    time: float
    correct: Mapping[str, float]


def pareto_front(times: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices of what nothing beats: no other is as fast and better, or as good and faster.

    Args:
        times: lower is better.
        values: as many; higher is better.

    Returns:
        The indices by rising time. Equals are all in or all out.
    """
    points = list(zip(times, values, strict=True))

    def beaten(index: int) -> bool:
        mine = points[index]
        return any(p != mine and p[0] <= mine[0] and p[1] >= mine[1] for p in points)

    return sorted((i for i in range(len(points)) if not beaten(i)), key=lambda i: points[i])


def draw_front(
    path: Path,
    points: Sequence[Point],
    peers: Mapping[str, Mapping[str, float]],
    shipped: str,
    time_label: str,
) -> None:
    """Write correct matches against time into one PNG, a panel a set.

    Args:
        path: of the PNG.
        points: the networks, one at least.
        peers: correct matches by set of what is drawn as a horizontal line, by label.
        shipped: label of the network that is marked.
        time_label: of the horizontal axis.
    """
    from matplotlib.figure import Figure

    sets = list(points[0].correct)
    figure = Figure(figsize=(5.5 * len(sets), 5.6), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        values = [point.correct[name] for point in points]
        front = pareto_front([point.time for point in points], values)
        axes.plot(
            [points[i].time for i in front],
            [values[i] for i in front],
            color="0.6",
            zorder=1,
            label="Pareto front",
        )
        for index, (point, value) in enumerate(zip(points, values, strict=True)):
            is_shipped = point.label == shipped
            # Ten colours, so the second ten networks are squares.
            axes.scatter(
                point.time,
                value,
                s=200 if is_shipped else 60,
                marker="*" if is_shipped else "os"[index // 10 % 2],
                color=f"C{index % 10}",
                edgecolor="black",
                linewidth=0.6,
                zorder=2,
                label=f"{point.label}{' (shipped)' if is_shipped else ''}: {point.shape}",
            )
        for index, (label, correct) in enumerate(peers.items()):
            axes.axhline(
                correct[name], color="0.4", linewidth=1, linestyle=("--", ":", "-.")[index % 3],
                zorder=0, label=label,
            )  # fmt: skip
        axes.set(title=name, xlabel=time_label, xlim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("correct matches a pair, mean")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
