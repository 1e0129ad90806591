import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from pair_sets import CONFIG, SETTINGS
from pictures import textured

from bindesc.cli import main
from bindesc.folder import FolderError
from bindesc.image import ImageError
from bindesc.runtime import Runtime
from bindesc.training.cli import WIDE_TURN
from bindesc.training.losses import turn_cosine
from bindesc.training.metric import train
from bindesc.training.noise import FrameNoise
from bindesc.training.pairs import build_pairs, open_pairs
from bindesc.training.patch_images import open_patches

pytest_plugins = ["pair_sets"]


def test_a_set_has_pairs_that_look_alike(pairs):
    data = open_pairs(pairs)
    assert data.settings == SETTINGS
    assert data.patches.shape == (data.end[-1], 2, 32, 32)
    assert (data.start[1:] == data.end[:-1]).all()
    assert len(set(data.scene)) == 3
    flat = data.patches.reshape(len(data.patches), 2, -1).astype(np.float32)
    flat = flat - flat.mean(axis=2, keepdims=True)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True) + 1e-6
    same = (flat[:, 0] * flat[:, 1]).sum(1)
    other = (flat[:, 0] * np.roll(flat[:, 1], 1, axis=0)).sum(1)
    assert np.median(same) > 0.7
    assert np.median(same) > np.median(other) + 0.25


def test_the_same_seed_gives_the_same_bytes(photos, pairs, tmp_path):
    build_pairs(photos, tmp_path / "again", SETTINGS, workers=1)
    for name in ("patches.npy", "xy.npy", "side.npy", "linear.npy", "set.json"):
        assert (tmp_path / "again" / name).read_bytes() == (pairs / name).read_bytes()


def turns(data):
    """Degrees by which the second keypoints are turned against the first ones."""
    return np.degrees(np.arctan2(data.linear[:, 1, 0], data.linear[:, 0, 0]))


def test_a_wide_set_holds_wider_patches_and_what_maps_them(wide):
    data = open_pairs(wide)
    assert data.patches.shape[2:] == (56, 56)
    assert 35 < np.abs(turns(data)).max() <= WIDE_TURN + 1e-3

    def correlation(linear):
        """Of first patches and second ones that are mapped back."""
        values = []
        for (first, second), matrix in zip(data.patches, linear, strict=True):
            centre = np.full((2, 1), 27.5)
            there = np.hstack([matrix, centre - matrix @ centre])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            back = cv2.warpAffine(second, there, (56, 56), flags=flags)
            inner = np.stack([first, back])[:, 12:44, 12:44].reshape(2, -1).astype(float)
            values.append(np.corrcoef(inner)[0, 1])
        return np.array(values)

    far = np.abs(turns(data)) > 20
    assert far.sum() > 20
    right, wrong = correlation(data.linear), correlation(np.linalg.inv(data.linear))
    assert np.median(right[far]) > 0.5
    assert np.median(right[far]) > np.median(wrong[far]) + 0.3
    values = np.linalg.svd(data.linear, compute_uv=False)
    stretched = values[:, 0] > 1.4 * values[:, 1]
    assert stretched.sum() > 20
    assert np.median(right[stretched]) > np.median(wrong[stretched]) + 0.1


def test_a_set_holds_what_a_network_sees(photos, seen, wide):
    data = open_pairs(seen)
    assert data.patches.shape[1:] == (2, 32, 32)
    runtime = Runtime(data.seen_by)
    assert runtime.verify()
    assert data.settings.side == 32
    assert open_pairs(wide).seen_by is None
    assert {*data.photo} == {*open_pairs(wide).photo}


def test_errors_are_drawn_when_a_set_is_built(photos, seen, tmp_path):
    settings = open_pairs(seen).settings
    model = str(open_pairs(seen).seen_by)
    for name, noise in (("exact", 0.0), ("noisy", 1.0)):
        build_pairs(photos, tmp_path / name, replace(settings, model=model, noise=noise))
    exact, noisy = (open_pairs(tmp_path / name) for name in ("exact", "noisy"))
    first = slice(0, exact.end[0])
    assert (exact.xy[first] == noisy.xy[first]).all()  # where the detector found them
    assert (exact.patches[first] != noisy.patches[first]).mean() > 0.1
    with pytest.raises(ValueError, match="when it is built"):
        train(seen, tmp_path / "run", replace(CONFIG, noise=FrameNoise(share=0.5)))


