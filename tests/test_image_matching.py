"""The image benchmark: its protocol on synthetic scenes, its data folder, tables and command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_sets import HOMOGRAPHY, picture, scene, write_image_sets

from benchmarks import datasets, image_matching, render_tables
from benchmarks.descriptors import PEERS, Described, Descriptor, detect, mutual_matches
from benchmarks.matching_scores import (
    BOUND,
    PairScore,
    homography_is_right,
    one_to_one,
    project,
    score_scene,
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one homography pair and one webcam, told to the command."""
    write_image_sets(tmp_path)
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    return tmp_path


def test_identical_images_match_perfectly() -> None:
    scores = score_scene(scene(), [PEERS["orb"]()], bound=True)
    bound, orb = scores[BOUND][0], scores["ORB"][0]
    assert orb.putative > 100
    assert orb.correct == orb.putative
    assert orb.homography
    # ORB describes every keypoint that it detects, and one-to-one pairs cannot exceed them.
    assert orb.undescribed == 0
    assert orb.correct <= bound.correct <= 1000


def test_bound_holds_and_the_homography_is_used() -> None:
    made = scene()
    right = score_scene(made, [PEERS["orb"]()], bound=True)
    assert 0 < right["ORB"][1].correct <= right[BOUND][1].correct
    wrong_view = datasets.View("wrong", made.views[1].gray, np.eye(3))
    wrong = score_scene(
        datasets.Scene("box", made.reference, (wrong_view,)), [PEERS["orb"]()], bound=False
    )
    assert wrong["ORB"][0].correct < right["ORB"][1].correct / 4
    assert not wrong["ORB"][0].homography


def test_one_to_one_is_a_maximum() -> None:
    # Greedy pairing of (0, 0) with its nearest neighbour would leave the second point alone.
    xy = np.array([[0.0, 0.0], [3.0, 0.0], [100.0, 100.0]])
    other = np.array([[1.0, 0.0], [-2.5, 0.0]])
    assert one_to_one(xy, other, 3.0) == 2
    assert one_to_one(xy, other[:1], 3.0) == 1
    assert one_to_one(xy, other[:0], 3.0) == 0


def test_project_agrees_with_opencv() -> None:
    xy = np.random.default_rng(1).uniform(0, 300, (50, 2))
    expected = cv2.perspectiveTransform(xy[None], HOMOGRAPHY)[0]
    np.testing.assert_allclose(project(xy, HOMOGRAPHY), expected, rtol=0, atol=1e-9)


def test_homography_success_needs_corners_within_three_pixels() -> None:
    xy = np.random.default_rng(2).uniform(0, 200, (60, 2))
    carried = project(xy, HOMOGRAPHY)
    assert homography_is_right(xy, carried, (200, 200), HOMOGRAPHY)
    shifted = np.array([[1, 0, 2.0], [0, 1, 0], [0, 0, 1]])
    assert homography_is_right(xy, carried, (200, 200), shifted @ HOMOGRAPHY)
    shifted[0, 2] = 4
    assert not homography_is_right(xy, carried, (200, 200), shifted @ HOMOGRAPHY)
    assert not homography_is_right(xy[:3], carried[:3], (200, 200), HOMOGRAPHY)


def test_mutual_matches_speak_of_keypoints_for_bits_and_floats() -> None:
    bits = Described(np.array([5, 3]), np.array([[0, 0], [255, 255]], np.uint8))
    other = Described(np.array([7, 8, 9]), np.array([[255, 254], [0, 1], [0, 1]], np.uint8))
    assert mutual_matches(bits, other).tolist() == [[5, 8], [3, 7]]
    floats = Described(np.array([5, 3]), np.array([[0, 0], [9, 9]], np.float32))
    others = Described(np.array([7, 8, 9]), np.array([[9, 8], [0, 1], [0, 1]], np.float32))
    assert mutual_matches(floats, others).tolist() == [[5, 8], [3, 7]]


