import re

import cv2
import numpy as np
import pytest
from pictures import textured, textured_gray

from benchmarks import brown_fpr95, patch_pairs
from benchmarks.brown_fpr95 import Row, main, table
from benchmarks.datasets import Scene, View
from benchmarks.fpr95_plots import Distances, roc_curve
from benchmarks.patch_descriptors import opencv_row, untrained_row
from benchmarks.patch_pairs import brown_folders, pairs_from_brown, pairs_from_scenes
from bindesc.models.bingan import BinGanConfig
from bindesc.patches import squares_to_log_polar
from bindesc.training.brown import BrownError, write_brown
from bindesc.training.gan_step import GanConfig
from bindesc.training.scores import pair_distances

TURNED = np.array([[0.0, -1.2, 420], [1.2, 0.0, 10], [0, 0, 1]])  # by 90 degrees, 1.2 times larger


@pytest.fixture(scope="module")
def scene():
    reference = textured_gray(300, 340)
    view = cv2.warpPerspective(reference, TURNED, (440, 440))
    return Scene("made", reference, (View("1-2", view, TURNED), View("1-3", reference, np.eye(3))))


@pytest.fixture(scope="module")
def patches(scene):
    return pairs_from_scenes("made", [scene], 40).cut(1.0, 32)


@pytest.fixture
def brown(patches, tmp_path):
    folder = tmp_path / "root" / "liberty"
    folder.parent.mkdir()
    index = np.arange(40)
    pairs = np.concatenate(
        [np.stack([index, index + 40], 1), np.stack([index, (index + 5) % 40 + 40], 1)]
    )
    write_brown(folder, patches, np.tile(index, 2), pairs={"m50_40_40_0.txt": pairs})
    return folder.parent


# Pairs.


def test_without_noise_the_patches_of_a_pair_are_alike(scene, monkeypatch):
    for name in ("POSITION_NOISE", "SCALE_NOISE", "ANGLE_NOISE"):
        monkeypatch.setattr(patch_pairs, name, 0.0)
    test = pairs_from_scenes("made", [scene], 60)
    assert test.same.sum() == 60
    assert len(test.pairs) == 120
    patches = test.cut(1.0, 32).astype(float)
    gap = np.abs(patches[test.pairs[:, 0]] - patches[test.pairs[:, 1]]).mean((1, 2))
    assert np.quantile(gap[test.same], 0.9) < 8
    assert np.median(gap[~test.same]) > 20


def test_noise_moves_both_patches(scene, monkeypatch):
    noisy = pairs_from_scenes("made", [scene], 60)
    gap = np.abs(np.diff(noisy.cut(1.0, 32)[noisy.pairs].astype(float), axis=1)).mean((1, 2, 3))
    assert 8 < np.median(gap[noisy.same]) < np.median(gap[~noisy.same])
    again = pairs_from_scenes("made", [scene], 60)
    assert (again.cut(1.25, 32) == noisy.cut(1.25, 32)).all()
    assert not (noisy.cut(1.25, 32) == noisy.cut(1.0, 32)).all()
    other = pairs_from_scenes("made", [scene], 60, seed=1)
    assert not (other.cut(1.0, 32) == noisy.cut(1.0, 32)).all()


def test_each_draw_of_the_noise_brings_the_points_again(scene):
    with pytest.raises(ValueError, match=r"the images give (\d+) pairs") as error:
        pairs_from_scenes("made", [scene], 99999)
    once = int(re.search(r"give (\d+)", str(error.value))[1])
    with pytest.raises(ValueError, match=r"the images give \d+ pairs"):
        pairs_from_scenes("made", [scene], once + 1)
    several = pairs_from_scenes("made", [scene], 2 * once, draws=3)
    first = several.cut(1.0, 32)[: 2 * once]
    assert len(np.unique(first, axis=0)) == 2 * once  # no noise is drawn twice
    gap = np.abs(np.diff(several.cut(1.0, 32)[several.pairs].astype(float), axis=1)).mean((1, 2, 3))
    assert 8 < np.median(gap[several.same]) < np.median(gap[~several.same])


def test_views_take_turns_and_too_few_points_are_an_error(scene):
    with pytest.raises(ValueError, match=r"the images give \d+ pairs, wanted 99999"):
        pairs_from_scenes("made", [scene], 99999)
    with pytest.raises(ValueError, match="too close together"):
        rng = np.random.default_rng(0)
        patch_pairs._other_points(rng, np.zeros(3), np.zeros((3, 2)), np.full(3, 30.0))


def test_photos_give_pairs(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), textured(300, 400))
    test = pairs_from_scenes("photos", patch_pairs.scenes_of_photos(tmp_path), 20)
    assert test.cut(1.0, 32).shape == (40, 32, 32)
    assert test.cut(1.0, 64).shape == (40, 64, 64)
    rings, squares = test.cut(1.0, None), squares_to_log_polar(test.cut(1.0, 64))
    assert np.abs(rings.astype(float) - squares)[:, 8:].mean() < 5
    assert not (rings == squares).all()


