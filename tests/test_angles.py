"""The benchmark of orientations: known differences, its table and its command on small data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from image_sets import picture, scene, write_image_sets

from benchmarks import angles, common, datasets
from bindesc.runtime import Runtime

DETECTOR = angles.DETECTOR


@pytest.fixture
def runtimes() -> dict[str, Runtime]:
    return {name: Runtime(name) for name in ("compact", "tiny")}


def test_an_image_agrees_with_itself(runtimes) -> None:
    first, second = (angles.orient(picture(), runtimes) for _ in range(2))
    found = angles.view_differences(first, second, np.eye(3))
    assert list(found) == [DETECTOR, "compact", "tiny"]
    assert all(len(differences) > 400 for differences in found.values())
    assert all(differences.max() < 1e-3 for differences in found.values())


def test_a_quarter_turn_is_taken_out() -> None:
    image = picture()
    quarter = np.array([[0.0, 1, 0], [-1, 0, image.shape[1] - 1], [0, 0, 1]])
    runtimes = {"compact": Runtime("compact")}
    first, second = (angles.orient(i, runtimes) for i in (image, np.rot90(image).copy()))
    differences = angles.view_differences(first, second, quarter)
    assert len(differences[DETECTOR]) > 300
    assert np.median(differences[DETECTOR]) < 2
    assert np.median(differences["compact"]) < 3


def test_angles_of_the_detector_that_are_wrong_are_seen(runtimes, monkeypatch) -> None:
    """The second view's are 30 degrees off: ``tiny`` keeps them, ``compact`` mends some."""
    true, calls = angles.detector_points, []

    def wrong(keypoints):
        xy, side, angle = true(keypoints)
        calls.append(1)
        return xy, side, (angle + 30 * (len(calls) % 2 == 0)) % 360

    monkeypatch.setattr(angles, "detector_points", wrong)
    made = scene()
    only = datasets.Scene(made.name, made.reference, made.views[:1])
    rows = {row.row: row for row in angles.score("one", [only], runtimes)}
    for label in (DETECTOR, "tiny"):
        assert rows[label].wrong == 1
        assert rows[label].median == pytest.approx(30, abs=1e-3)
    assert rows["compact"].wrong < 0.9
    assert rows["compact"].median < 29
    assert angles.table(list(rows.values()))["rows"][0] == [DETECTOR, "100.0 / 30.0"]


def test_the_command_saves_what_it_prints(tmp_path, monkeypatch, capsys) -> None:
    write_image_sets(tmp_path)
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(angles, "TILTS", ())
    assert angles.main(["--sets", "webcam_val", "homography_pairs", "--save"]) == 0
    printed = capsys.readouterr().out
    saved = json.loads((tmp_path / "results" / "angles.json").read_text())
    assert [(row["set"], row["row"]) for row in saved["rows"]] == [
        ("webcam_val", DETECTOR),
        ("webcam_val", "bindesc compact"),
        ("homography_pairs", DETECTOR),
        ("homography_pairs", "bindesc compact"),
    ]
    assert saved["rows"][0]["wrong"] == 0  # the frames are copies
    assert all(cell in printed for row in saved["table"]["rows"] for cell in row)
    assert angles.main(["--model", "nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err
