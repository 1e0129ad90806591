from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import textured, turned_by_exif

from bindesc.export import load_features_npz
from bindesc.folder import FolderError, Report, Shard, extract_folder, feature_path, find_images
from bindesc.hloc import load_codes
from bindesc.image import read_image
from bindesc.opencv_descriptors import OpenCVFeatures

h5py = pytest.importorskip("h5py")

SETTINGS = {"model": "orb", "n-kpts": 100, "resize": None}
NAMES = ["a.jpg", "sub/b 1.PNG", "sub/black.png", "z.jpeg"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images, one without corners, a damaged one and a text file."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        image = np.zeros((50, 60), np.uint8) if "black" in name else textured(seed=seed)
        assert cv2.imwrite(str(folder / name), image)
    (folder / "damaged.jpg").write_bytes((folder / "a.jpg").read_bytes()[:3000])
    (folder / "notes.txt").write_text("no image\n")
    return folder


class Counter:
    """Makes an ORB extractor and counts the images that it sees."""

    def __init__(self) -> None:
        self.images = 0
        self.orb = OpenCVFeatures("orb", "orb", 100)

    def __call__(self) -> Counter:
        return self

    def extract(self, image: np.ndarray) -> object:
        self.images += 1
        return self.orb.extract(image)


def run(photos: Path, output: Path, **changes: object) -> tuple[Report, int]:
    counter = Counter()
    settings = {**SETTINGS, **changes}
    report = extract_folder(photos, output, counter, settings)  # type: ignore[arg-type]
    return report, counter.images


def contents(output: Path) -> dict[str, int]:
    """Image names and keypoint counts of an output."""
    if output.is_dir():
        return {
            path.relative_to(output).as_posix()[:-4]: len(load_features_npz(path))
            for path in output.rglob("*.npz")
        }
    found = {}
    with h5py.File(output, "r") as file:
        file.visit(
            lambda name: (
                found.update({name[:-10]: len(file[name])}) if name.endswith("/keypoints") else None
            )
        )
    return found


def outputs(tmp_path: Path) -> list[Path]:
    return [tmp_path / "features.h5", tmp_path / "features"]


def test_images_are_found_below_the_folder(photos: Path) -> None:
    assert find_images(photos) == ["a.jpg", "damaged.jpg", *NAMES[1:]]


def test_a_folder_that_cannot_be_read_is_an_error(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def refuse(path: str) -> object:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="sub"):
        find_images(photos)


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for path, reason in (
        (tmp_path, "no images"),
        (tmp_path / "no", "no such folder"),
        (tmp_path / "notes.txt", "is a file"),
    ):
        with pytest.raises(FolderError, match=reason):
            find_images(path)


@pytest.mark.parametrize("kind", [0, 1])
def test_every_readable_image_is_described_once(photos: Path, tmp_path: Path, kind: int) -> None:
    output = outputs(tmp_path)[kind]
    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (4, 0, 4)
    assert report.keypoints == sum(contents(output).values())
    assert len(report.unreadable) == 1
    assert "damaged.jpg: truncated" in report.unreadable[0]
    found = contents(output)
    assert sorted(found) == NAMES
    assert found["sub/black.png"] == 0
    assert found["a.jpg"] > 50

    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (0, 4, 0)

    assert cv2.imwrite(str(photos / "new.png"), textured(seed=9))
    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (1, 4, 1)
    assert sorted(contents(output)) == sorted([*NAMES, "new.png"])
    assert {path.name for path in tmp_path.iterdir()} == {"photos", output.name}


@pytest.mark.parametrize("seconds", [-1000, 0, 0.1, 1000])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_replaced_image_is_described_anew(
    photos: Path, tmp_path: Path, seconds: int, kind: int
) -> None:
    output = outputs(tmp_path)[kind]
    run(photos, output)
    before = contents(output)
    name = "sub/black.png"
    when = (photos / name).stat().st_mtime + seconds
    assert cv2.imwrite(str(photos / name), textured(seed=9))
    os.utime(photos / name, (when, when))
    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (1, 3, 1)
    after = contents(output)
    assert after.pop(name) > before.pop(name) == 0
    assert after == before
    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (0, 4, 0)


def test_renamed_images_are_described_anew(photos: Path, tmp_path: Path) -> None:
    for number in range(4):
        shutil.copy(photos / "a.jpg", photos / f"f{number}.jpg")
        cv2.imwrite(str(photos / f"f{number}.jpg"), textured(seed=number))
    run(photos, tmp_path / "features")
    for number in range(1, 4):
        (photos / f"f{number}.jpg").rename(photos / f"f{number - 1}.jpg")
    report, _ = run(photos, tmp_path / "features")
    assert (report.extracted, report.kept) == (3, 4)
    for number in range(3):
        found = load_features_npz(feature_path(tmp_path / "features", f"f{number}.jpg"))
        image = read_image(photos / f"f{number}.jpg")
        assert (found.xy == Counter().extract(image).xy).all()


@pytest.mark.parametrize("kind", [0, 1])
def test_an_h5_has_the_pixels_as_they_are_stored(photos: Path, tmp_path: Path, kind: int) -> None:
    """hloc does not apply the EXIF orientation; OpenCV does, as who reads the NPZ."""
    folder, output = tmp_path / "turned", outputs(tmp_path)[kind]
    folder.mkdir()
    (folder / "a.jpg").write_bytes(turned_by_exif((photos / "a.jpg").read_bytes()))
    run(folder, output)
    if kind:
        assert load_features_npz(output / "a.jpg.npz").image_size == (240, 320)
    else:
        with h5py.File(output, "r") as file:
            assert file["a.jpg/image_size"][()].tolist() == [320, 240]
            assert file["a.jpg/keypoints"][:, 0].max() > 240


@pytest.mark.parametrize("kind", [0, 1])
def test_an_extractor_that_cannot_be_made_leaves_nothing(
    photos: Path, tmp_path: Path, kind: int
) -> None:
    def fail() -> object:
        raise ValueError("no such detector")

    with pytest.raises(ValueError, match="no such detector"):
        extract_folder(photos, outputs(tmp_path)[kind], fail, SETTINGS)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == [photos]


@pytest.mark.parametrize("kind", [0, 1])
def test_a_name_that_is_too_long_is_reported(photos: Path, tmp_path: Path, kind: int) -> None:
    longest, longer = "文" * 82 + "a.png", "文" * 82 + "ab.png"  # 251 and 252 bytes
    for name in (longest, longer):
        shutil.copy(photos / "a.jpg", photos / name)
    report, _ = run(photos, outputs(tmp_path)[kind])
    assert (report.extracted, len(report.unreadable)) == (5, 2)
    assert any(f"{longer}: the name is too long" in line for line in report.unreadable)
    assert longest in contents(outputs(tmp_path)[kind])


def test_linked_folders_are_followed_once(photos: Path, tmp_path: Path) -> None:
    (photos / "link").symlink_to(photos / "sub")
    (photos / "sub" / "loop").symlink_to(photos)
    (photos / "z").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "a.jpg", tmp_path / "elsewhere" / "a.jpg")
    found = ["a.jpg", "damaged.jpg", "link/b 1.PNG", "link/black.png", "z.jpeg", "z/a.jpg"]
    assert find_images(photos) == found


