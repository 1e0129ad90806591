"""Output files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST_STEM = 40  # characters that a temporary name keeps: a file's name ends at 255 bytes


def check_writable(path: Path) -> None:
    """Find out before the work is done whether a file can be written.

    Raises:
        OSError: ``path`` is a folder, or its folder is missing or not writable.
    """
    if not path.parent.is_dir():
        raise OSError(f"cannot write {path}: {path.parent} is not a folder")
    if path.is_dir():
        raise OSError(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise OSError(f"cannot write {path}: no permission to write in {path.parent}")


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``; rename it to ``path`` when the block succeeds.

    The temporary name keeps the suffix, is hidden (``.name.RANDOM.tmp.suffix``) and is removed when
    the block fails. An existing ``path`` stays as it is until the rename replaces it; a symbolic
    link stays, and what it points to is replaced. A pipe or device is written as it is.

    Args:
        path: the file to write; its folder must exist.

    Yields:
        The temporary path, which the block must write.

    Raises:
        OSError: the folder is missing or not writable; the text names ``path``.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    if path.is_symlink():
        path = Path(os.path.realpath(path))
    check_writable(path)
    # Not the number of the process: machines that share a folder may have the same.
    random = secrets.token_hex(8)
    temporary = path.with_name(f".{_shortened(path.stem)}.{random}.tmp{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder beside ``path``; rename it to ``path`` when the block succeeds.

    The folder (``name.partial``) is removed when the block fails; one that a killed run left is
    emptied first.

    Args:
        path: the folder to make; its parents are made too.

    Raises:
        FileExistsError: ``path`` exists.
    """
    if path.exists():
        raise FileExistsError(f"{path}: exists already; remove it or choose another name")
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def stamp(path: Path) -> tuple[int, int]:
    """What tells a file from another: its size and when it was changed, ns; -1 for no file."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def is_utf8(name: str | os.PathLike[str]) -> bool:
    """Whether a file's name is UTF-8, as formats that hold names need."""
    try:
        os.fspath(name).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_temporary(path: Path) -> bool:
    """Whether a file is named as :func:`atomic_path` names them until they are whole."""
    return _temporary(".+", r"(\.[^.]+)?").fullmatch(path.name) is not None


def remove_stale(folder: Path) -> None:
    """Delete the temporary files that killed runs left under ``folder``."""
    for path in folder.rglob(".*.tmp*"):
        if is_temporary(path) and path.is_file():
            path.unlink()


def remove_stale_of(path: Path) -> None:
    """Delete the temporary files that killed runs left of one file."""
    ours = _temporary(re.escape(_shortened(path.stem)), re.escape(path.suffix))
    for other in path.parent.glob(".*.tmp*"):
        if ours.fullmatch(other.name):
            other.unlink()


def _shortened(stem: str) -> str:
    if len(stem) <= _LONGEST_STEM:
        return stem
    digest = hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]
    return f"{stem[: _LONGEST_STEM - len(digest) - 1]}-{digest}"


def _temporary(stem: str, suffix: str) -> re.Pattern[str]:
    return re.compile(rf"\.{stem}\.[0-9a-f]{{16}}\.tmp{suffix}", re.DOTALL)
