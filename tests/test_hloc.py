from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from results import features, pair

import bindesc
from bindesc.cli import main
from bindesc.hloc import (
    check_folder,
    match_features,
    read_pairs,
    save_features,
    save_matches,
    save_pair,
)
from bindesc.pair import Filters, per_keypoint
from bindesc.reference import hamming

h5py = pytest.importorskip("h5py")


def test_features(tmp_path: Path) -> None:
    path = tmp_path / "features.h5"
    images = {"a.jpg": features(20), "sub/b.jpg": features(0)}
    save_features(path, images.items(), attributes={"made by": "test"})
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


def test_descriptors_are_unit_vectors_with_the_same_distances(tmp_path: Path) -> None:
    written = features(20)
    save_features(tmp_path / "f.h5", [("a", written)])
    with h5py.File(tmp_path / "f.h5", "r") as file:
        vectors = file["a/descriptors"][()].astype(np.float32).T
    np.testing.assert_array_equal((vectors**2).sum(axis=1), 1)
    squared = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    bits = hamming(written.descriptors, written.descriptors)
    np.testing.assert_array_equal(squared, 4 / 256 * bits)


def test_sift_vectors_have_unit_length(tmp_path: Path) -> None:
    written = features(9, width=128)
    save_features(tmp_path / "f.h5", [("a", written)], norm="l2")
    with h5py.File(tmp_path / "f.h5", "r") as file:
        vectors = file["a/descriptors"][()].astype(np.float32)
    assert vectors.shape == (128, 9)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=0), 1, atol=1e-3)


def test_earlier_images_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    save_features(path, [("a", features(3)), ("sub/b", features(4))])
    save_features(path, [("sub/c", features(5))], keep=path)
    with h5py.File(path, "r") as file:
        counts = [len(file[name]["keypoints"]) for name in ("a", "sub/b", "sub/c")]
    assert counts == [3, 4, 5]


def test_matches(tmp_path: Path) -> None:
    given = pair()
    matches = per_keypoint(5, given.matches, given.confidence)
    save_matches(tmp_path / "m.h5", [("x/a.jpg", "y/b.jpg", *matches)])
    with h5py.File(tmp_path / "m.h5", "r") as file:
        group = file["x-a.jpg/y-b.jpg"]
        assert group["matches0"].dtype == np.int32
        assert group["matches0"][()].tolist() == [2, -1, -1, 1, -1]
        assert group["matching_scores0"][()].tolist() == [1, 0, 0, 0.75, 0]


def test_pair_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "hloc"
    save_pair(folder, "a.jpg", "b.jpg", pair())
    names = {path.name for path in folder.iterdir()}
    assert names == {"features.h5", "matches.h5", "pairs.txt"}
    assert (folder / "pairs.txt").read_text() == "a.jpg b.jpg\n"
    with h5py.File(folder / "features.h5", "r") as file:
        assert set(file) == {"a.jpg", "b.jpg"}


@pytest.mark.parametrize("name", ["a b.jpg", "a\tb.jpg", "a\n.jpg", " a.jpg"])
def test_names_that_pairs_txt_cannot_hold_are_refused(tmp_path: Path, name: str) -> None:
    check_folder(tmp_path, ["a.jpg", "sub/b-1.jpg"])
    with pytest.raises(ValueError, match="white space"):
        check_folder(tmp_path, ["a.jpg", name])


def test_failure_leaves_no_file(tmp_path: Path) -> None:
    def images() -> object:
        yield "a", features(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_features(tmp_path / "f.h5", images())  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_missing_h5py_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install bindesc\[h5\]"):
        save_pair(tmp_path / "hloc", "a", "b", pair())
    assert not list(tmp_path.iterdir())


def test_pairs_of_described_images_are_matched(tmp_path: Path) -> None:
    images = {"a": features(300), "sub/b": features(200, 1), "c": features(0), "d": features(1, 2)}
    noisy = images["a"].descriptors[:150].copy()
    noisy[:, 0] ^= 5
    images["sub/b"].descriptors[:150] = noisy[::-1]
    save_features(tmp_path / "f.h5", images.items())
    pairs = [("a", "sub/b"), ("sub/b", "d"), ("a", "c"), ("c", "d"), ("a", "a")]
    for filters in (Filters(), Filters(mutual=False, ratio=0.9, margin=3, max_distance=90)):
        count = match_features(tmp_path / "f.h5", pairs, tmp_path / "m.h5", filters)
        total = 0
        with h5py.File(tmp_path / "m.h5", "r") as file:
            assert {f"{a}/{b}" for a in file for b in file[a]} == {
                "a/sub-b",
                "sub-b/d",
                "a/c",
                "c/d",
                "a/a",
            }
            for a, b in pairs:
                first, second = images[a].descriptors, images[b].descriptors
                expected = bindesc.match(first, second, **vars(filters))
                group = file[f"{a.replace('/', '-')}/{b.replace('/', '-')}"]
                partner, scores = group["matches0"][()], group["matching_scores0"][()]
                (query,) = np.nonzero(partner >= 0)
                assert np.array_equal(np.stack([query, partner[query]], 1), expected.pairs)
                assert np.allclose(scores[query], 1 - expected.distance / 256, atol=1e-3)
                assert len(partner) == len(scores) == len(first)
                total += len(expected)
        assert count == total > 400


def test_each_pair_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("a sub/b\n\nc  a\nsub/b a\na sub/b\nc c", "utf-8-sig")
    assert read_pairs(path) == [("a", "sub/b"), ("c", "a"), ("c", "c")]


def test_match_features_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codes, pairs, out = tmp_path / "f.h5", tmp_path / "pairs.txt", tmp_path / "m.h5"
    images = {"a": features(30), "b": features(20), "a-b": features(1)}
    save_features(codes, images.items())
    with h5py.File(codes, "a") as file:  # where an image and a folder have one name
        file.copy(file["b"], file["a"], "b")
    pairs.write_text("a b\n")
    command = ["match-features", str(codes), str(pairs), "--out", str(out)]
    assert main(command) == 0
    count = len(bindesc.match(features(30).descriptors, features(20).descriptors))
    assert capsys.readouterr().out == f"1 pairs, {count} matches\nwrote {out}\n"
    before = out.read_bytes()
    save_features(tmp_path / "sift.h5", [("a", features(3)), ("b", features(3))], norm="l2")
    (tmp_path / "text").write_text("text")
    for content, changed, message in (
        ("a c\n", {}, "has no image 'c'"),
        ("a b\na b c\n", {}, "line 2: expected two names, got 3"),
        ("a/b a\na-b a\n", {}, "hloc has one name, a-b/a"),
        ("\n", {}, "holds no pairs"),
        ("a b", {1: str(tmp_path / "none.h5")}, "none.h5"),
        ("a b", {1: str(tmp_path / "text")}, "text"),
        ("a b", {1: str(tmp_path / "sift.h5")}, "are not binary"),
        ("a b", {2: str(tmp_path / "none.txt")}, "none.txt"),
        ("a b", {2: str(codes)}, "is not a text of pairs"),
        ("a b", {4: str(tmp_path / "no" / "m.h5")}, "is not a folder"),
        ("a b", {4: str(codes)}, "choose another output"),
        ("a b", {4: str(pairs)}, "choose another output"),
    ):
        pairs.write_text(content)
        arguments = [changed.get(i, argument) for i, argument in enumerate(command)]
        assert main(arguments) == 2, message
        assert message in capsys.readouterr().err
    assert out.read_bytes() == before
