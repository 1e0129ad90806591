"""PhotoTour folders (:mod:`bindesc.training.brown`) from photos with a COLMAP reconstruction.

As Brown, Hua and Winder (PAMI 2011, section 3) made theirs: the interest points of a reference
photo are carried into other photos by the geometry of the place, and belong to the interest points
that the detector finds there, if these lie close enough and their scale and orientation agree. They
carried them by dense stereo depth; here it is by the affine maps that fit the reconstruction's
points around them (:mod:`bindesc.training.multiview`), which hold nothing at depth edges. A "3D
point" of the folder is one interest point of a reference photo: the reconstruction's own points
have no scale or orientation, and few of them lie where ORB finds something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..folder import find_images
from ..image import read_image, to_gray
from .multiview import MIN_SHARED, carry_by_points
from .pairing import Tolerance, pair_keypoints
from .phototour import Points, Summary, cut_patches, detect_orb, write_phototour
from .views import Partner, check_shape, find_partners


def build_from_photos(
    folder: Path,
    output: Path,
    models: Sequence[Path],
    *,
    partners: int = 8,
    keypoints: int = 1500,
    support: float = 1.0,
    seed: int = 0,
) -> Summary:
    """Write a PhotoTour folder of the ORB keypoints that photos of places share.

    Its files are those of :func:`bindesc.training.phototour.build_phototour`. The images that
    ``interest.txt`` numbers are all photos below ``folder``, in the order of their names. The same
    photos, models and seed give the same bytes.

    Args:
        folder: where the photos are; they have the size that was reconstructed.
        output: the folder to make; it must not exist.
        models: COLMAP models of the photos, see :func:`bindesc.training.views.find_partners`.
        partners: into how many other photos, drawn at random, each one's keypoints are carried.
        keypoints: most in a photo.
        support: side of the patch over the keypoint's size.
        seed: of the draw of partners, and of the choice of pairs.

    Raises:
        FolderError: there are no photos.
        ImageError: a photo is damaged, or of another size than the model's.
        ModuleNotFoundError: pycolmap is not installed.
        ValueError: a folder holds no model, a model's photo is not there, or the photos share fewer
            than two keypoints.
        FileExistsError: ``output`` exists.
    """
    photos = [folder / name for name in find_images(folder)]
    found = find_partners(photos, models, partners, seed, complete=True)
    if not any(found.values()):
        names = ", ".join(map(str, models))
        raise ValueError(f"{names}: no two photos share {MIN_SHARED} points or more")
    with tqdm([path for path in photos if path in found], unit="photo") as bar:
        points = {path: detect_orb(_read(path, found), keypoints) for path in bar}
    tracks = _tracks(points, found)
    if len(np.unique(np.concatenate(list(tracks.values())))) < 3:  # one is -1
        raise ValueError(f"{folder}: the photos share fewer than two keypoints")
    numbers = {path: number for number, path in enumerate(photos)}
    index = np.unique(np.concatenate([t[t >= 0] for t in tracks.values()]))
    parts = []
    for path, track in tracks.items():  # read again: all photos at once may be too large
        (chosen,) = np.nonzero(track >= 0)
        point = np.searchsorted(index, track[chosen])
        gray = _read(path, found)
        parts.append(cut_patches(gray, points[path], chosen, point, numbers[path], support))
    patches, rows = zip(*parts, strict=True)
    return write_phototour(output, patches, rows, seed)


def _tracks(
    points: Mapping[Path, Points], partners: Mapping[Path, Sequence[Partner]]
) -> dict[Path, NDArray[np.int64]]:
    """Which track each keypoint of each photo belongs to, -1 none.

    Each photo in turn is the reference of its keypoints that belong to none yet, so that a track's
    keypoints are all compared with one of them, and errors do not add up.
    """
    tracks = {path: np.full(len(side), -1) for path, (_, side, _) in points.items()}
    count = 0
    for path, (xy, side, _) in tqdm(points.items(), unit="photo"):
        free = tracks[path] < 0
        for partner in partners[path]:
            carried = carry_by_points(partner.here, partner.there, xy)
            pairs = pair_keypoints(points[path], points[partner.path], carried, Tolerance())
            here, there = pairs.T
            fresh = free[here] & (tracks[partner.path][there] < 0)
            here, there = here[fresh], there[fresh]
            tracks[path][here] = tracks[partner.path][there] = count + here
        count += len(side)
    return tracks


def _read(path: Path, partners: Mapping[Path, Sequence[Partner]]) -> NDArray[np.uint8]:
    gray = to_gray(read_image(path, oriented=False))
    for partner in partners[path][:1]:
        check_shape(path, gray, partner.shapes[0])
    return gray