@pytest.mark.parametrize("name", sorted(PEERS))
def test_peers_keep_the_keypoints_apart(name: str) -> None:
    try:
        descriptor = PEERS[name]()
    except ValueError as error:
        assert not hasattr(cv2, "xfeatures2d"), error
        return
    gray = picture()
    described = descriptor.describe(gray, detect(gray))
    assert len(described.index) == len(described.codes) > 100
    count, unit = descriptor.code.split()
    width = int(count) // 8 if unit == "bits" else int(count)
    assert described.codes.shape[1] == width
    assert described.codes.dtype == (np.uint8 if unit == "bits" else np.float32)


def test_an_extractor_that_loses_the_index_is_refused() -> None:
    class Loses:
        def compute(self, image: np.ndarray, keypoints: tuple) -> tuple:
            x, y = keypoints[0].pt
            return (cv2.KeyPoint(x, y, 31),), np.zeros((1, 32), np.uint8)

    gray = picture()
    with pytest.raises(ValueError, match="keep class_id"):
        Descriptor("bad", "256 bits", Loses()).describe(gray, detect(gray))


def test_no_keypoints_are_no_matches() -> None:
    blank = np.zeros((240, 320), np.uint8)
    empty = datasets.Scene("blank", blank, (datasets.View("blank", blank, np.eye(3)),))
    scores = score_scene(empty, [PEERS["orb"](), PEERS["sift"]()], bound=True)
    for label in (BOUND, "ORB", "SIFT"):
        assert (scores[label][0].putative, scores[label][0].correct) == (0, 0)


def test_summary_pools_accuracy_and_compares_with_teblid() -> None:
    scores = {
        BOUND: [PairScore(50, 50, 9, True, 0), PairScore(70, 70, 9, True, 0)],
        "TEBLID": [PairScore(100, 40, 9, True, 3), PairScore(20, 20, 9, False, 1)],
        "ORB": [PairScore(80, 30, 9, False, 0), PairScore(40, 15, 9, False, 0)],
    }
    bound, teblid, orb = image_matching.summarise("webcam_val", scores, {"TEBLID": "256 bits"})
    assert (bound.correct, bound.putative, bound.accuracy, bound.homography) == (
        60,
        None,
        None,
        None,
    )
    assert (teblid.putative, teblid.correct, teblid.accuracy) == (60, 30, 0.5)
    assert (teblid.homography, teblid.times_teblid, teblid.undescribed) == (0.5, 1, 2)
    assert (orb.times_teblid, orb.accuracy) == (0.75, 0.375)
    table = image_matching.overview([bound, teblid, orb])
    assert table["rows"][:2] == [[BOUND, "", "60.0"], ["TEBLID", "256 bits", "30.0 / 0.50"]]


def test_webcam_frames_pair_with_the_first_in_numeric_order(data: Path) -> None:
    (roof,) = datasets.scenes("webcam_val", data)
    assert [view.name for view in roof.views] == ["roof 1-2", "roof 1-10"]
    assert all((view.homography == np.eye(3)).all() for view in roof.views)


