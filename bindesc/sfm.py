"""A folder of photos to a 3D model, in stages that can be killed and started again.

The output folder holds, each of them whole or not there at all:

- ``bindesc.json``: the settings; a run with others is refused;
- ``features/NAME.npz``: the features of an image;
- ``pairs.json``: the names of the images and which of them to match;
- ``matches/NAME.npz``: the verified matches of an image with its partners;
- ``database.db``: all of this for COLMAP;
- ``sparse/0``, ``sparse/1``, ...: COLMAP models, the largest first;
- ``points.ply``, ``points.png``: the largest model, to look at.

As in COLMAP, positions are those of the pixels as a photo stores them, whatever its EXIF
orientation.

Describing and matching can be shared out to processes (:class:`bindesc.folder.Shard`): each image
is described, and matched with its partners, in one of them, with the result of a single process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from . import colmap
from .cloud import save_cloud_picture
from .collection import Collection, Progress, Rules, shrinkage, silent, tracked
from .export import load_features_npz
from .files import atomic_folder, atomic_path, is_utf8
from .folder import (
    WHOLE,
    FolderError,
    Report,
    Shard,
    check_name,
    extract_folder,
    feature_path,
    find_images,
    is_described,
    open_store,
)
from .image import ImageError, read_image
from .image_pairs import PairChoice
from .pair import Extractor
from .threads import in_parallel
from .types import Features


class TooFewError(Exception):
    """The photos do not give a model; the text says why."""


class UnfinishedError(Exception):
    """This share is done, as far as it can be before others are; the text says what is left."""


@dataclass(frozen=True)
class SfmSettings:
    """What decides the result, besides the photos.

    Attributes:
        extractor: what decides the features, such as the model and the detector.
        pairs: which images to match, see :meth:`PairChoice.parse`.
        rules: what counts as a match; its seed is the mapping's too.
        shared_camera: images of one size and focal length are of one camera.
        camera_model: one of ``colmap.CAMERA_MODELS``.

    Raises:
        ValueError: a setting is unknown or does not fit another.
    """

    extractor: dict[str, str | int | None]
    pairs: str = "exhaustive"
    rules: Rules = field(default_factory=Rules)
    shared_camera: bool = True
    camera_model: str = "SIMPLE_RADIAL"

    def __post_init__(self) -> None:
        if PairChoice.parse(self.pairs).rule == "similar" and self.rules.norm != "hamming":
            raise ValueError("pairs: similar needs a binary descriptor")
        if self.camera_model not in colmap.CAMERA_MODELS:
            known = ", ".join(colmap.CAMERA_MODELS)
            raise ValueError(f"camera model: {self.camera_model!r} is none of {known}")

    def flat(self) -> dict[str, Any]:
        """All settings side by side, to be stored."""
        values = asdict(self)
        values["rules"].pop("long_side")  # the extractor's settings have it as "resize"
        return {**values.pop("extractor"), **values.pop("rules"), **values}


def describe(
    folder: Path,
    output: Path,
    make_extractor: Callable[[], Extractor],
    settings: SfmSettings,
    progress: Progress = silent,
    shard: Shard = WHOLE,
) -> Report:
    """Describe the images that are not described yet, or changed since.

    Args:
        folder: with the photos.
        output: made if missing.
        make_extractor: called once, if there is an image to describe.
        settings: those of an earlier run, if there was one.
        progress: opens the progress bar.
        shard: the share of the images to do.

    Returns:
        What happened to the images.

    Raises:
        FolderError: no images, or an output of other settings or inside the folder.
        OSError: the output cannot be written.
    """
    for name in find_images(folder):  # what cannot work is refused before anything is written
        check_name(folder / name)
        if not is_utf8(folder / name):
            path = str(folder / name)
            raise FolderError(f"{path!r}: the name is not UTF-8, as COLMAP needs")
    if output.resolve().is_relative_to(folder.resolve()):
        raise FolderError(f"{output}: lies inside {folder}, whose images it would become")
    make_extractor = cache(make_extractor)
    open_store(output, settings.flat(), make_extractor, shard)
    report = extract_folder(
        folder,
        output / "features",
        make_extractor,
        settings.extractor,
        settings.rules.long_side,
        lambda names: tracked(progress, "describe", names),
        shard,
        oriented=False,
    )
    if report.extracted:
        (output / _PAIRS).unlink(missing_ok=True)  # some may have been chosen by other features
    return report


def match(
    folder: Path,
    output: Path,
    settings: SfmSettings,
    progress: Progress = silent,
    shard: Shard = WHOLE,
) -> Collection:
    """Choose pairs of the described images, and match and verify those that are not matched yet.

    Args:
        folder: with the photos.
        output: as for :func:`describe`.
        settings: as for :func:`describe`.
        progress: opens the progress bar.
        shard: the share of the images to do.

    Raises:
        TooFewError: fewer than two readable images.
        UnfinishedError: this share is done as far as it can be without the others.
        OSError: the output cannot be written.
    """
    waiting = 0 if shard == WHOLE else _undescribed(folder, output)
    if waiting:
        raise UnfinishedError(f"{waiting} images are still to be described")
    collection = _plan(folder, output, settings)
    collection.match(settings.rules, progress, shard)
    waiting = len(collection.unmatched())
    if waiting:
        raise UnfinishedError(f"{waiting} images are still to be matched")
    return collection


def reconstruct(
    folder: Path,
    collection: Collection,
    settings: SfmSettings,
    progress: Progress = silent,
    threads: int = -1,
) -> list[Any]:
    """Write the database, map, and write the models, unless models of these matches are there.

    Args:
        folder: with the photos.
        collection: matched, see :func:`match`; the results are written to its folder.
        settings: as for :func:`match`.
        progress: opens the progress bars.
        threads: of the mapping, -1 for every core. A killed mapping starts again; the same number
            of threads gives the same models.

    Returns:
        The models as ``pycolmap.Reconstruction``, the largest first.

    Raises:
        TooFewError: no two images start a model.
        FolderError: there are models of other photos.
        ModuleNotFoundError: pycolmap or matplotlib is not installed.
    """
    output = collection.folder
    sparse = output / "sparse"
    digest = collection.digest()
    if not sparse.exists():
        _save_database(folder, collection, settings, progress)
        _map(folder, collection, settings, digest, progress, threads)
    elif (sparse / _DIGEST).read_text("utf-8") != digest:
        raise FolderError(f"{sparse}: is of other photos; remove or rename it to map these")
    paths = sorted(sparse.glob("[0-9]*"), key=lambda path: int(path.name))
    if not paths:
        raise FolderError(f"{sparse}: holds no model; remove it to map again")
    models = [colmap.import_pycolmap().Reconstruction(path) for path in paths]
    colmap.save_ply(output / "points.ply", models[0])
    save_cloud_picture(output / "points.png", *colmap.cloud(models[0]))
    return models


_PAIRS = "pairs.json"
_DIGEST = "matches.sha256"


def _undescribed(folder: Path, output: Path) -> int:
    """How many readable images have no features yet."""

    def readable(name: str) -> bool:
        try:
            read_image(folder / name, oriented=False)
        except ImageError:
            return False
        return True

    names = find_images(folder)
    missing = [name for name in names if not is_described(folder, output / "features", name)]
    return sum(in_parallel(readable, missing))


def _plan(folder: Path, output: Path, settings: SfmSettings) -> Collection:
    """Choose the pairs, or read those chosen before if the images are still the same."""
    store = output / "features"
    names = [name for name in find_images(folder) if feature_path(store, name).exists()]
    if len(names) < 2:
        raise TooFewError(f"{folder}: {len(names)} usable image, a model needs two or more")
    path = output / _PAIRS
    saved = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if saved.get("images") != names:
        pairs = PairChoice.parse(settings.pairs).choose(
            names, lambda name: load_features_npz(feature_path(store, name)).descriptors
        )
        saved = {"images": names, "pairs": pairs}
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(saved), "utf-8")
    partners: dict[str, list[str]] = {}
    for i, j in saved["pairs"]:
        partners.setdefault(names[i], []).append(names[j])
    return Collection(output, names, partners)


def _save_database(
    folder: Path, collection: Collection, settings: SfmSettings, progress: Progress
) -> None:
    def images() -> Iterator[tuple[str, Features, float | None]]:
        for name in tracked(progress, "database", collection.names):
            yield name, collection.features(name), colmap.focal_from_exif(folder / name)

    colmap.save_database(
        collection.folder / "database.db",
        images(),
        collection.verified(),
        shared_camera=settings.shared_camera,
        camera_model=settings.camera_model,
    )


def _map(
    folder: Path,
    collection: Collection,
    settings: SfmSettings,
    digest: str,
    progress: Progress,
    threads: int,
) -> None:
    with atomic_folder(collection.folder / "sparse") as sparse:
        work = sparse / "work"
        work.mkdir()
        with progress("map", len(collection.names)) as step:
            models = colmap.incremental_mapping(
                collection.folder / "database.db",
                work,
                seed=settings.rules.seed,
                threads=threads,
                error_scale=_mean_shrinkage(collection, settings.rules.long_side),
                progress=step,
            )
        shutil.rmtree(work)
        if not models:
            raise TooFewError(_why_no_model(collection))
        for number, model in enumerate(models):
            names = colmap.registered_names(model)
            colmap.color_points(model, folder, tracked(progress, "colour", names))
            (sparse / str(number)).mkdir()
            model.write(sparse / str(number))
        (sparse / _DIGEST).write_text(digest, "utf-8")


def _mean_shrinkage(collection: Collection, long_side: int | None) -> float:
    if long_side is None:
        return 1.0
    scales = [shrinkage(collection.features(name), long_side) for name in collection.names]
    return sum(scales) / len(scales)


def _why_no_model(collection: Collection) -> str:
    pairs = list(collection.verified())
    related = [pair.geometry.inliers.sum() for pair in pairs if pair.geometry.model is not None]
    return (
        f"no model: {len(related)} of {len(pairs)} pairs of images have matches that agree, "
        f"at most {max(related, default=0)} of them; mapping starts from two images with about "
        "100 that see the scene from different places"
    )
