from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from bindesc.export import (
    check_hloc_folder,
    load_features_npz,
    save_features_npz,
    save_hloc_features,
    save_hloc_matches,
    save_hloc_pair,
    save_pair_npz,
)
from bindesc.geometry import Geometry
from bindesc.pair import Pair
from bindesc.reference import hamming
from bindesc.types import Features, Matches

h5py = pytest.importorskip("h5py")


def features(count: int, seed: int = 0, width: int = 32) -> Features:
    random = np.random.default_rng(seed)
    xy, size, angle, response = (
        random.uniform(0, 100, shape).astype(np.float32)
        for shape in ((count, 2), count, count, count)
    )
    codes = random.integers(0, 256, (count, width)).astype(np.uint8)
    return Features(xy, size, angle, response, codes, (120, 90))


def pair() -> Pair:
    matches = Matches(np.array([[0, 2], [3, 1]], np.int32), np.array([0, 64], np.uint16))
    geometry = Geometry(np.eye(3), np.array([False, True]))
    return Pair(features(5), features(4, 1), matches, "hamming", "H", geometry)


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


def test_hloc_features(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    images = {"a.jpg": features(20), "sub/b.jpg": features(0)}
    save_hloc_features(path, images.items(), attributes={"made by": "test"})
    with h5py.File(path, "r") as file:
        assert file.attrs["made by"] == "test"
        for name, written in images.items():
            group = file[name]
            np.testing.assert_array_equal(group["keypoints"], written.xy)
            np.testing.assert_array_equal(group["scores"], written.response)
            np.testing.assert_array_equal(group["scales"], written.size)
            np.testing.assert_array_equal(group["oris"], written.angle)
            assert group["image_size"][()].tolist() == [120, 90]
            assert group["descriptors"].shape == (256, len(written))
            assert group["descriptors"].dtype == np.float16


def test_hloc_descriptors_are_unit_vectors_with_the_same_distances(tmp_path: Path) -> None:
    written = features(20)
    save_hloc_features(tmp_path / "f.h5", [("a", written)])
    with h5py.File(tmp_path / "f.h5", "r") as file:
        vectors = file["a/descriptors"][()].astype(np.float32).T
    np.testing.assert_array_equal((vectors**2).sum(axis=1), 1)
    squared = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    bits = hamming(written.descriptors, written.descriptors)
    np.testing.assert_array_equal(squared, 4 / 256 * bits)


def test_hloc_sift_vectors_have_unit_length(tmp_path: Path) -> None:
    written = features(9, width=128)
    save_hloc_features(tmp_path / "f.h5", [("a", written)], norm="l2")
    with h5py.File(tmp_path / "f.h5", "r") as file:
        vectors = file["a/descriptors"][()].astype(np.float32)
    assert vectors.shape == (128, 9)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-3)


def test_earlier_images_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    save_hloc_features(path, [("a", features(3)), ("sub/b", features(4))])
    save_hloc_features(path, [("sub/c", features(5))], keep=path)
    with h5py.File(path, "r") as file:
        counts = [len(file[name]["keypoints"]) for name in ("a", "sub/b", "sub/c")]
    assert counts == [3, 4, 5]


def test_hloc_matches(tmp_path: Path) -> None:
    save_hloc_matches(tmp_path / "m.h5", [("x/a.jpg", "y/b.jpg", pair())])
    with h5py.File(tmp_path / "m.h5", "r") as file:
        group = file["x-a.jpg/y-b.jpg"]
        assert group["matches0"].dtype == np.int32
        assert group["matches0"][()].tolist() == [2, -1, -1, 1, -1]
        assert group["matching_scores0"][()].tolist() == [1, 0, 0, 0.75, 0]


def test_hloc_pair_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "hloc"
    save_hloc_pair(folder, "a.jpg", "b.jpg", pair())
    names = {path.name for path in folder.iterdir()}
    assert names == {"features.h5", "matches.h5", "pairs.txt"}
    assert (folder / "pairs.txt").read_text() == "a.jpg b.jpg\n"
    with h5py.File(folder / "features.h5", "r") as file:
        assert set(file) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("name", ["a b.jpg", "a\tb.jpg", "a\n.jpg", " a.jpg"])
def test_names_that_pairs_txt_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    check_hloc_folder(tmp_path, ["a.jpg", "sub/b-1.jpg"])
    with pytest.raises(ValueError, match="white space"):
        check_hloc_folder(tmp_path, ["a.jpg", name])


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    def images() -> object:
        yield "a", features(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_hloc_features(tmp_path / "f.h5", images())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="is not a folder"):
        save_pair_npz(tmp_path / "no" / "pair.npz", pair())
    assert not list(tmp_path.iterdir())


def test_missing_h5py_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install bindesc\[h5\]"):
        save_hloc_pair(tmp_path / "hloc", "a", "b", pair())
    assert not list(tmp_path.iterdir())