def test_command_prints_the_same_json_twice(data: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--sets", "webcam_val", "homography_pairs", "--rows", "bound", "orb", "--json"]
    assert image_matching.main(arguments) == 0
    first = capsys.readouterr().out
    assert image_matching.main(arguments) == 0
    assert capsys.readouterr().out == first
    rows = json.loads(first)["rows"]
    assert [(row["set"], row["row"], row["pairs"]) for row in rows] == [
        ("webcam_val", BOUND, 2),
        ("webcam_val", "ORB", 2),
        ("homography_pairs", BOUND, 1),
        ("homography_pairs", "ORB", 1),
    ]
    assert rows[1]["accuracy"] == 1


def test_model_files_are_rows(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from bindesc.models.compact import CompactConfig, CompactNet
    from bindesc.weights import save_model

    models = [str(tmp_path / name) for name in ("one.safetensors", "two.safetensors")]
    for path in models:
        save_model(Path(path), CompactNet(CompactConfig(channels=(8, 8), strides=(2, 2))))
    arguments = ["--sets", "webcam_val", "--rows", "bindesc", "--json"]
    assert image_matching.main([*arguments, "--model", models[0], "--model", models[1]]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["row"] for row in rows] == [f"bindesc {path}" for path in models]
    # The frames are copies, so even an untrained network matches each keypoint to itself.
    assert all(row["accuracy"] > 0.99 and row["undescribed"] == 0 for row in rows)
    assert image_matching.main([*arguments, "--model", "nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err


def test_missing_data_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(datasets, "PROJECT", tmp_path / "project")
    monkeypatch.delenv("BINDESC_DATA", raising=False)
    assert image_matching.main([]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"image_matching: skipped, no data: BINDESC_DATA is not set and "
        f"{tmp_path / 'shared' / 'data'} does not exist"
    ]
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path / "nowhere"))
    assert image_matching.main([]) == 2
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    assert image_matching.main(["--rows", "orb"]) == 2
    assert "does not hold the images" in capsys.readouterr().err


def test_real_images_give_the_figures_known_for_orb() -> None:
    try:
        folder = datasets.data_folder()
    except datasets.DataMissingError as error:
        pytest.skip(str(error))
    (first,) = datasets.scenes("oxford_photometric", folder, limit=1)
    scores = score_scene(first, [PEERS["orb"]()], bound=True)
    assert len(scores["ORB"]) == 5
    for bound, orb in zip(scores[BOUND], scores["ORB"], strict=True):
        assert 100 < orb.correct < bound.correct
    # More blur, fewer matches.
    assert scores["ORB"][0].correct > scores["ORB"][4].correct


def test_tables_are_rendered_between_their_markers(tmp_path: Path) -> None:
    table = {"header": ["name", "value"], "rows": [["a", "1.5"], ["long name", "20"]]}
    (tmp_path / "one.json").write_text(json.dumps({"table": table}))
    text = "before\n<!-- table:one -->\nold\n<!-- /table -->\nafter\n"
    expected = (
        "before\n<!-- table:one -->\n"
        "| name      | value |\n"
        "|-----------|------:|\n"
        "| a         |   1.5 |\n"
        "| long name |    20 |\n"
        "<!-- /table -->\nafter\n"
    )
    assert render_tables.render(text, tmp_path) == expected
    assert render_tables.render(expected, tmp_path) == expected
    with pytest.raises(ValueError, match="missing"):
        render_tables.render("<!-- table:one -->\n", tmp_path)
    with pytest.raises(FileNotFoundError):
        render_tables.render(text.replace("one", "two"), tmp_path)
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(ValueError, match="no entry 'table'"):
        render_tables.render(text, tmp_path)
    with pytest.raises(ValueError, match="cells"):
        render_tables.markdown(["a", "b"], [["1"]])


def test_render_command_checks_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    monkeypatch.setattr(render_tables, "PAGES", [readme])
    monkeypatch.setattr(render_tables, "RESULTS", tmp_path)
    assert render_tables.main([]) == 2
    readme.write_text("<!-- table:one -->\n<!-- /table -->\n")
    (tmp_path / "one.json").write_text('{"table": {"header": ["a"], "rows": [["1"]]}}')
    assert render_tables.main(["--check"]) == 1
    assert readme.read_text() == "<!-- table:one -->\n<!-- /table -->\n"
    assert render_tables.main([]) == 0
    assert "| 1 |" in readme.read_text()
    assert render_tables.main(["--check"]) == 0


def test_module_runs_as_a_command(data: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    arguments = ["--rows", "orb", "--sets", "homography_pairs"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.image_matching", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("homography_pairs, 1 pairs\n\n| ")
