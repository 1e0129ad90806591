"""The features of a folder of images, in a run that may be killed and started again.

Each finished image is a file of its own, written atomically. For an H5 these files stand in
``NAME.h5.part/`` until all are there; then the H5 is written in one go and the folder removed. An
H5 with a hole in it never exists. A folder of finished images can be filled by several processes at
once, each with a share of the images.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import hloc
from .export import load_features_npz, load_source, save_features_npz
from .files import atomic_path, remove_stale, remove_stale_of, stamp
from .image import ImageError, read_image
from .pair import Extractor, extract_resized
from .threads import in_parallel

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".pgm", ".ppm", ".pnm")
)
H5_SUFFIXES = frozenset({".h5", ".hdf5"})

_LONGEST_NAME = 255  # bytes, of a file
_SETTINGS_FILE = "bindesc.json"
_SETTINGS_ATTRIBUTE = "bindesc"

Settings = Mapping[str, str | int | None]


class FolderError(ValueError):
    """A folder or output that cannot be used; the text says which and why."""


@dataclass(frozen=True)
class Shard:
    """One of several equal shares of a job, done by processes that need not know each other.

    Attributes:
        number: which share, 1 to ``count``.
        count: how many there are.
    """

    number: int = 1
    count: int = 1

    @staticmethod
    def parse(text: str) -> Shard:
        """Read ``I/N``.

        Raises:
            ValueError: it is not two integers with 1 <= I <= N.
        """
        number, slash, count = text.partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return Shard(int(number), int(count))
        raise ValueError(f"shard: {text!r} is not I/N with 1 <= I <= N, such as 2/4")

    def of(self, items: Sequence[str]) -> Sequence[str]:
        """The items of this share: every ``count``-th."""
        return items[self.number - 1 :: self.count]


WHOLE = Shard()


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
        OSError: a folder in it cannot be read.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}")
    names = sorted(path.relative_to(folder).as_posix() for path in _images(folder))
    if not names:
        raise FolderError(f"{folder}: no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
    return names


def holds_images(folder: Path) -> bool:
    """Whether :func:`find_images` finds any."""
    return next(_images(folder), None) is not None


def is_store(folder: Path) -> bool:
    """Whether :func:`extract_folder` made a folder."""
    return (folder / _SETTINGS_FILE).is_file()


def _images(folder: Path) -> Iterator[Path]:
    seen = set()  # folders, which links may lead to again
    for root, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for path in map(Path(root).joinpath, names):
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                yield path


def _refuse(error: OSError) -> None:
    raise error


def extract_folder(
    folder: Path,
    output: Path,
    make_extractor: Callable[[], Extractor],
    settings: Settings,
    long_side: int | None = None,
    progress: Callable[[Sequence[str]], Iterator[str]] = iter,
    shard: Shard = WHOLE,
    oriented: bool = True,
) -> Report:
    """Describe every image below a folder that ``output`` does not have yet.

    Which images changed is told by their time stamps and sizes.

    Args:
        folder: with the images.
        output: ``.h5`` or ``.hdf5`` for one file in hloc's layout, else a folder that gets
            ``NAME.npz`` for each image, in the same subfolders.
        make_extractor: called once, if there is an image to do. What it makes is used by several
            threads at once.
        settings: whatever decides the features; stored in the output. An output made with other
            settings is refused.
        long_side: shrink images to this longer side first, pixels.
        progress: wraps the list of names to do, to show a progress bar.
        shard: the share of the images to do; only a folder can be filled in shares.
        oriented: apply the EXIF orientation of photos. Never for an H5: hloc reads them as stored.

    Returns:
        Counts, and the images that could not be read.

    Raises:
        FolderError: no images, or an output of other settings.
        ModuleNotFoundError: an H5 without h5py.
        OSError: the output cannot be written.
    """
    names = shard.of(find_images(folder))
    to_h5 = output.suffix.lower() in H5_SUFFIXES
    old = _h5_images(output, settings) if to_h5 else {}
    store = output.with_name(output.name + ".part") if to_h5 else output
    wanted = [name for name in names if old.get(name) != stamp(folder / name)]
    report = Report(kept=len(names) - len(wanted))
    wanted = _nameable(folder, wanted, to_h5, report)
    if wanted:
        make_extractor = cache(make_extractor)
        open_store(store, settings, make_extractor, shard)
        read = partial(read_image, oriented=oriented and not to_h5)
        _fill_store(store, folder, wanted, make_extractor, read, long_side, progress, report)
    if to_h5:
        _pack(store, output, wanted, settings, old)
        _remove(store, names)
        remove_stale_of(Path(os.path.realpath(output)))
    return report


def _fill_store(
    store: Path,
    folder: Path,
    names: Sequence[str],
    make_extractor: Callable[[], Extractor],
    read: Callable[[Path], NDArray[np.uint8]],
    long_side: int | None,
    progress: Callable[[Sequence[str]], Iterator[str]],
    report: Report,
) -> None:
    missing = [name for name in names if not is_described(folder, store, name)]
    report.kept += len(names) - len(missing)
    if not missing:
        return
    extractor = make_extractor()

    def describe(name: str) -> int | ImageError:
        path = feature_path(store, name)
        source = stamp(folder / name)
        try:
            image = read(folder / name)
        except ImageError as error:
            path.unlink(missing_ok=True)  # of what was there before
            return error
        features = extract_resized(extractor, image, long_side)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_features_npz(path, features, source)
        return len(features)

    with closing(in_parallel(describe, missing)) as results:
        for _, found in zip(progress(missing), results, strict=True):
            if isinstance(found, ImageError):
                report.unreadable.append(str(found))
            else:
                report.extracted += 1
                report.keypoints += found


def _nameable(folder: Path, names: Sequence[str], to_h5: bool, report: Report) -> list[str]:
    """The names that the output can hold; the others are reported."""
    kept = []
    for name in names:
        try:
            check_name(folder / name)
            if to_h5:
                hloc.check_name(name)
            kept.append(name)
        except ValueError as error:
            report.unreadable.append(str(error))
    return kept


def check_name(path: Path) -> None:
    """Find out before the work is done whether an image's features can have its name.

    Raises:
        FolderError: it is too long.
    """
    if len(os.fsencode(feature_path(path.parent, path.name).name)) > _LONGEST_NAME:
        raise FolderError(f"{path}: the name is too long to add .npz to it")


def _pack(
    store: Path, output: Path, names: Sequence[str], settings: Settings, old: Mapping[str, object]
) -> None:
    """Write the finished ones of some images into the H5, in place of what it had of any."""
    paths = {name: feature_path(store, name) for name in names}
    finished = {name: path for name, path in paths.items() if path.exists()}
    if finished or any(name in old for name in names):
        hloc.save_features(
            output,
            ((name, load_features_npz(path)) for name, path in finished.items()),
            attributes={_SETTINGS_ATTRIBUTE: json.dumps(settings)},
            keep=output if old else None,
            without=names,
            sources={name: load_source(path) or (0, 0) for name, path in finished.items()},
        )


def _remove(store: Path, names: Sequence[str]) -> None:
    """Remove the features of some images, and the folder unless it has those of others.

    A run that is killed meanwhile leaves a folder that the next one knows: the settings go last.
    """
    if not is_store(store):
        return
    remove_stale(store)
    ours = {feature_path(store, name) for name in names}
    found = set(store.rglob("*.npz"))
    for path in found & ours:
        path.unlink()
    if found - ours:
        return
    for path in store.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    (store / _SETTINGS_FILE).unlink()
    store.rmdir()


def feature_path(store: Path, name: str) -> Path:
    """Where a folder of finished images keeps the features of one."""
    return store / (name + ".npz")


def is_described(folder: Path, store: Path, name: str) -> bool:
    """Whether a folder of finished images has the features of an image as it is now.

    Not if they are damaged.
    """
    path = feature_path(store, name)
    try:
        return load_source(path) == stamp(folder / name)
    except (FileNotFoundError, ValueError):
        return False


def open_store(
    store: Path,
    settings: Settings,
    make_extractor: Callable[[], Extractor],
    shard: Shard = WHOLE,
) -> None:
    """Make a folder of results, or check that it belongs to the same settings.

    Temporary files that a killed run left are removed, unless other shards may be at work.

    Args:
        store: the folder.
        settings: are written down in a new one.
        make_extractor: called before that: settings of one that cannot be made must not stay.
        shard: the share of the work to be done.

    Raises:
        FolderError: it has other settings, or holds something else.
    """
    path = store / _SETTINGS_FILE
    # Listed before the settings are looked for: another shard may be making the same folder.
    others = [p for p in store.glob("*") if not p.name.startswith(f".{path.stem}.")]
    if path.is_file():
        _check_settings(store, path.read_text("utf-8"), settings)
        if shard == WHOLE:
            remove_stale(store)
        return
    if others:
        raise FolderError(f"{store}: is not empty and was not made by this command")
    make_extractor()
    store.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(settings), "utf-8")


def _h5_images(path: Path, settings: Settings) -> dict[str, tuple[int, int] | None]:
    """The images that an H5 has, and what they were made of; none if there is no such file."""
    hloc.import_h5py()
    if not path.exists():
        return {}
    try:
        with hloc.open_h5(path) as file:
            _check_settings(path, file.attrs.get(_SETTINGS_ATTRIBUTE), settings)
            return hloc.load_sources(file)
    except OSError as error:
        raise FolderError(str(error)) from None


def _check_settings(path: Path, found: str | None, settings: Settings) -> None:
    try:
        old = json.loads(found or "null")
    except ValueError:
        old = None
    if not isinstance(old, dict):
        raise FolderError(f"{path}: was not made by this command; choose another output")
    changed = [
        f"{key} {old.get(key)!r}, now {settings.get(key)!r}"
        for key in {**old, **settings}
        if old.get(key) != settings.get(key)
    ]
    if changed:
        raise FolderError(
            f"{path}: was made with other settings ({'; '.join(changed)}); choose another output"
        )