def test_what_a_killed_run_left_of_an_h5_is_removed(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "features.h5"
    run(photos, tmp_path / "features.h5.part")
    shutil.copytree(tmp_path / "features.h5.part", tmp_path / "copy")
    run(photos, output)
    (tmp_path / "copy").rename(tmp_path / "features.h5.part")
    (tmp_path / ".features.0123456789abcdef.tmp.h5").touch()
    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (0, 4, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.h5", "photos"]


def test_an_h5_that_cannot_be_opened_is_not_called_something_else(
    photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features.h5"
    run(photos, output)
    output.write_bytes(output.read_bytes()[:-100])
    with pytest.raises(FolderError, match=r"cannot be read \(.*truncated"):
        run(photos, output)


def test_an_h5_keeps_what_other_folders_gave(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "features.h5"
    run(photos, output)
    other = tmp_path / "other"
    other.mkdir()
    assert cv2.imwrite(str(other / "new.png"), textured(seed=9))
    run(other, output)
    assert sorted(contents(output)) == sorted([*NAMES, "new.png"])


@pytest.mark.parametrize("kind", [0, 1])
def test_features_of_an_image_that_is_damaged_now_are_removed(
    photos: Path, tmp_path: Path, kind: int
) -> None:
    output = outputs(tmp_path)[kind]
    run(photos, output)
    (photos / "a.jpg").write_bytes(b"")
    later = time.time() + 1000
    os.utime(photos / "a.jpg", (later, later))
    report, _ = run(photos, output)
    assert (report.extracted, report.kept, len(report.unreadable)) == (0, 3, 2)
    assert sorted(contents(output)) == NAMES[1:]
    report, _ = run(photos, output)
    assert (report.extracted, report.kept, len(report.unreadable)) == (0, 3, 2)


@pytest.mark.parametrize("kind", [0, 1])
def test_output_of_other_settings_is_refused(photos: Path, tmp_path: Path, kind: int) -> None:
    output = outputs(tmp_path)[kind]
    run(photos, output)
    before = contents(output)
    with pytest.raises(FolderError, match=r"other settings \(n-kpts 100, now 200\)"):
        run(photos, output, **{"n-kpts": 200})
    assert contents(output) == before


def test_foreign_outputs_are_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("text")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name, reason in (
        ("text.h5", "is not an H5 file"),
        ("foreign.h5", "was not made by this command"),
        ("full", "is not empty and was not made by this command"),
    ):
        with pytest.raises(FolderError, match=f"{name}: {reason}"):
            run(photos, tmp_path / name)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


@pytest.mark.parametrize("kind", [0, 1])
def test_interrupted_run_goes_on(
    photos: Path, tmp_path: Path, opencv_threads: Callable[[int], None], kind: int
) -> None:
    opencv_threads(1)
    output = outputs(tmp_path)[kind]

    def stop_after_two(names: Sequence[str]) -> Iterator[str]:
        yield from names[:3]
        raise KeyboardInterrupt

    counter = Counter()
    with pytest.raises(KeyboardInterrupt):
        extract_folder(photos, output, counter, SETTINGS, None, stop_after_two)  # type: ignore[arg-type]
    assert counter.images == 2  # the third is damaged
    assert kind == 1 or not output.exists()
    report, images = run(photos, output)
    assert (report.extracted, report.kept, images) == (2, 2, 2)
    assert sorted(contents(output)) == NAMES


def test_run_of_several_threads_keeps_what_was_under_way_when_interrupted(
    photos: Path, tmp_path: Path, opencv_threads: Callable[[int], None]
) -> None:
    opencv_threads(3)
    for number in range(20):
        (photos / f"copy{number}.jpg").write_bytes((photos / "a.jpg").read_bytes())

    def stop_after_one(names: Sequence[str]) -> Iterator[str]:
        yield names[0]
        raise KeyboardInterrupt

    counter = Counter()
    with pytest.raises(KeyboardInterrupt):
        extract_folder(photos, tmp_path / "out", counter, SETTINGS, None, stop_after_one)  # type: ignore[arg-type]
    begun = counter.images
    assert 1 <= begun <= 6
    report, images = run(photos, tmp_path / "out")
    assert (report.extracted, report.kept, images) == (24 - begun, begun, 24 - begun)


SLOW_RUN = """
import sys, time
from pathlib import Path
from bindesc.folder import extract_folder
from bindesc.opencv_descriptors import OpenCVFeatures

def slowly(names):
    for name in names:
        print(name, flush=True)
        yield name
        time.sleep(0.2)

make = lambda: OpenCVFeatures("orb", "orb", 100)
settings = {"model": "orb", "n-kpts": 100, "resize": None}
extract_folder(Path(sys.argv[1]), Path(sys.argv[2]), make, settings, None, slowly)
"""


@pytest.mark.parametrize("kind", [0, 1])
def test_killed_run_leaves_no_broken_file(photos: Path, tmp_path: Path, kind: int) -> None:
    output = outputs(tmp_path)[kind]
    path = os.pathsep.join(filter(None, sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_RUN, str(photos), str(output)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"a.jpg\n"
        assert process.stdout.readline() == b"damaged.jpg\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = output if kind else output.with_name(output.name + ".part")
    stale = store / ".left.jpg.0123456789abcdef.tmp.npz"
    stale.write_bytes(b"half a file")
    assert kind == 1 or not output.exists()
    report, _ = run(photos, output)
    assert report.kept >= 1
    assert report.extracted + report.kept == 4
    assert sorted(contents(output)) == NAMES
    assert not stale.exists()


def test_nothing_readable_leaves_no_h5(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("text")
    report, _ = run(photos, tmp_path / "f.h5")
    assert (report.extracted, report.kept, len(report.unreadable)) == (0, 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_name_that_an_h5_cannot_hold_is_reported(photos: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff.png")
    shutil.copy(photos / "a.jpg", photos / name)
    report, _ = run(photos, tmp_path / "f.h5")
    assert (report.extracted, len(report.unreadable)) == (4, 2)
    assert any("not UTF-8" in line for line in report.unreadable)
    assert sorted(contents(tmp_path / "f.h5")) == NAMES
    run(photos, tmp_path / "folder")
    assert feature_path(tmp_path / "folder", name).exists()


@pytest.mark.parametrize("text", ["[]", "{", "null", ""])
def test_a_store_of_something_else_is_refused(text: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "bindesc.json").write_text(text)
    with pytest.raises(FolderError, match="was not made by this command"):
        run(photos, tmp_path / "f")


@pytest.mark.parametrize("size", [0, 100, -100])
@pytest.mark.parametrize("kind", [0, 1])
def test_a_damaged_part_is_done_again(photos: Path, tmp_path: Path, kind: int, size: int) -> None:
    run(photos, tmp_path / "f")
    expected = contents(tmp_path / "f")
    output = tmp_path / ("g" if kind else "g.h5")
    store = output if kind else tmp_path / "g.h5.part"
    (tmp_path / "f").rename(store)
    damaged = feature_path(store, "a.jpg")
    damaged.write_bytes(damaged.read_bytes()[:size])
    report, _ = run(photos, output)
    assert (report.extracted, report.kept) == (1, 3)
    assert contents(output) == expected


def test_a_part_whose_pixels_are_damaged_is_named(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "f")
    (tmp_path / "f").rename(tmp_path / "f.h5.part")
    damaged = feature_path(tmp_path / "f.h5.part", "a.jpg")
    data = bytearray(damaged.read_bytes())
    data[300] ^= 255
    damaged.write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(str(damaged))):
        run(photos, tmp_path / "f.h5")


def test_a_run_leaves_what_another_folder_has_begun(photos: Path, tmp_path: Path) -> None:
    output, part, other = tmp_path / "f.h5", tmp_path / "f.h5.part", tmp_path / "other"
    other.mkdir()
    cv2.imwrite(str(other / "new.png"), textured(seed=9))
    run(other, part)  # and killed before the H5 was written
    run(photos, output)
    run(photos, output)
    assert [path.name for path in part.glob("*.npz")] == ["new.png.npz"]
    report, images = run(other, output)
    assert (report.extracted, report.kept, images) == (0, 1, 0)
    assert sorted(contents(output)) == sorted([*NAMES, "new.png"]) and not part.exists()


def test_a_run_killed_while_it_cleans_up_goes_on(photos: Path, tmp_path: Path) -> None:
    output, part = tmp_path / "f.h5", tmp_path / "f.h5.part"
    run(photos, part)
    unlink = Path.unlink
    for most in range(12):
        left = [most]

        def stops(path: Path, missing_ok: bool = False, left: list[int] = left) -> None:
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            unlink(path, missing_ok=missing_ok)

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Path, "unlink", stops)
            run(photos, output)
        shutil.copy(photos / "a.jpg", photos / f"more{most}.jpg")
        report, _ = run(photos, output)
        assert report.extracted == 1 and not part.exists()
        run(photos, part)


def test_folders_may_have_the_names_of_arrays(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    for name in ("keypoints/a.jpg", "sub/descriptors/b.jpg", "descriptors/keypoints/c.jpg"):
        (photos / name).parent.mkdir(parents=True)
        shutil.copy(photos / "a.jpg", photos / name)
    for expected in ((7, 0), (0, 7)):
        report, _ = run(photos, output)
        assert (report.extracted, report.kept) == expected
    assert len(dict(load_codes(output))) == 7


def test_a_damaged_h5_is_named(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "f.h5"
    run(photos, output)
    whole = output.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, 4000, 60):
            data[at] = random.integers(0, 256)
        output.write_bytes(data)
        for read in (lambda: run(photos, output), lambda: list(load_codes(output))):
            try:
                read()
            except (OSError, ValueError) as error:
                assert str(output) in str(error)


def test_long_side_is_used(photos: Path, tmp_path: Path) -> None:
    make = Counter()
    extract_folder(photos, tmp_path / "full", make, {"resize": None})  # type: ignore[arg-type]
    extract_folder(photos, tmp_path / "small", make, {"resize": 160}, 160)  # type: ignore[arg-type]
    full, small = (load_features_npz(tmp_path / n / "a.jpg.npz") for n in ("full", "small"))
    assert full.image_size == small.image_size == (320, 240)
    assert small.size.min() == pytest.approx(2 * full.size.min())


def test_shards_share_the_images_and_give_the_same_files(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "whole")
    for number in (1, 2, 3):
        shard = Shard(number, 3)
        extract_folder(photos, tmp_path / "out", Counter(), SETTINGS, shard=shard)
    expected = {p.name: p.read_bytes() for p in (tmp_path / "whole").rglob("*.*") if p.is_file()}
    assert {
        p.name: p.read_bytes() for p in (tmp_path / "out").rglob("*.*") if p.is_file()
    } == expected


def test_a_shard_leaves_the_temporary_files_of_others(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    extract_folder(photos, output, Counter(), SETTINGS, shard=Shard(1, 2))
    temporary = output / ".z.jpeg.0123456789abcdef.tmp.npz"
    temporary.touch()
    extract_folder(photos, output, Counter(), SETTINGS, shard=Shard(2, 2))
    assert temporary.exists()
    run(photos, output)
    assert not temporary.exists()


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "a/b", "-1/2", "1/2/3"])
def test_other_shards_are_refused(text: str) -> None:
    assert Shard.parse("2/3") == Shard(2, 3)
    with pytest.raises(ValueError, match="is not I/N"):
        Shard.parse(text)
