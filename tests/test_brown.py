import cv2
import numpy as np
import pytest
from pictures import textured

from bindesc.folder import FolderError
from bindesc.image import ImageError
from bindesc.training.brown import BrownError, open_brown, write_brown
from bindesc.training.pairs import PairSettings, build_pairs
from bindesc.training.patch_images import (
    PatchSettings,
    build_patches,
    hold_out,
    open_held_out,
    open_patches,
)

PAIRS = "m50_2_1_0.txt"


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (300, 32, 32), np.uint8)


@pytest.fixture
def folder(patches, tmp_path):
    folder = tmp_path / "brown"
    interest = np.random.default_rng(1).normal(size=(300, 5))
    index = [[0, 1], [298, 299], [0, 299]]
    write_brown(folder, patches, np.arange(300) // 2, interest, {PAIRS: index})
    return folder


def test_what_is_written_is_read(folder, patches):
    read = open_brown(folder)
    assert len(read) == 300
    assert (read.point == np.arange(300) // 2).all()
    assert (read.read_patches() == patches).all()
    assert [len(part) for part in read.read_sheets()] == [256, 44]
    assert (read.read_interest() == np.random.default_rng(1).normal(size=(300, 5))).all()
    index, same = read.read_pairs(PAIRS)
    assert index.tolist() == [[0, 1], [298, 299], [0, 299]]
    assert same.tolist() == [True, True, False]


def test_the_files_are_those_of_the_original(folder):
    assert (folder / "info.txt").read_text().splitlines()[:3] == ["0 0", "0 0", "1 0"]
    assert (folder / PAIRS).read_text().splitlines()[1:] == [
        "298 149 0 299 149 0",
        "0 0 0 299 149 0",
    ]
    assert {p.name for p in folder.glob("patches*")} == {"patches0000.png", "patches0001.png"}


@pytest.mark.parametrize("suffix", ["bmp", "webp"])
def test_sheets_are_row_by_row_in_any_format(tmp_path, suffix):
    sheet = np.zeros((512, 512), np.uint8)
    sheet[32:64, 96:128] = 200
    cv2.imwrite(str(tmp_path / f"patches0000.{suffix}"), sheet, [cv2.IMWRITE_WEBP_QUALITY, 101])
    read = open_brown(tmp_path)
    assert read.point is None
    assert len(read) == 256
    bright = read.read_patches().mean((1, 2))
    assert np.flatnonzero(bright).tolist() == [16 + 3]
    assert bright.max() == 200


def test_large_patches_are_averaged(tmp_path):
    patches = np.random.default_rng(0).integers(0, 256, (3, 64, 64), np.uint8)
    write_brown(tmp_path / "large", patches, [0, 1, 2])
    read = open_brown(tmp_path / "large").read_patches()
    expected = patches.reshape(3, 32, 2, 32, 2).mean((2, 4))
    assert read.shape == (3, 32, 32)
    assert abs(read - expected).max() <= 0.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (PAIRS, "0 0 0 1 0 0\n0 0 0 300 150 0\n", "line 2: patches 0 and 300, but there are 300"),
        (PAIRS, "-1 0 0 1 0 0\n", "line 1: patches -1 and 1"),
        (PAIRS, "0 0 0 1 7 0\n", "line 1: info.txt gives these patches other points"),
        (PAIRS, "0 0 0 1\n", "line 1: expected 6 numbers"),
        (PAIRS, "0 0 0 one 0 0\n", "line 1: not numbers"),
        ("interest.txt", "0 0 0 0 0\n", "1 lines for 300 patches"),
        ("info.txt", "0 0\n", "1 lines for 2 sheets"),
        ("info.txt", "0 0\n" * 513, "513 lines for 2 sheets"),
    ],
)
def test_damaged_text_files_are_refused(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(BrownError, match=message):
        read = open_brown(folder)
        read.read_interest()
        read.read_pairs(PAIRS)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(BrownError, match=r"m50_100000_100000_0\.txt: no such file"):
        open_brown(folder).read_pairs()
    (folder / "patches0000.png").unlink()
    with pytest.raises(BrownError, match="sheet 0 of 2 is missing"):
        open_brown(folder)
    with pytest.raises(BrownError, match="no sheets"):
        open_brown(tmp_path)


def test_bad_sheets_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "patches0000.png"), np.zeros((512, 500), np.uint8))
    with pytest.raises(BrownError, match="500x512 pixels"):
        open_brown(tmp_path).read_patches()
    (tmp_path / "patches0000.png").write_text("no image")
    with pytest.raises(ImageError, match="patches0000"):
        open_brown(tmp_path).read_patches()
    (tmp_path / "patches0000.bmp").write_text("no image")
    with pytest.raises(BrownError, match="the same number"):
        open_brown(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 32, 31), np.uint8), [0, 1]), "patches:"),
        ((np.zeros((2, 32, 32)), [0, 1]), "patches:"),
        ((np.zeros((2, 16, 16), np.uint8), [0, 1]), "32 or 64"),
        ((np.zeros((0, 32, 32), np.uint8), []), "at least one"),
        ((np.zeros((2, 32, 32), np.uint8), [0]), "point:"),
        ((np.zeros((2, 32, 32), np.uint8), [0, 1], np.zeros((2, 4))), "interest:"),
        ((np.zeros((2, 32, 32), np.uint8), [0, 1], None, {PAIRS: [[0, 2]]}), "pairs:"),
    ],
)
def test_what_does_not_fit_is_not_written(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_brown(tmp_path / "out", *arguments)
    assert not any(tmp_path.iterdir())


# Sets of single patches.


def test_patches_of_photos_and_sheets_are_one_array(folder, patches, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), textured(300, 300))
    cv2.imwrite(str(photos / "flat.png"), np.zeros((200, 200), np.uint8))
    cv2.imwrite(str(photos / "tiny.png"), textured(8, 8))
    (photos / "bad.jpg").write_text("no photo")
    settings = PatchSettings(per_photo=50, support=1.5, held_out_every=0)
    summary = build_patches(tmp_path / "set", settings, photos=[photos], brown=[folder])
    opened, support = open_patches(tmp_path / "set")
    assert support == 1.5
    assert isinstance(opened, np.memmap)
    assert (opened[:300] == patches).all()
    assert summary["sources"] == {str(folder): 300, str(photos): len(opened) - 300}
    assert 30 <= len(opened) - 300 <= 50
    assert opened[300:].std((1, 2)).min() > 5
    names = {p.rsplit("/", 1)[1] for p in summary["skipped"]}
    assert names == {"flat.png", "tiny.png", "bad.jpg"}
    assert {p.name for p in (tmp_path / "set").iterdir()} == {"patches.npy", "set.json"}
    assert open_held_out(tmp_path / "set") is None


