"""A picture of a reconstruction: the points from above and from the side, with the cameras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import atomic_path

Array = NDArray[np.float64]

_INCHES, _DPI = (14, 7), 110
_SHOWN = (2, 98)  # percentiles of the points that set the limits; a few always lie far away


def import_figure() -> Any:
    """Matplotlib's ``Figure``.

    Raises:
        ModuleNotFoundError: it is not installed, in one line that says what to do.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ModuleNotFoundError("pictures need matplotlib: pip install bindesc[sfm]") from None
    return Figure


def save_cloud_picture(
    path: Path, points: Array, colors: NDArray[np.uint8], centres: Array, rotations: Array
) -> None:
    """Draw the points in their colours, and each camera as a red dot that points where it looks.

    Up is the mean direction of the cameras' up. The picture's horizontal axis is the direction in
    which points and cameras spread most, seen from above.

    Args:
        path: a PNG.
        points: ``(N, 3)`` float64.
        colors: ``(N, 3)`` uint8, RGB.
        centres: ``(M, 3)`` float64, where the cameras stand; M at least 1.
        rotations: ``(M, 3, 3)`` float64, camera from world; the rows are the camera's right, down
            and forward.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    figure = import_figure()(figsize=_INCHES, layout="constrained")
    axes = _axes(points, centres, rotations)
    points, centres, forward = points @ axes.T, centres @ axes.T, rotations[:, 2] @ axes.T
    low, high = np.percentile(points if len(points) else centres, _SHOWN, axis=0)
    low, high = np.minimum(low, centres.min(axis=0)), np.maximum(high, centres.max(axis=0))
    dot = np.clip(20_000 / max(len(points), 1), 0.5, 5)
    margin = 0.05 * max(float((high - low).max()), 1e-6)
    for plot, title, (across, upward) in zip(
        figure.subplots(1, 2), ("from above", "from the side"), ((0, 1), (0, 2)), strict=True
    ):
        plot.scatter(points[:, across], points[:, upward], s=dot, c=colors / 255, linewidths=0)
        tips = centres + margin * forward
        plot.plot(
            np.stack([centres[:, across], tips[:, across]]),
            np.stack([centres[:, upward], tips[:, upward]]),
            color="red",
            linewidth=0.8,
        )
        plot.scatter(centres[:, across], centres[:, upward], s=8, c="red")
        plot.set(
            title=title,
            aspect="equal",
            xlim=(low[across] - margin, high[across] + margin),
            ylim=(low[upward] - margin, high[upward] + margin),
            xticks=[],
            yticks=[],
        )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI)


def _axes(points: Array, centres: Array, rotations: Array) -> Array:
    """``(3, 3)``, the rows are the picture's right, away and up in the world."""
    up = -rotations[:, 1].mean(axis=0)
    up /= max(float(np.linalg.norm(up)), 1e-9)
    everything = np.concatenate([points, centres])
    low, high = np.percentile(everything, _SHOWN, axis=0)
    inner = everything[((everything >= low) & (everything <= high)).all(axis=1)]
    inner = inner if len(inner) > 1 else everything
    flat = inner - inner.mean(axis=0)
    flat = flat - (flat @ up)[:, None] * up
    right = np.linalg.svd(flat, full_matrices=False)[2][0]
    right -= (right @ up) * up
    right /= max(float(np.linalg.norm(right)), 1e-9)
    return np.stack([right, np.cross(up, right), up])