def test_pairs_of_a_phototour_folder(brown, patches):
    assert brown_folders(brown) == brown_folders(brown / "liberty") == [brown / "liberty"]
    test = pairs_from_brown(brown / "liberty", 10)
    assert test.same.tolist() == [True] * 10 + [False] * 10
    read = test.cut(1.0, 32)
    assert (test.cut(1.0, None) == squares_to_log_polar(read)).all()
    assert len(read) <= 40
    original = {patch.tobytes(): index % 40 for index, patch in enumerate(patches)}
    points = np.array([original[patch.tobytes()] for patch in read])
    assert ((points[test.pairs[:, 0]] == points[test.pairs[:, 1]]) == test.same).all()
    with pytest.raises(BrownError, match="no folder with"):
        brown_folders(brown / "liberty" / "missing")


# Descriptors.


@pytest.mark.parametrize(("name", "shape"), [("orb", 32), ("sift", 128)])
def test_opencv_describes_every_patch_wherever_it_lies(patches, name, shape):
    row = opencv_row(name)
    codes = row.describe(patches)
    assert codes.shape == (80, shape)
    assert (row.describe(patches[70:71]) == codes[70:71]).all()
    moved = pair_distances(codes[:40], codes[40:]), pair_distances(codes[:40], codes[:40])
    assert np.median(moved[0]) > 0 == moved[1].max()


def test_orb_on_a_patch_is_orb_on_the_image():
    """On an upright keypoint at the size of the patch; its margin in the image differs a little."""
    image = textured_gray(200, 200)
    keypoint = cv2.KeyPoint(95.5, 95.5, 32, 0, 1, 0, 0)
    _, expected = cv2.ORB.create().compute(image, [keypoint])
    got = opencv_row("orb").describe(image[None, 80:112, 80:112])
    assert pair_distances(got, expected)[0] <= 8


def test_the_untrained_network_is_initialised_from_the_given_patches(patches):
    model = BinGanConfig(narrow=8, wide=8, bits=16, pooled=8)
    config = GanConfig(model=model, generator_width=16)
    row = untrained_row(patches, 1.25, config)
    assert row.support == 1.25
    codes = row.describe(patches[:5])
    assert codes.shape == (5, 2)
    assert (untrained_row(patches, 1.0, config).describe(patches[:5]) == codes).all()
    assert not (untrained_row(patches // 2, 1.0, config).describe(patches[:5]) == codes).all()


# The table.


def test_the_roc_curve_passes_through_the_counts():
    false, true = roc_curve(Distances(np.array([1, 2, 3]), np.array([2, 4])))
    assert false.tolist() == [0, 0.5, 0.5, 1]
    assert true == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_a_set_is_a_column():
    rows = [
        Row(name, label, "256 bits", 1.0, 8, 0.25, 0.2, 0.3, None, 0.1)
        for name in ("one", "two")
        for label in ("a", "b")
    ]
    made = table(rows[:3])
    assert made["header"] == [
        "FPR@95, %", "code", "support", "one", "two", "bit bias", "bit correlation",
    ]  # fmt: skip
    cell = "25.0 (20.0-30.0)"
    assert made["rows"][0] == ["a", "256 bits", "1", cell, cell, "-", "0.100"]
    assert made["rows"][1][4] == "-"


def test_the_command_measures_models_with_labels(brown, tmp_path, capsys):
    plots = tmp_path / "plots"
    options = ["--root", str(brown), "--rows", "orb", "bindesc", "--model", "mine=compact"]
    assert main([*options, "--pairs", "20", "--plots", str(plots)]) == 0
    out = capsys.readouterr().out
    for label in ("mine", "mine, turned", "mine, 64x64 patches"):
        assert f"liberty: {label}" in out
    assert "| BinGAN" in out
    assert "published" in out
    for name in ("roc_liberty.png", "distances_liberty.png"):
        assert cv2.imread(str(plots / name)).std() > 5


def test_bad_input_is_one_line(brown, tmp_path, capsys, monkeypatch):
    assert main(["--root", str(tmp_path / "nothing"), "--rows", "orb"]) == 2
    assert main(["--root", str(brown), "--rows", "bindesc", "--model", "no such"]) == 2
    err = capsys.readouterr().err
    assert "no folder with an m50_*.txt file" in err
    assert "neither a shipped model" in err
    monkeypatch.delenv("BINDESC_DATA", raising=False)
    monkeypatch.setattr("benchmarks.datasets.PROJECT", tmp_path / "a" / "b")
    assert main(["--rows", "orb"]) == 0
    assert "skipped" in capsys.readouterr().err
    assert brown_fpr95.labelled_model("a=b/c.safetensors") == ("a", "b/c.safetensors")