def test_hard_views_are_tilted_and_have_carried_keypoints(photos, seen, tmp_path):
    settings = open_pairs(seen).settings
    model = str(open_pairs(seen).seen_by)
    hard = replace(settings, model=model, warped=0.0, hard=1.0)
    build_pairs(photos, tmp_path / "hard", hard)
    found = open_pairs(tmp_path / "hard")
    values = np.linalg.svd(found.linear, compute_uv=False)
    ratio = values[:, 0] / values[:, 1]
    assert ratio.max() > 1.6  # exp(2 * 0.25) = 1.65 in other views, and there are few here
    np.testing.assert_allclose(values.prod(1), 1, atol=1e-3)  # carried: of the size that they have
    turn = np.degrees(np.arccos(turn_cosine(torch.from_numpy(found.linear)).numpy().clip(-1, 1)))
    assert 4 < np.sqrt((turn**2).mean()) < 25  # errors of 11 degrees, and those of a stretch
    assert (found.end - found.start).min() >= settings.min_pairs
    with pytest.raises(SystemExit):
        main(["patches", "build", str(photos), "--out", str(tmp_path / "x"), "--hard", "2"])


def test_the_command_takes_few_pairs_a_view(photos, tmp_path, capsys):
    command = ["patches", "build", str(photos), "--out", str(tmp_path / "set"), "--views", "1"]
    assert main([*command, "--pairs", "12"]) == 0
    data = open_pairs(tmp_path / "set")
    assert set(data.end - data.start) == {12}
    with pytest.raises(SystemExit):
        main([*command, "--pairs", "-5"])
    assert "--pairs: expected at least 1, got -5" in capsys.readouterr().err


def test_options_of_sets_that_contradict_each_other(photos, tmp_path, capsys):
    build = ["patches", "build", str(photos), "--out", str(tmp_path / "set")]
    for options, message in (
        (["--model", "compact", "--narrow"], "leave --support"),
        (["--model", "compact", "--support", "1.5"], "leave --support"),
        (["--noise", "0.5"], "goes with --model"),
        (["--model", "bingan-256"], "no compact network"),
        (["--model", "nothing"], "neither a shipped model"),
    ):
        assert main([*build, *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_unreadable_photos_are_listed(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "good.png"), textured(400, 500))
    (folder / "bad.jpg").write_text("no photo")
    cv2.imwrite(str(folder / "flat.png"), np.zeros((300, 300), np.uint8))
    cv2.imwrite(str(folder / "dot.png"), np.zeros((1, 1), np.uint8))
    summary = build_pairs(folder, tmp_path / "set", SETTINGS)
    assert set(summary["skipped"]) == {"bad.jpg", "dot.png", "flat.png"}


def test_a_folder_without_use_leaves_nothing_behind(tmp_path):
    with pytest.raises(FolderError, match="no such folder"):
        build_pairs(tmp_path / "missing", tmp_path / "set", SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FolderError, match="no images"):
        build_pairs(tmp_path / "empty", tmp_path / "set", SETTINGS)
    cv2.imwrite(str(tmp_path / "empty" / "flat.png"), np.zeros((300, 300), np.uint8))
    with pytest.raises(ImageError, match="enough pairs"):
        build_pairs(tmp_path / "empty", tmp_path / "set", SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_an_existing_set_is_kept(photos, pairs):
    with pytest.raises(FileExistsError, match="exists already"):
        build_pairs(photos, pairs, SETTINGS)
    assert open_pairs(pairs).settings == SETTINGS


def test_an_older_set_is_told(wide, tmp_path):
    shutil.copytree(wide, tmp_path / "old")
    (tmp_path / "old" / "side.npy").unlink()
    with pytest.raises(FileNotFoundError, match="an older version"):
        open_pairs(tmp_path / "old")


@pytest.mark.parametrize("name", ["set.json", "patches.npy", "xy.npy", "side.npy", "linear.npy"])
@pytest.mark.parametrize("content", [b"", b"{}", b"text"])
def test_a_damaged_set_is_named(pairs, tmp_path, name, content):
    copy = tmp_path / "copy"
    shutil.copytree(pairs, copy)
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{copy}: damaged"):
        open_pairs(copy)
    if name in ("set.json", "patches.npy"):
        with pytest.raises(ValueError, match=f"{copy}: damaged"):
            open_patches(copy)


def test_bingan_wants_square_patches(seen):
    with pytest.raises(ValueError, match="what a network sees"):
        open_patches(seen)
