"""A rendered scene of textured planes at different depths, with known cameras."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from pictures import textured

WIDTH, HEIGHT, FOCAL = 480, 360, 500.0

# Each plane: a corner and two sides in the world (x right, y down, z away), far ones first.
_PLANES = (
    ((-6.0, -4.0, 9.0), (12.0, 0.0, 0.0), (0.0, 8.0, 0.0)),
    ((-6.0, 1.6, 3.0), (12.0, 0.0, 0.0), (0.0, 0.4, 6.0)),
    ((-2.6, -1.2, 6.0), (2.0, 0.0, 0.8), (0.0, 2.4, 0.0)),
    ((0.6, -1.0, 5.5), (2.0, 0.0, -0.6), (0.0, 2.2, 0.0)),
)
_TEXTURE = 700  # pixels a side


def centres(count: int) -> np.ndarray:
    """``(count, 3)``, where the cameras stand: on an arc."""
    across = np.linspace(-1.5, 1.5, count)
    return np.stack([across, -0.1 * across**2, 0.15 * across**2], axis=1)


def write_model(folder: Path, seen: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    """Write a COLMAP model of photos that all see the same points.

    Args:
        folder: it is made.
        seen: photo name to ``(P, 2)`` positions, pixels.
        size: width and height of the photos.
    """
    folder.mkdir()
    width, height = size
    camera = f"1 PINHOLE {width} {height} {FOCAL} {FOCAL} {width / 2} {height / 2}\n"
    (folder / "cameras.txt").write_text(camera)
    lines = []
    for number, (name, xy) in enumerate(seen.items(), 1):
        lines.append(f"{number} 1 0 0 0 {number} 0 0 1 {name}")
        lines.append(" ".join(f"{x + 0.5} {y + 0.5} {i + 1}" for i, (x, y) in enumerate(xy)))
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    count = len(next(iter(seen.values())))
    track = [" ".join(f"{number} {i}" for number in range(1, len(seen) + 1)) for i in range(count)]
    points = [f"{i + 1} {i} 0 5 0 0 0 0.5 {track[i]}" for i in range(count)]
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")


def save_views(folder: Path, count: int = 7) -> list[str]:
    """Write ``view0.png`` and so on; returns the names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, centre in enumerate(centres(count)):
        names.append(f"view{number}.png")
        assert cv2.imwrite(str(folder / names[-1]), _render(centre))
    return names


def _render(centre: np.ndarray) -> np.ndarray:
    forward = np.array([0, 0, 7.0]) - centre
    forward /= np.linalg.norm(forward)
    right = np.cross([0, 1, 0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    camera = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for seed, (corner, side0, side1) in enumerate(_PLANES):
        texture = textured(_TEXTURE, _TEXTURE, seed)
        plane = np.stack([side0, side1, np.array(corner) - centre], axis=1)
        to_image = camera @ rotation @ plane @ np.diag([1 / _TEXTURE, 1 / _TEXTURE, 1])
        size = (WIDTH, HEIGHT)
        part = cv2.warpPerspective(texture, to_image, size, flags=cv2.INTER_AREA)
        mask = cv2.warpPerspective(np.full(texture.shape[:2], 255, np.uint8), to_image, size)
        image[mask > 127] = part[mask > 127]
    return image
