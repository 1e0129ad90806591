from __future__ import annotations

import os
from pathlib import Path

import pytest

from bindesc.files import atomic_path, is_temporary, remove_stale, remove_stale_of


def test_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".png"
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_unusable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "no" / "a.png", tmp_path / "file" / "a.png", tmp_path):
        with pytest.raises(OSError, match=f"cannot write {path}: "), atomic_path(path):
            pytest.fail("the block must not run")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    link, target = tmp_path / "a.txt", tmp_path / "sub" / "b.txt"
    link.symlink_to("sub/b.txt")
    for text in ("made", "replaced"):
        with atomic_path(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "b.txt", "sub"]


def test_a_pipe_is_written(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_path(pipe) as path:
        path.write_text("text")
    assert os.read(reader, 99) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    random = "0123456789abcdef"
    (tmp_path / "sub").mkdir()
    (tmp_path / f".sub.{random}.tmp.d").mkdir()
    kept = {
        "a.npz",
        "sub/.hidden",
        ".foo.tmp.png.npz",
        f".foo.{random}.tmp.png.npz",
        ".b.9.tmp.npz",
    }
    stale = f".a.jpg.{random}.tmp.npz", f"sub/.b.{random}.tmp.npz", f".c.{random}.tmp"
    for name in (*stale, *kept):
        (tmp_path / name).touch()
    remove_stale(tmp_path)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {"sub", f".sub.{random}.tmp.d", *kept}


@pytest.mark.parametrize("stem", ["a", "ü.x" * 62, "文" * 83])
def test_names_of_any_length(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.npz"
    with atomic_path(path) as temporary:
        temporary.touch()
        assert is_temporary(temporary) and not is_temporary(path)
        remove_stale_of(path.with_name("other.npz"))
        remove_stale_of(path.with_name(f"{stem}b.npz"))
        assert temporary.exists()
        remove_stale_of(path)
        remove_stale_of(tmp_path / "none" / path.name)
        assert not temporary.exists()
        temporary.touch()
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"
