from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import textured, textured_gray

import bindesc
from bindesc.calibrate import Distances, measure_distances, report
from bindesc.cli import main
from bindesc.detectors import create_detector


def distances(matched: dict[int, int], unmatched: dict[int, int]) -> Distances:
    counts = np.zeros((2, 257), np.int64)
    for row, values in zip(counts, (matched, unmatched), strict=True):
        for distance, number in values.items():
            row[distance] = number
    return Distances(counts[0], counts[1])


def test_thresholds_of_given_distances() -> None:
    given = distances({10: 2, 40: 6, 90: 2}, {60: 1, 100: 9, 120: 90})
    assert given.recall(39) == 0.2
    assert given.recall(40) == 0.8
    assert given.false_accepts(59) == 0
    assert given.false_accepts(100) == 0.1
    assert given.same_false_accepts(0) == 59
    assert given.same_false_accepts(0.01) == 99
    assert given.same_false_accepts(0.5) == 119
    assert given.same_false_accepts(1) == 256
    assert given.same_recall(0.2) == 10
    assert given.same_recall(0.21) == 40
    assert given.same_recall(1) == 90
    assert given.quantile("matched", 0.5) == 40
    assert distances({1: 1}, {0: 5, 9: 5}).same_false_accepts(0.1) == 0


def test_report_states_the_thresholds() -> None:
    new = distances({10: 2, 40: 6, 90: 2}, {60: 1, 100: 9, 120: 90})
    orb = distances({50: 5, 80: 5}, {50: 1, 100: 9, 120: 90})
    lines = report(new, orb).splitlines()
    low = lines.index("in place of ORB-SLAM's TH_LOW = 50   bits  recall  false accepts")
    assert [line.split()[-3:] for line in lines[low + 1 : low + 4]] == [
        ["50", "50.0%", "1.00e-02"],
        ["99", "100.0%", "1.00e-02"],
        ["40", "80.0%", "0.00e+00"],
    ]


def test_matching_keypoints_are_nearer_and_bindesc_beats_orb() -> None:
    extractors = {"bindesc": bindesc.create(nfeatures=300), "ORB": create_detector("orb", 300)}
    photos = [textured_gray(seed=seed) for seed in range(2)]
    first = measure_distances(photos, extractors, 2, 300)
    for found in first.values():
        assert found.quantile("matched", 0.5) < found.quantile("unmatched", 0.2)
    assert first["ORB"].matched.sum() == first["bindesc"].matched.sum() >= 100
    share = first["ORB"].false_accepts(50)
    better = first["bindesc"].same_false_accepts(share)
    assert first["bindesc"].false_accepts(better) <= share
    assert first["bindesc"].recall(better) > first["ORB"].recall(50)


def test_the_same_seed_gives_the_same_distances() -> None:
    extractors = {"ORB": create_detector("orb", 300)}
    photos = [textured_gray(seed=seed) for seed in range(2)]
    first, again, other = (
        measure_distances(photos, extractors, 2, 300, seed)["ORB"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.matched, again.matched)
    np.testing.assert_array_equal(first.unmatched, again.unmatched)
    assert (first.matched != other.matched).any()


def test_too_few_pairs_and_no_photos_are_refused() -> None:
    extractors = {"ORB": create_detector("orb", 100)}
    with pytest.raises(ValueError, match="1 photos gave 0 matched pairs"):
        measure_distances([np.full((100, 100), 7, np.uint8)], extractors)
    with pytest.raises(ValueError, match="0 photos gave 0 matched pairs"):
        measure_distances([], extractors)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        cv2.imwrite(str(tmp_path / "photos" / f"{seed}.png"), textured(seed=seed))
    photos = str(tmp_path / "photos")
    assert main(["calibrate", photos, "--views", "1"]) == 0
    assert "TH_HIGH = 100" in capsys.readouterr().out
    assert main(["calibrate", photos, "--views", "0"]) == 2
    assert "--views: expected at least 1, got 0" in capsys.readouterr().err
    assert main(["calibrate", photos, "--seed", "-1"]) == 2
    assert "--seed: expected at least 0, got -1" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["calibrate", str(tmp_path / "empty")]) == 2
    assert "no images" in capsys.readouterr().err
