from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from results import features, pair

from bindesc.export import load_features_npz, load_source, save_features_npz, save_pair_npz


def test_pair_npz_has_superglues_keys(tmp_path: Path) -> None:
    save_pair_npz(tmp_path / "pair.npz", pair())
    with np.load(tmp_path / "pair.npz") as file:
        arrays = dict(file)
    keys = {"keypoints0", "keypoints1", "matches", "match_confidence", "inliers"}
    assert set(arrays) == keys
    np.testing.assert_array_equal(arrays["keypoints0"], pair().features0.xy)
    np.testing.assert_array_equal(arrays["keypoints1"], pair().features1.xy)
    assert arrays["matches"].tolist() == [2, -1, -1, 1, -1]
    assert arrays["match_confidence"].tolist() == [1, 0, 0, 0.75, 0]
    assert arrays["inliers"].tolist() == [False, False, False, True, False]


def test_features_npz_round_trip(tmp_path: Path) -> None:
    for count in (0, 7):
        save_features_npz(tmp_path / "a.npz", features(count))
        read = load_features_npz(tmp_path / "a.npz")
        for name, value in vars(features(count)).items():
            np.testing.assert_array_equal(getattr(read, name), value)
        assert read.image_size == (120, 90)


def test_source_of_features_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "f.npz"
    save_features_npz(path, features(3), (2**40, 5))
    assert load_source(path) == (2**40, 5)
    assert len(load_features_npz(path)) == 3
    save_features_npz(path, features(3))
    assert load_source(path) is None


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is not a folder"):
        save_pair_npz(tmp_path / "no" / "pair.npz", pair())
    assert not list(tmp_path.iterdir())
