"""The benchmark of failures: pairs, their causes, its table, picture and command on small data."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_sets import HOMOGRAPHY, picture, scene, write_image_sets

from benchmarks import common, failures
from benchmarks.descriptors import PEERS, Descriptor
from benchmarks.failure_causes import (
    CAUSES,
    Findable,
    Seen,
    classify,
    correlation,
    find_pairs,
    form_pairs,
    see,
)
from benchmarks.failure_picture import draw, draw_one_each
from benchmarks.matching_scores import CORRECT_PIXELS, one_to_one, project
from bindesc.reference import hamming
from bindesc.runtime import Runtime
from bindesc.training.pairing import Differences, carry_by_homography

NAMES = list(CAUSES)


@pytest.fixture(scope="module")
def compared() -> failures.Compared:
    """A picture and its warped view."""
    made = scene()
    model = failures.read_model("compact")
    first, second = (see(g, *model) for g in (made.reference, made.views[1].gray))
    carried = carry_by_homography(HOMOGRAPHY, first.xy)
    return failures.Compared(first, second, find_pairs(first, second, carried))


# Pairs.


def test_as_many_pairs_as_can_be_and_then_the_best() -> None:
    zeros = np.zeros((2, 3))
    turn = np.array([[0.0, 5.0, 0.0], [90.0, 60.0, 0.0]])
    distance = np.array([[1.0, 2.0, 9.0], [1.0, 1.0, 9.0]])
    # Both keypoints have a pair only if one turns far: 0-0 with 1-1, not 0-1 with 1-0.
    pairs = form_pairs(distance, Differences(zeros, zeros, turn), 3.0)
    assert pairs.tolist() == [[0, 0], [1, 1]]
    distance[1] = np.nan
    assert form_pairs(distance, Differences(zeros, zeros, turn), 3.0).tolist() == [[0, 0]]
    assert form_pairs(distance + 9, Differences(zeros, zeros, turn), 3.0).shape == (0, 2)


def test_the_pairs_are_the_upper_bound_of_the_image_benchmark(
    compared: failures.Compared,
) -> None:
    first, second, pairs = compared
    carried = project(first.xy.astype(float), HOMOGRAPHY)
    assert len(pairs.index) == one_to_one(carried, second.xy, CORRECT_PIXELS) > 100
    for column in pairs.index.T:
        assert len(set(column.tolist())) == len(column)
    a, b = pairs.index.T
    assert (np.linalg.norm(carried[a] - second.xy[b], axis=1) <= CORRECT_PIXELS).all()


def test_the_first_cause_that_applies_counts() -> None:
    small, large = 0.01, 1.0
    cases = [
        ((large, large, 30.0, 0, 0.0), "angle"),
        ((large, large, 20.0, 0, 0.0), "scale"),
        ((large, small, 20.0, 0, 0.0), "position"),
        ((small, small, 20.0, 40, 0.0), "look-alike"),
        ((small, small, 20.0, 41, 0.49), "looks"),
        ((small, small, 20.0, 41, 0.5), "none"),
    ]
    causes = classify(*map(np.array, zip(*[values for values, _ in cases], strict=True)))
    assert [NAMES[i] for i in causes] == [cause for _, cause in cases] == NAMES


def test_correlation_cancels_gain_and_offset() -> None:
    patch = np.random.default_rng(0).integers(0, 200, (1, 32, 32)).astype(np.uint8)
    assert correlation(patch, patch // 2 + 50)[0] == pytest.approx(1, abs=1e-3)
    assert correlation(patch, 255 - patch)[0] == pytest.approx(-1)
    assert correlation(patch, np.full_like(patch, 9))[0] == 0
    assert correlation(patch[:0], patch[:0]).shape == (0,)


def test_elsewhere_leaves_out_what_overlaps() -> None:
    xy = np.array([[0, 0], [10, 0], [100, 0]], np.float32)
    codes = np.array([[0], [0], [7]], np.uint8)
    side = np.full(3, 30, np.float32)
    seen = Seen(xy, side, side, np.zeros((3, 32, 32), np.uint8), codes)
    assert seen.elsewhere.tolist() == [3, 3, 3]
    assert Seen(xy[:2], side[:2], side[:2], seen.patches[:2], codes[:2]).elsewhere.min() > 8


def test_the_same_picture_has_no_causes_but_its_own_looks() -> None:
    seen = see(picture(), *failures.read_model("compact"))
    pairs = find_pairs(seen, seen, carry_by_homography(np.eye(3), seen.xy))
    assert len(pairs.index) == len(seen.xy)
    assert pairs.index[:, 0].tolist() == pairs.index[:, 1].tolist()
    assert {NAMES[i] for i in pairs.cause} <= {"look-alike", "none"}
    assert pairs.found.mean() > 0.99
    assert not pairs.taken[pairs.found].any()
    assert max(values.max() for values in (pairs.offset, pairs.ratio, pairs.turn)) < 1e-3


def test_an_image_or_a_descriptor_that_loses_keypoints_is_refused() -> None:
    with pytest.raises(ValueError, match="without keypoints"):
        see(np.zeros((100, 100), np.uint8), PEERS["orb"](), Runtime("tiny"))

    class Drops:
        def compute(self, image: np.ndarray, keypoints: tuple) -> tuple:
            return keypoints[1:], np.zeros((len(keypoints) - 1, 32), np.uint8)

    with pytest.raises(ValueError, match=r"described \d+ of \d+"):
        see(picture(), Descriptor("drops", "256 bits", Drops()), Runtime("tiny"))


# The table and the picture.


def findable(*cases: tuple[str, bool, bool, bool]) -> Findable:
    """Pairs by cause, found, matched and taken."""
    causes, *flags = zip(*cases, strict=True)
    zeros = np.zeros(len(cases))
    index = np.zeros((len(cases), 2), np.intp)
    cause = np.array([NAMES.index(name) for name in causes])
    found, matched, taken = (np.array(flag) for flag in flags)
    return Findable(index, cause, found, matched, taken, taken, zeros, zeros, zeros)


def test_shares_are_of_the_pairs_and_of_the_missed() -> None:
    parts = [
        findable(("angle", False, False, False), ("angle", True, True, True)),
        findable(("none", False, True, True), ("none", True, True, True), ("none", *[True] * 3)),
    ]
    rows = {row["cause"]: row for row in failures.summarise("made", parts)}
    assert rows["angle"] == {
        "set": "made", "cause": "angle", "pairs": 2, "share": 0.4, "found": 0.5,
        "of_missed": 0.5, "matched_wrongly": 0.0, "taken": 0.0,
    }  # fmt: skip
    assert rows["none"]["found"] == pytest.approx(2 / 3)
    assert rows["none"]["matched_wrongly"] == rows["none"]["taken"] == 1.0
    assert rows["scale"]["found"] is None
    assert (rows["all"]["pairs"], rows["all"]["found"]) == (5, 0.6)
    table = failures.table(failures.summarise("made", parts))
    assert table["header"] == ["cause", "made", "found", "of the missed", "of them taken"]
    assert table["rows"][0] == ["angle", "40%", "50%", "50%", "0%"]
    assert table["rows"][1] == ["scale", "0%", "-", "0%", "-"]


def test_examples_show_what_came_nearer(compared: failures.Compared, tmp_path: Path) -> None:
    first, second, pairs = compared
    examples = draw_one_each(np.random.default_rng(0), *compared)
    assert {"angle", "none"} <= {example.cause for example in examples} <= set(NAMES)
    for example in examples:
        keypoint, partner, rival = example.patches
        missed = [
            (a, b)
            for a, b in pairs.index[~pairs.found]
            if (first.patches[a] == keypoint).all() and (second.patches[b] == partner).all()
        ]
        assert missed
        a, b = missed[0]
        bits = int(hamming(first.codes[[a]], second.codes[[b]])[0, 0])
        assert example.notes[1] == f"true: {bits} bits"
        taken = example.cause == "none"
        assert pairs.taken[(pairs.index == [a, b]).all(axis=1)][0] >= taken
        assert example.notes[2].startswith("taken by" if taken else "instead")
        assert (rival == (first if taken else second).patches).all(axis=(1, 2)).any()
    draw(tmp_path / "a.png", examples * 5, "title")
    assert cv2.imread(str(tmp_path / "a.png")).std() > 5


def test_the_command_writes_a_table_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write_image_sets(tmp_path)
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    for module in (common, failures):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(failures, "PHOTOS", ("camera", "chelsea"))
    monkeypatch.setattr(failures, "VIEWS", 1)
    assert failures.main(["--save", "--pictures", str(tmp_path / "seen")]) == 0
    assert "| angle " in capsys.readouterr().out
    document = json.loads((tmp_path / "results" / "failures.json").read_text())
    assert [row["cause"] for row in document["rows"]] == [*CAUSES, "all"] * 2
    assert document["settings"]["limits"]["turn"] == 20
    for path in ("results/failures.png", "seen/failures_homography_pairs.png"):
        assert cv2.imread(str(tmp_path / path)).std() > 5


def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    assert failures.main(["--model", "no such"]) == 2
    assert failures.main([]) == 2
    err = capsys.readouterr().err
    assert "neither a shipped model" in err
    assert "does not hold the images" in err
    monkeypatch.delenv("BINDESC_DATA")
    monkeypatch.setattr("benchmarks.datasets.PROJECT", tmp_path / "a" / "b")
    assert failures.main([]) == 0
    assert "skipped" in capsys.readouterr().err