def test_which_photos_are_held_out():
    assert hold_out(range(40), 16) == [15, 31]
    assert hold_out(range(3), 16) == [2]
    assert hold_out(range(1), 16) == hold_out(range(40), 0) == []


def test_held_out_photos_give_pairs_and_no_training_patches(tmp_path):
    photos = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(photos):
        folder.mkdir()
        cv2.imwrite(str(folder / "a.png"), textured(300, 400, seed))
    summary = build_patches(
        tmp_path / "set", PatchSettings(per_photo=50, support=1.5), photos=photos
    )
    assert summary["held_out"] == [str(photos[1] / "a.png")]
    assert summary["sources"] == {str(photos[0]): summary["count"], str(photos[1]): 0}
    held_out = open_held_out(tmp_path / "set")
    assert set(held_out.photo) == {"a.png"}
    assert held_out.settings.support == 1.5
    assert len(held_out.patches) >= 20


def test_a_held_out_photo_without_keypoints_is_told(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), textured(300, 400))
    cv2.imwrite(str(photos / "flat.png"), np.zeros((200, 200), np.uint8))
    summary = build_patches(tmp_path / "set", PatchSettings(), photos=[photos])
    assert "fewer than 8 pairs" in summary["skipped"]["held-out photos"]
    assert open_held_out(tmp_path / "set") is None


def test_a_set_of_pairs_is_a_set_of_patches(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), textured(400, 500))
    settings = PairSettings(views=4, min_pairs=8, keypoints=500)
    count = build_pairs(photos, tmp_path / "pairs", settings, workers=1)["count"]
    assert open_patches(tmp_path / "pairs")[0].shape == (2 * count, 32, 32)


def test_nothing_is_left_where_there_are_no_patches(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    with pytest.raises(FolderError, match="no images"):
        build_patches(tmp_path / "set", PatchSettings(), photos=[photos])
    cv2.imwrite(str(photos / "flat.png"), np.zeros((200, 200), np.uint8))
    with pytest.raises(ImageError, match="no keypoints"):
        build_patches(tmp_path / "set", PatchSettings(), photos=[photos])
    with pytest.raises(FileNotFoundError, match="no set"):
        open_patches(tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]
