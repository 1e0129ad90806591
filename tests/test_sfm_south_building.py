from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import shifted, textured

from benchmarks import sfm_south_building as benchmark
from benchmarks.descriptors import PEERS, detect
from bindesc.collection import Collection
from bindesc.export import save_features_npz
from bindesc.image import to_gray

pytest.importorskip("pycolmap")


@pytest.mark.parametrize("subpixel", [False, True])
def test_shared_keypoints_are_described_in_place(subpixel: bool) -> None:
    image = textured()
    features = benchmark.SharedKeypoints(PEERS["orb"](), subpixel=subpixel).extract(image)
    keypoints = detect(to_gray(image), benchmark.KEYPOINTS, subpixel=subpixel)
    places = {keypoint.pt for keypoint in keypoints}
    assert len(features) > 100
    assert {tuple(xy) for xy in features.xy.tolist()} <= places
    assert features.descriptors.shape == (len(features), 32)


def test_both_matchers_are_checked_and_timed(tmp_path: Path) -> None:
    extractor = benchmark.SharedKeypoints(PEERS["orb"]())
    (tmp_path / "features").mkdir()
    for name, image in (("a", textured()), ("b", shifted(textured(), 7, 3))):
        path = tmp_path / "features" / f"{name}.npz"
        save_features_npz(path, extractor.extract(image))
    result = benchmark.time_matching(Collection(tmp_path, ["a", "b"], {"a": ["b"]}))
    assert result["pairs"] == 1
    assert set(result["ms_a_pair"]) == {"bindesc.match_pairs", "cv2.BFMatcher crossCheck"}
    assert all(milliseconds > 0 for milliseconds in result["ms_a_pair"].values())


def test_describing_is_timed(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), textured())
    times = benchmark.time_describing(tmp_path / "a.png", ["orb", "bindesc"])
    assert list(times) == ["orb", "bindesc"] and min(times.values()) > 0


def test_wrong_matches_are_found() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (20, 32)).astype(np.uint8)
    same = np.stack([np.arange(20), np.arange(20)], axis=1)
    benchmark._check_mutual(same, codes, codes)
    with pytest.raises(ValueError, match="not the nearest"):
        benchmark._check_mutual(np.array([[0, 1]]), codes, codes)


def test_table_counts_an_image_once() -> None:
    row = {
        "name": "orb",
        "row": "ORB",
        "registered": 9,
        "images": [6, 5],
        "points": [1000, 234],
        "track": 3.5,
        "error": 0.71,
        "inliers_a_pair": 12.3,
        "inlier_ratio": 0.25,
        "map_s": 4.0,
    }
    table = benchmark.table([row], {"orb": 7.6})
    cells = ["ORB", "9", "6 + 5", "1,234", "3.50", "0.71", "12", "0.25", "8", "4"]
    assert table["rows"] == [cells]
    assert len(table["header"]) == len(cells)
    assert benchmark.table([row], {})["rows"][0][-2:] == ["-", "4"]


def test_missing_data_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BINDESC_DATA", str(tmp_path))
    assert benchmark.main([]) == 2
    assert "south_building: no such folder" in capsys.readouterr().err
