"""Real images with known homographies, as scenes: one reference image against several views.

The data folder is named by the environment variable ``BINDESC_DATA``, else it is
``../shared/data`` beside the project's root. It holds

- ``oxford_affine/NAME/img1..6.*`` with ``H1to2p`` to ``H1to6p`` (Mikolajczyk et al. 2005):
  image 1 against images 2 to 6, as sets ``oxford_viewpoint`` and ``oxford_photometric``;
- ``webcam_val/NAME/1.*, 2.*, ...``: frames of fixed cameras by day, night and season (from TILDE,
  Verdie et al. 2015): frame 1 against each other frame, with the identity as homography;
- ``homography_pairs/NAME_A.*``, ``NAME_B.*``, ``NAME_H.txt``: A against B.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bindesc.image import read_image, to_gray

PROJECT = Path(__file__).resolve().parent.parent

OXFORD = {
    "oxford_viewpoint": ("graf", "wall", "bark", "boat"),
    "oxford_photometric": ("bikes", "trees", "leuven", "ubc"),
}
# Settings are chosen on these; the others are test sets.
CHOSEN_ON = ("webcam_val", "homography_pairs")
SETS = (*OXFORD, *CHOSEN_ON)


class DataMissingError(Exception):
    """No data folder; the text says in one line where it was looked for."""


@dataclass(frozen=True, eq=False)
class View:
    """Another image of a scene.

    Attributes:
        name: such as ``graf 1-3``.
        gray: ``(H, W)`` uint8.
        homography: ``(3, 3)`` float64, maps pixels of the scene's reference image to this one.
    """

    name: str
    gray: NDArray[np.uint8]
    homography: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """A reference image, ``(H, W)`` uint8, and the views that it is matched against."""

    name: str
    reference: NDArray[np.uint8]
    views: tuple[View, ...]


def data_folder() -> Path:
    """The data folder.

    Raises:
        DataMissingError: ``BINDESC_DATA`` is not set and ``../shared/data`` does not exist.
        FileNotFoundError: ``BINDESC_DATA`` is set, but to no folder.
    """
    named = os.environ.get("BINDESC_DATA")
    folder = Path(named) if named else PROJECT.parent / "shared" / "data"
    if folder.is_dir():
        return folder
    if named:
        raise FileNotFoundError(f"BINDESC_DATA: {named} is no folder")
    raise DataMissingError(f"no data: BINDESC_DATA is not set and {folder} does not exist")


def scenes(set_name: str, folder: Path, limit: int | None = None) -> Iterator[Scene]:
    """Read the scenes of one set, one at a time, always in the same order.

    Args:
        set_name: one of ``SETS``.
        folder: the data folder.
        limit: stop after so many scenes.

    Raises:
        ValueError: an unknown set.
        FileNotFoundError: the folder lacks the set, or a file of it.
    """
    if set_name in OXFORD:
        root, read = folder / "oxford_affine", _oxford
        names = list(OXFORD[set_name])
    elif set_name == "webcam_val":
        root, read = folder / set_name, _webcam
        names = sorted(path.name for path in root.glob("*") if path.is_dir())
    elif set_name == "homography_pairs":
        root, read = folder / set_name, _homography_pair
        names = sorted(path.name.removesuffix("_H.txt") for path in root.glob("*_H.txt"))
    else:
        raise ValueError(f"set: {set_name!r} is none of {', '.join(SETS)}")
    if not root.is_dir() or not names:
        raise FileNotFoundError(f"{set_name}: {root} does not hold the images")
    for name in names[:limit]:
        yield read(root, name)


def _oxford(root: Path, name: str) -> Scene:
    views = tuple(
        View(
            f"{name} 1-{k}",
            _read(root / name, f"img{k}"),
            np.loadtxt(root / name / f"H1to{k}p"),
        )
        for k in range(2, 7)
    )
    return Scene(name, _read(root / name, "img1"), views)


def _webcam(root: Path, name: str) -> Scene:
    frames = sorted({int(path.stem) for path in (root / name).glob("[0-9]*")} - {1})
    views = tuple(View(f"{name} 1-{k}", _read(root / name, str(k)), np.eye(3)) for k in frames)
    return Scene(name, _read(root / name, "1"), views)


def _homography_pair(root: Path, name: str) -> Scene:
    view = View(f"{name} A-B", _read(root, f"{name}_B"), np.loadtxt(root / f"{name}_H.txt"))
    return Scene(name, _read(root, f"{name}_A"), (view,))


def _read(folder: Path, stem: str) -> NDArray[np.uint8]:
    """The grey pixels of the one image called ``stem``, whatever its format."""
    paths = sorted(folder.glob(f"{stem}.*"))
    if not paths:
        raise FileNotFoundError(f"{folder / stem}.*: no such image")
    return to_gray(read_image(paths[0]))
