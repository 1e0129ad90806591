"""The features of a folder of images, in a run that may be killed and started again.

Each finished image is a file of its own, written atomically. For an H5 these files stand in
``NAME.h5.part/`` until all are there; then the H5 is written in one go and the folder removed. An
H5 with a hole in it never exists.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .export import load_features_npz, save_features_npz, save_hloc_features
from .files import atomic_path, remove_stale
from .image import ImageError, read_image
from .pair import Extractor, extract_resized
from .types import Features

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".pgm", ".ppm", ".pnm")
)
H5_SUFFIXES = frozenset({".h5", ".hdf5"})

_SETTINGS_FILE = "bindesc.json"
_SETTINGS_ATTRIBUTE = "bindesc"

Settings = Mapping[str, str | int | None]


class FolderError(ValueError):
    """A folder or output that cannot be used; the text says which and why."""


@dataclass
class Report:
    """What happened to the images of a folder.

    Attributes:
        extracted: number of images described in this run.
        kept: number of images that an earlier run had done.
        keypoints: number of keypoints of this run.
        unreadable: one line for each image that could not be read.
    """

    extracted: int = 0
    kept: int = 0
    keypoints: int = 0
    unreadable: list[str] = field(default_factory=list)


def find_images(folder: Path) -> list[str]:
    """Names of the image files below a folder, relative to it with ``/``, sorted.

    Raises:
        FolderError: it is not a folder, or holds no file with an image's suffix.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}")
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not names:
        raise FolderError(f"{folder}: no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return names


def extract_folder(
    folder: Path,
    output: Path,
    make_extractor: Callable[[], Extractor],
    settings: Settings,
    long_side: int | None = None,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
) -> Report:
    """Describe every image below a folder that ``output`` does not have yet.

    Args:
        folder: with the images.
        output: ``.h5`` or ``.hdf5`` for one file in hloc's layout, else a folder that gets
            ``NAME.npz`` for each image, in the same subfolders.
        make_extractor: called once, if there is an image to do.
        settings: whatever decides the features; stored in the output. An output made with other
            settings is refused.
        long_side: shrink images to this longer side first, pixels.
        progress: wraps the list of names to do, to show a progress bar.

    Returns:
        Counts, and the images that could not be read.

    Raises:
        FolderError: no images, or an output of other settings.
        ModuleNotFoundError: an H5 without h5py.
        OSError: the output cannot be written.
    """
    names = find_images(folder)
    to_h5 = output.suffix.lower() in H5_SUFFIXES
    done = _h5_names(output, settings) if to_h5 else set()
    store = output.with_name(output.name + ".part") if to_h5 else output
    wanted = [name for name in names if name not in done]
    report = Report(kept=len(names) - len(wanted))
    if wanted:
        _open_store(store, settings)
        _fill_store(store, folder, wanted, make_extractor, long_side, progress, report)
        if to_h5:
            _pack(store, output, wanted, settings, append=bool(done))
    return report


def _fill_store(
    store: Path,
    folder: Path,
    names: Sequence[str],
    make_extractor: Callable[[], Extractor],
    long_side: int | None,
    progress: Callable[[Sequence[str]], Iterator[str]],
    report: Report,
) -> None:
    missing = [name for name in names if not _shard(store, name).exists()]
    report.kept += len(names) - len(missing)
    if not missing:
        return
    extractor = make_extractor()
    for name in progress(missing):
        try:
            image = read_image(folder / name)
        except ImageError as error:
            report.unreadable.append(str(error))
            continue
        features = extract_resized(extractor, image, long_side)
        shard = _shard(store, name)
        shard.parent.mkdir(parents=True, exist_ok=True)
        save_features_npz(shard, features)
        report.extracted += 1
        report.keypoints += len(features)


def _pack(
    store: Path, output: Path, names: Sequence[str], settings: Settings, append: bool
) -> None:
    def shards() -> Iterator[tuple[str, Features]]:
        for name in names:
            if _shard(store, name).exists():
                yield name, load_features_npz(_shard(store, name))

    if any(_shard(store, name).exists() for name in names):
        attributes = {_SETTINGS_ATTRIBUTE: json.dumps(settings)}
        keep = output if append else None
        save_hloc_features(output, shards(), attributes=attributes, keep=keep)
    shutil.rmtree(store)


def _shard(store: Path, name: str) -> Path:
    return store / (name + ".npz")


def _open_store(store: Path, settings: Settings) -> None:
    """Make the folder of finished images, or check that it belongs to the same settings."""
    path = store / _SETTINGS_FILE
    if path.is_file():
        _check_settings(store, path.read_text("utf-8"), settings)
        remove_stale(store)
        return
    if store.is_dir() and any(store.iterdir()):
        raise FolderError(f"{store}: is not empty and was not made by this command")
    store.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings), "utf-8")


def _h5_names(path: Path, settings: Settings) -> set[str]:
    """The images that an H5 has; none if there is no such file."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise ModuleNotFoundError("H5 files need h5py: pip install bindesc[h5]") from None
    if not path.exists():
        return set()
    try:
        with h5py.File(path, "r") as file:
            _check_settings(path, file.attrs.get(_SETTINGS_ATTRIBUTE), settings)
            paths: list[str] = []
            file.visit(paths.append)
    except OSError:
        raise FolderError(f"{path}: is not an H5 file") from None
    return {name.rpartition("/")[0] for name in paths if name.endswith("/keypoints")}


def _check_settings(path: Path, found: str | None, settings: Settings) -> None:
    if found is None:
        raise FolderError(f"{path}: was not made by this command; choose another output")
    old = json.loads(found)
    changed = [
        f"{key} {old.get(key)!r}, now {settings.get(key)!r}"
        for key in {**old, **settings}
        if old.get(key) != settings.get(key)
    ]
    if changed:
        raise FolderError(
            f"{path}: was made with other settings ({'; '.join(changed)}); choose another output"
        )
