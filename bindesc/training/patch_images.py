"""Single unlabelled patches, for training without pairs: one memory-mapped array in a folder.

``patches.npy`` is ``(N, 32, 32)`` uint8; ``set.json`` says where the patches come from. Some photos
are held out of it for validation: ``held_out`` is a set of pairs of patches from views of them
(see :mod:`bindesc.training.pairs`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..detectors import SCALE_FACTORS, create_detector, detect, to_arrays
from ..files import atomic_folder
from ..folder import find_images
from ..image import ImageError, read_image, resize_to, to_gray
from ..patches import PATCH_SIDE, extract_patches
from .brown import open_brown
from .pairs import (
    SEEN_BY,
    PairSet,
    PairSettings,
    build_pairs,
    centre,
    open_pairs,
    raw_to_npy,
    told_as_damaged,
)

HELD_OUT = "held_out"
_HELD_OUT_PAIRS = 2000  # about so many in all
_PER_VIEW = 80


@dataclass(frozen=True)
class PatchSettings:
    """How patches are cut from photos.

    Attributes:
        per_photo: most ORB keypoints of a photo, the strongest.
        max_side: photos are shrunk to this longer side first, pixels.
        support: side of the patch over the detector's scale factor.
        held_out_every: one photo in so many is held out for validation, one at least if there are
            two; 0 holds out none.
    """

    per_photo: int = 300
    max_side: int = 1024
    support: float = 1.0
    held_out_every: int = 16


def hold_out(photos: Sequence[Path], every: int) -> list[Path]:
    """Which photos are held out: the last of every ``every``, one at least if there are two."""
    if not every or len(photos) < 2:
        return []
    every = min(every, len(photos))
    return list(photos[every - 1 :: every])


def cut_patches(photo: NDArray[np.uint8], settings: PatchSettings) -> NDArray[np.uint8]:
    """The patches at the ORB keypoints of a grey photo, ``(K, 32, 32)`` uint8."""
    photo = resize_to(photo, settings.max_side)
    detector = create_detector("orb", settings.per_photo)
    xy, size, angle, _ = to_arrays(detect(detector, photo, None, settings.per_photo))
    scale = SCALE_FACTORS["orb"] * settings.support
    return extract_patches(photo, xy, size, angle, scale=scale)[0]


def build_patches(
    output: Path,
    settings: PatchSettings,
    *,
    photos: Sequence[Path] = (),
    brown: Sequence[Path] = (),
) -> dict[str, Any]:
    """Collect patches from folders of photos and from folders in the PhotoTour format.

    Args:
        output: the folder to make; it must not exist, and appears only when it is complete.
        settings: for the photos.
        photos: folders of photos.
        brown: folders of sheets, see :mod:`bindesc.training.brown`.

    Returns:
        What ``set.json`` holds: ``settings``, ``count``, ``sources`` (folder to number of
        patches), ``held_out`` photos and ``skipped`` photos with the reason.

    Raises:
        FolderError: see :func:`bindesc.folder.find_images`.
        ImageError: there is not one patch.
        BrownError: see :func:`bindesc.training.brown.open_brown`.
        FileExistsError: ``output`` exists.
    """
    sources: dict[str, int] = {}
    skipped: dict[str, str] = {}
    found = {folder: [folder / name for name in find_images(folder)] for folder in photos}
    every_photo = [path for paths in found.values() for path in paths]
    held_out = hold_out(every_photo, settings.held_out_every)
    with atomic_folder(output) as partial:
        raw = partial / "patches.raw"
        with raw.open("wb") as file:
            for folder in [*brown, *photos]:
                if folder in brown:
                    parts = _sheets(folder)
                else:
                    used = [path for path in found[folder] if path not in held_out]
                    parts = _photos(used, settings, skipped)
                sources[str(folder)] = sum(file.write(p.tobytes()) for p in parts) // PATCH_SIDE**2
        count = sum(sources.values())
        if not count:
            raise ImageError(f"no patches found: {skipped}")
        raw_to_npy(raw, partial / "patches.npy", np.uint8, (count, PATCH_SIDE, PATCH_SIDE))
        if held_out:
            skipped |= _build_held_out(held_out, partial / HELD_OUT, settings)
        summary = {
            "settings": asdict(settings),
            "count": count,
            "sources": sources,
            "held_out": list(map(str, held_out)),
            "skipped": skipped,
        }
        (partial / "set.json").write_text(json.dumps(summary, indent=1))
    return summary


def is_set_of(folder: Path, settings: PatchSettings, sources: Sequence[Path]) -> bool:
    """Whether a folder is what :func:`build_patches` makes of these sources."""
    path = folder / "set.json"
    if not path.is_file():
        return False
    summary = json.loads(path.read_text())
    same = summary["settings"] == asdict(settings)
    return bool(same and summary["sources"].keys() == set(map(str, sources)))


def _build_held_out(photos: list[Path], output: Path, settings: PatchSettings) -> dict[str, str]:
    """Make the pairs; returns photos without, and the reason. There may be no pair at all."""
    views = min(max(_HELD_OUT_PAIRS // (_PER_VIEW * len(photos)), 1), 8)
    pairs = PairSettings(
        views=views, pairs_per_view=_PER_VIEW, min_pairs=8, support=settings.support
    )
    photos = [photo.absolute() for photo in photos]
    root = Path(os.path.commonpath([photo.parent for photo in photos]))
    try:
        return build_pairs(root, output, pairs, photos=photos)["skipped"]
    except ImageError as error:
        return {"held-out photos": str(error)}


def open_patches(folder: Path) -> tuple[NDArray[np.uint8], float]:
    """Open a set of patches, or a set of pairs as single patches.

    Returns:
        ``(N, 32, 32)`` uint8, memory-mapped, and the support that it was cut with.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or holds what a network sees, which may be no square patches.
    """
    if not (folder / "set.json").is_file():
        raise FileNotFoundError(f"{folder}: no set of patches")
    if (folder / SEEN_BY).exists():
        raise ValueError(f"{folder}: holds what a network sees; make a set without --model")
    with told_as_damaged(folder):
        summary = json.loads((folder / "set.json").read_text())
        patches = np.load(folder / "patches.npy", mmap_mode="r")
        # In this order they stay a view of the file.
        patches = centre(patches.reshape(-1, *patches.shape[-2:]))
        return patches, float(summary["settings"]["support"])


def open_held_out(folder: Path) -> PairSet | None:
    """The held-out pairs of a set of patches; None where there are none."""
    pairs = folder / HELD_OUT
    return open_pairs(pairs) if pairs.is_dir() else None


def _sheets(folder: Path) -> Iterator[NDArray[np.uint8]]:
    opened = open_brown(folder)
    yield from tqdm(opened.read_sheets(), total=len(opened.sheets), unit="sheet")


def _photos(
    paths: Sequence[Path], settings: PatchSettings, skipped: dict[str, str]
) -> Iterator[NDArray[np.uint8]]:
    for path in tqdm(paths, unit="photo"):
        try:
            patches = cut_patches(to_gray(read_image(path)), settings)
        except ImageError as error:
            skipped[str(path)] = str(error)
            continue
        if not len(patches):
            skipped[str(path)] = "no keypoints"
        yield patches
