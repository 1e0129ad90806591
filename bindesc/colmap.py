"""COLMAP through pycolmap: cameras, the database of features and matches, incremental mapping.

COLMAP puts the origin of pixel coordinates at the corner of the top-left pixel, bindesc at its
centre: half a pixel is added here, and nowhere else. COLMAP stores any uint8 descriptors but
matches only its own kinds, so that the database is given matches and two-view geometries too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .collection import VerifiedPair
from .files import atomic_path
from .geometry import Geometry
from .image import ImageError, read_image
from .types import Features

HALF_PIXEL = 0.5
CAMERA_MODELS = ("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV")

_DEFAULT_FOCAL = 1.2  # of the longer side, as in COLMAP
_UNCALIBRATED, _DEGENERATE = 3, 1  # TwoViewGeometryConfiguration
_QUIET = 2  # of glog: errors only


def import_pycolmap() -> Any:
    """The module pycolmap.

    Raises:
        ModuleNotFoundError: it is not installed, in one line that says what to do.
    """
    try:
        import pycolmap
    except ModuleNotFoundError:
        raise ModuleNotFoundError("COLMAP needs pycolmap: pip install bindesc[sfm]") from None
    return pycolmap


def focal_from_exif(path: Path) -> float | None:
    """The focal length in pixels that a photo's EXIF data gives, or None.

    Formats that COLMAP itself does not read, such as WebP, give None.
    """
    pycolmap = import_pycolmap()
    try:
        with _quiet(pycolmap):
            camera = pycolmap.infer_camera_from_image(path)
    except (RuntimeError, ValueError, OSError):
        return None
    return float(camera.focal_length) if camera.has_prior_focal_length else None


def save_database(
    path: Path,
    images: Iterable[tuple[str, Features, float | None]],
    verified: Iterable[VerifiedPair],
    *,
    shared_camera: bool = True,
    camera_model: str = "SIMPLE_RADIAL",
) -> None:
    """Write a COLMAP database with features, matches and two-view geometries.

    Args:
        path: the database; one that is there is replaced.
        images: the name, the features and the focal length in pixels (None if unknown) of each.
        verified: matched pairs of these images, each once.
        shared_camera: images of the same size and focal length are of one camera; else each image
            has its own.
        camera_model: one of ``CAMERA_MODELS``.

    Raises:
        ModuleNotFoundError: pycolmap is not installed.
        OSError: the file cannot be written; nothing is left of it.
    """
    pycolmap = import_pycolmap()
    with atomic_path(path) as temporary:
        with pycolmap.Database.open(temporary) as database, pycolmap.DatabaseTransaction(database):
            cameras: dict[Any, int] = {}
            ids: dict[str, int] = {}
            for name, features, focal in images:
                key = (*features.image_size, focal) if shared_camera else name
                if key not in cameras:
                    camera = _camera(pycolmap, camera_model, features.image_size, focal)
                    cameras[key] = database.write_camera(camera)
                image = pycolmap.Image(name=name, camera_id=cameras[key])
                ids[name] = database.write_image(image)
                _write_features(pycolmap, database, ids[name], features)
            for pair in verified:
                images_of_pair = ids[pair.name0], ids[pair.name1]
                pairs = pair.pairs.astype(np.uint32)
                database.write_matches(*images_of_pair, pairs)
                geometry = _two_view_geometry(pycolmap, pairs, pair.geometry)
                database.write_two_view_geometry(*images_of_pair, geometry)
        # SQLite would take the log of a killed run for one of the new file.
        for leftover in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + leftover).unlink(missing_ok=True)


def incremental_mapping(
    database: Path,
    output: Path,
    *,
    seed: int = 0,
    threads: int = -1,
    error_scale: float = 1.0,
    progress: Callable[[], object] = lambda: None,
) -> list[Any]:
    """Estimate cameras and points from a database.

    Args:
        database: as :func:`save_database` writes it.
        output: an existing folder; COLMAP writes its models there as ``0``, ``1`` and so on.
        seed: of the random sampling, at least 0.
        threads: -1 for every core. The same number gives the same model; another number, another
            order of the random samples.
        error_scale: multiplies COLMAP's error thresholds (4 pixels of the image); above 1 where
            features were found in shrunken images and placed in the originals.
        progress: called for each image that is registered.

    Returns:
        The ``pycolmap.Reconstruction`` objects: most images first, then most points; without those
        whose images are all in an earlier one. None at all if no two images start a model.
    """
    pycolmap = import_pycolmap()
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed, options.num_threads = seed, threads
    options.extract_colors = False  # color_points does it
    # Took 20 s of CPU for one image without enough matches, and registered none.
    options.structure_less_registration_fallback = False
    options.mapper.init_max_error *= error_scale
    options.mapper.abs_pose_max_error *= error_scale
    options.mapper.filter_max_reproj_error *= error_scale
    options.triangulation.merge_max_reproj_error *= error_scale
    options.triangulation.complete_max_reproj_error *= error_scale

    def first_two() -> None:
        progress()
        progress()

    with _quiet(pycolmap):
        found = pycolmap.incremental_mapping(
            database,
            output,  # the image folder, of which only the existence matters here
            output,
            options,
            initial_image_pair_callback=first_two,
            next_image_callback=progress,
        )
    models: list[Any] = []
    for model in sorted(found.values(), key=lambda m: (-m.num_reg_images(), -m.num_points3D())):
        images = set(registered_names(model))
        if not any(images <= set(registered_names(larger)) for larger in models):
            models.append(model)
    return models


def registered_names(model: Any) -> list[str]:
    """The names of the images that a ``pycolmap.Reconstruction`` has placed, sorted."""
    return sorted(model.image(number).name for number in model.reg_image_ids())


def color_points(model: Any, folder: Path, names: Iterable[str]) -> None:
    """Give each point of a model the mean colour of its pixels.

    COLMAP's own function reads neither WebP nor the EXIF orientation.

    Args:
        model: a ``pycolmap.Reconstruction``; changed in place.
        folder: of the images.
        names: of the images to take the colours from; one that cannot be read is left out.
    """
    total: dict[int, NDArray[np.int64]] = {}
    for name in names:
        points = [p for p in model.find_image_with_name(name).points2D if p.has_point3D()]
        if not points:
            continue
        try:
            image = np.atleast_3d(read_image(folder / name, oriented=False))
        except ImageError:
            continue  # the photo is gone since it was described
        xy = np.array([point.xy for point in points]).astype(int)  # corner origin: floor is right
        limits = np.array(image.shape[1::-1]) - 1
        x, y = np.clip(xy, 0, limits).T
        for point, color in zip(points, image[y, x, ::-1].astype(np.int64), strict=True):
            red, green, blue = np.broadcast_to(color, 3)
            seen = total.setdefault(point.point3D_id, np.zeros(4, np.int64))
            seen += (red, green, blue, 1)
    for number, seen in total.items():
        model.points3D[number].color = np.round(seen[:3] / seen[3]).astype(np.uint8)


def save_ply(path: Path, model: Any) -> None:
    """Write the points of a model, with colours, as a PLY file."""
    with atomic_path(path) as temporary:
        model.export_PLY(temporary)


def cloud(model: Any) -> tuple[Any, Any, Any, Any]:
    """The points and cameras of a model as arrays.

    Returns:
        ``(N, 3)`` float64 points, ``(N, 3)`` uint8 colours, ``(M, 3)`` float64 camera centres and
        ``(M, 3, 3)`` float64 rotations, camera from world.
    """
    points = [model.points3D[number] for number in sorted(model.points3D)]
    images = [model.images[number] for number in sorted(model.reg_image_ids())]
    return (
        np.array([point.xyz for point in points]).reshape(-1, 3),
        np.array([point.color for point in points], np.uint8).reshape(-1, 3),
        np.array([image.projection_center() for image in images]).reshape(-1, 3),
        np.array([image.cam_from_world().rotation.matrix() for image in images]).reshape(-1, 3, 3),
    )


def _camera(pycolmap: Any, model: str, size: tuple[int, int], focal: float | None) -> Any:
    guess = focal or _DEFAULT_FOCAL * max(size)
    camera = pycolmap.Camera.create_from_model_name(0, model, guess, *size)
    camera.has_prior_focal_length = focal is not None
    return camera


def _write_features(pycolmap: Any, database: Any, number: int, features: Features) -> None:
    # Position, scale and orientation; COLMAP's mapper reads the position alone.
    scale = features.size[:, None] / 2
    angle = np.deg2rad(features.angle)[:, None]
    keypoints = np.hstack([features.xy + np.float32(HALF_PIXEL), scale, angle])
    database.write_keypoints(number, keypoints.astype(np.float32))
    descriptors = pycolmap.FeatureDescriptors()
    descriptors.data = features.descriptors
    database.write_descriptors(number, descriptors)


def _two_view_geometry(pycolmap: Any, pairs: NDArray[np.uint32], geometry: Geometry) -> Any:
    found = pycolmap.TwoViewGeometry()
    found.config = _DEGENERATE if geometry.model is None else _UNCALIBRATED
    if geometry.model is not None:
        found.F = _to_corner_origin(geometry.model)
        found.inlier_matches = pairs[geometry.inliers]
    return found


def _to_corner_origin(model: NDArray[np.float64]) -> NDArray[np.float64]:
    """A fundamental matrix for points that have half a pixel added."""
    shift = np.eye(3)
    shift[:2, 2] = -HALF_PIXEL
    return shift.T @ model @ shift


@contextmanager
def _quiet(pycolmap: Any) -> Iterator[None]:
    """Keep COLMAP's log, which runs to thousands of lines, off stderr."""
    before = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = _QUIET
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = before
