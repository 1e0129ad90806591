"""Photos of one place, tied together by a COLMAP reconstruction.

The reconstruction's points say where a part of one photo is in another; keypoints between the
points are carried over by the affine map that fits the points around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .pairing import Carried

MIN_SHARED = 60  # points that two photos must share
_NEIGHBOURS = 8  # points that each affine map is fitted to
_REACH = 48.0  # pixels to the farthest of them at most
_RESIDUAL = 1.2  # pixels, root mean square, of a fit that is believed


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo of a reconstruction.

    Attributes:
        name: the file's name, as the reconstruction has it.
        xy: ``(P, 2)`` float64, pixels, where its points are seen (the top-left pixel's centre is
            (0, 0)).
        point: ``(P,)`` int64, ascending, which 3D points they are.
        shape: height and width of the photo that was reconstructed, pixels.
    """

    name: str
    xy: NDArray[np.float64]
    point: NDArray[np.int64]
    shape: tuple[int, int]


def read_photos(model: Path) -> list[Photo]:
    """The photos of a COLMAP model, in the order of their names.

    Args:
        model: folder with ``cameras``, ``images`` and ``points3D``, as ``.bin`` or ``.txt``.

    Raises:
        ModuleNotFoundError: pycolmap is not installed.
        ValueError: the folder holds no model.
    """
    try:
        import pycolmap
    except ModuleNotFoundError:
        raise ModuleNotFoundError("reading a COLMAP model needs: pip install pycolmap") from None
    try:
        reconstruction = pycolmap.Reconstruction(str(model))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{model}: not a COLMAP model ({error})") from None
    photos = []
    for image in reconstruction.images.values():
        seen = [p for p in image.points2D if p.has_point3D()]
        point, first = np.unique([p.point3D_id for p in seen], return_index=True)
        xy = np.array([p.xy for p in seen]).reshape(-1, 2)[first] - 0.5
        shape = (image.camera.height, image.camera.width)
        photos.append(Photo(image.name, xy, point.astype(np.int64), shape))
    return sorted(photos, key=lambda photo: photo.name)


def shared_points(first: Photo, second: Photo) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(P, 2)`` positions of the common points in each of two photos, pixels."""
    _, a, b = np.intersect1d(first.point, second.point, assume_unique=True, return_indices=True)
    return first.xy[a], second.xy[b]


def carry_by_points(
    here: NDArray[np.float64], there: NDArray[np.float64], xy: NDArray[np.float32]
) -> Carried:
    """Carry keypoints by the points around them.

    Args:
        here: ``(P, 2)`` points of the first photo, P at least 8.
        there: ``(P, 2)`` the same points in the second.
        xy: ``(N, 2)`` keypoints of the first.

    Returns:
        Their positions in the second; NaN where the points are too far, on a line, or do not fit
        an affine map (a depth edge).
    """
    distance, index = cKDTree(here).query(xy, k=_NEIGHBOURS)
    offset = here[index] - xy[:, None]  # (N, K, 2)
    weight = np.exp(-0.5 * (distance / (_REACH / 3)) ** 2) + 1e-6
    design = np.concatenate([np.ones((*offset.shape[:2], 1)), offset], axis=2)  # (N, K, 3)
    weighted = design * weight[:, :, None]
    normal = np.einsum("nki,nkj->nij", weighted, design)
    scale = np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    solution = np.linalg.solve(
        normal + 1e-9 * scale, np.einsum("nki,nkj->nij", weighted, there[index])
    )
    error = ((design @ solution - there[index]) ** 2).sum(2)
    residual = np.sqrt((error * weight).sum(1) / weight.sum(1))
    thin = np.linalg.eigvalsh(np.einsum("nki,nkj->nij", offset, offset))[:, 0] < 16.0
    mapped = solution[:, 0].copy()
    mapped[thin | (residual > _RESIDUAL) | (distance[:, -1] > _REACH)] = np.nan
    return Carried(mapped, np.swapaxes(solution[:, 1:], 1, 2))
