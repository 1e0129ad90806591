from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import shifted, textured, textured_gray

import bindesc
from bindesc.cli import main
from bindesc.export import save_features_npz
from bindesc.hloc import save_features
from bindesc.image import ImageError
from bindesc.opencv_descriptors import OpenCVFeatures
from bindesc.reference import hamming
from bindesc.slam_cli import read_codes
from bindesc.training.vocabulary import train_vocabulary
from bindesc.vocabulary import (
    BowVector,
    Vocabulary,
    VocabularyError,
    load_vocabulary,
)


def some_images(count: int = 6, codes: int = 80, width: int = 32) -> list[np.ndarray]:
    """Noisy copies of a few prototypes; each image has its own and some that all share."""
    random = np.random.default_rng(1)
    prototypes = random.integers(0, 2, (count + 2, 6, 8 * width))
    images = []
    for i in range(count):
        own = np.concatenate([prototypes[i], prototypes[-1]])
        bits = own[random.integers(0, len(own), codes)]
        images.append(np.packbits(bits ^ (random.random(bits.shape) < 0.08), axis=1))
    return images


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_vocabulary(some_images(), 5, 3)


def walk(vocabulary: Vocabulary, code: np.ndarray) -> int:
    """The slow way down the tree, node by node, as DBoW2 walks; returns the word."""
    node = 0
    while len(children := np.flatnonzero(vocabulary.parent == node)):
        node = 1 + children[hamming(code[None], vocabulary.codes[children])[0].argmin()]
    leaves = [i for i in range(1, len(vocabulary.parent) + 1) if i not in vocabulary.parent]
    return leaves.index(node)


def test_words_are_found_as_by_walking_down(vocabulary: Vocabulary) -> None:
    codes = np.random.default_rng(0).integers(0, 256, (60, 32), np.uint8)
    words = vocabulary.find_words(codes)
    assert words.tolist() == [walk(vocabulary, code) for code in codes]
    assert vocabulary.find_words(codes[:0]).shape == (0,)


def test_tree_has_the_shape_that_was_asked_for(vocabulary: Vocabulary) -> None:
    children = np.bincount(vocabulary.parent)
    assert children.max() <= 5
    assert (vocabulary.parent < np.arange(1, len(vocabulary.parent) + 1)).all()
    depth = np.zeros(len(vocabulary.parent) + 1, int)
    for i, parent in enumerate(vocabulary.parent):
        depth[i + 1] = depth[parent] + 1
    assert depth.max() == 3
    assert len(vocabulary) > 5**2
    # Few enough codes end as words of their own: each finds itself.
    codes = np.random.default_rng(0).integers(0, 256, (8, 32), np.uint8)
    small = train_vocabulary([codes[:4], codes[4:]], 8, 1)
    assert sorted(small.find_words(codes).tolist()) == list(range(8))
    np.testing.assert_array_equal(small.codes[small.find_words(codes)], codes)


def test_children_are_the_majority_of_their_codes() -> None:
    random = np.random.default_rng(0)
    centres = random.integers(0, 2, (4, 256))
    bits = np.repeat(centres, 9, axis=0) ^ (random.random((36, 256)) < 0.1)
    codes = np.packbits(bits, axis=1)
    vocabulary = train_vocabulary([codes[::2], codes[1::2]], 4, 1)
    words = vocabulary.find_words(codes)
    assert set(words) == set(range(len(vocabulary)))
    for word in range(len(vocabulary)):
        mine = bits[words == word]
        np.testing.assert_array_equal(
            np.unpackbits(vocabulary.codes[word]), 2 * mine.sum(0) >= len(mine)
        )


def test_weights_are_inverse_document_frequencies(vocabulary: Vocabulary) -> None:
    found = [set(vocabulary.find_words(codes).tolist()) for codes in some_images()]
    for word, node in enumerate(vocabulary.word_nodes):
        images = sum(word in words for words in found)
        assert vocabulary.weight[node - 1] == pytest.approx(np.log(6 / images))
    inner = np.setdiff1d(np.arange(len(vocabulary.parent)), vocabulary.word_nodes - 1)
    assert (vocabulary.weight[inner] == 0).all()


def test_the_same_vocabulary_for_any_threads_and_another_for_another_seed(tmp_path: Path) -> None:
    texts = []
    for threads, seed in ((1, 0), (2, 0), (1, 1)):
        train_vocabulary(some_images(), 5, 3, seed, threads).save(tmp_path / "v.txt")
        texts.append((tmp_path / "v.txt").read_bytes())
    assert texts[0] == texts[1] != texts[2]


def test_text_is_what_orb_slam_reads(tmp_path: Path) -> None:
    code = np.arange(64, dtype=np.uint8).reshape(2, 32)
    code[0, 0] = 128  # the first bit of the code
    Vocabulary(
        10, 5, np.array([0, 0]), code, np.array([0.1, 2.0])
    ).save(tmp_path / "v.txt")  # fmt: skip
    first, second, third = (tmp_path / "v.txt").read_text().split("\n")
    assert first == "10 5 0 0"
    assert second == "0 1 128 " + " ".join(map(str, range(1, 32))) + " 0.1"
    assert third == "0 1 " + " ".join(map(str, range(32, 64))) + " 2.0"


def test_round_trip(tmp_path: Path, vocabulary: Vocabulary) -> None:
    vocabulary.save(tmp_path / "v.txt")
    read = load_vocabulary(tmp_path / "v.txt")
    assert (read.branching, read.depth) == (5, 3)
    for name in ("parent", "codes", "weight"):
        np.testing.assert_array_equal(getattr(read, name), getattr(vocabulary, name))
    # As ORB-SLAM itself writes: two blanks in the first line, a newline at the end.
    text = (tmp_path / "v.txt").read_text().replace("5 3 0 0", "5 3  0 0", 1) + "\n"
    (tmp_path / "w.txt").write_text(text)
    np.testing.assert_array_equal(load_vocabulary(tmp_path / "w.txt").codes, vocabulary.codes)


def test_bag_of_words_is_normalised_and_scores_as_dbow2(vocabulary: Vocabulary) -> None:
    codes = some_images()[0]
    first, second = vocabulary.transform(codes[:50]), vocabulary.transform(codes[30:])
    assert first.values.sum() == pytest.approx(1)
    assert (np.diff(first.words) > 0).all()
    dense = np.zeros((2, len(vocabulary)))
    for row, bag in zip(dense, (first, second), strict=True):
        row[bag.words] = bag.values
    assert 0 < first.score(second) < 1
    assert first.score(second) == pytest.approx(1 - np.abs(dense[0] - dense[1]).sum() / 2)
    assert first.score(first) == pytest.approx(1)
    empty = vocabulary.transform(np.zeros((0, 32), np.uint8))
    assert len(empty.words) == 0
    assert empty.score(first) == 0


def test_another_image_of_the_same_place_scores_highest() -> None:
    detector = OpenCVFeatures("orb", nfeatures=300)
    places = [textured_gray(seed=seed) for seed in range(4)]
    codes = [detector.extract(place).descriptors for place in places]
    vocabulary = train_vocabulary(codes, 8, 3)
    bags = [vocabulary.transform(part) for part in codes]
    for i, place in enumerate(places):
        again = vocabulary.transform(detector.extract(shifted(place, 7, 3)).descriptors)
        assert np.argmax([again.score(bag) for bag in bags]) == i


def test_training_refuses_bad_input() -> None:
    images = some_images(2, 10)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        train_vocabulary(images[:1])
    with pytest.raises(ValueError, match="4 codes in all, fewer than the branching factor 10"):
        train_vocabulary([images[0][:2], images[1][:2]])
    with pytest.raises(ValueError, match=r"images\[1\]: expected codes \(N, 32\), got .*16\)"):
        train_vocabulary([images[0], images[1][:, :16]])
    with pytest.raises(TypeError, match=r"images\[0\]: expected uint8, got float64"):
        train_vocabulary([images[0] / 2, images[1]])
    with pytest.raises(ValueError, match="all 20 codes are equal"):
        train_vocabulary([np.zeros((10, 32), np.uint8)] * 2)
    for option in ({"branching": 21}, {"branching": 1}, {"depth": 11}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(option))):
            train_vocabulary(images, **option)


def test_other_widths(vocabulary: Vocabulary) -> None:
    assert train_vocabulary(some_images(width=64), 5, 2).codes.shape[1] == 64
    with pytest.raises(ValueError, match=r"codes: expected codes \(N, 32\), got shape \(5, 64\)"):
        vocabulary.transform(np.zeros((5, 64), np.uint8))


@pytest.mark.parametrize(
    ("line", "text", "problem"),
    [
        (1, "%YAML:1.0", "line 1: expected 'k L scoring weighting'"),
        (1, "30 3 0 0", "line 1: expected k in 2 to 20"),
        (1, "5 3 1 0", "line 1: expected scoring 0"),
        (1, "3 3 0 0", "children, more than k"),
        (4, "0 0 1 2 3", "line 4: expected 35 numbers, got 5"),
        (4, "9 0" + " 1" * 33, "line 4: the parent of node 3 must come before it, got 9"),
        (4, "0 0" + " 256" * 32 + " 0", "line 4: expected 'parent isLeaf bytes weight'"),
        (4, "0 0" + " x" * 32 + " 0", "line 4: invalid literal"),
        (4, "0 0" + " 1" * 32 + " nan", "line 4: expected a weight"),
        (4, "0 1" + " 1" * 32 + " 0", "line 4: node 3 is marked as a leaf and has children"),
        (-1, "0 0" + " 1" * 32 + " 0", "has no children and is not marked as a leaf"),
    ],
)
def test_damaged_files_are_told_with_the_line(
    tmp_path: Path, vocabulary: Vocabulary, line: int, text: str, problem: str
) -> None:
    path = tmp_path / "v.txt"
    vocabulary.save(path)
    lines = path.read_text().split("\n")
    lines[line - 1 if line > 0 else line] = text
    path.write_text("\n".join(lines))
    with pytest.raises(VocabularyError, match=problem) as error:
        load_vocabulary(path)
    assert str(path) in str(error.value)


def test_files_that_are_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    for content, problem in (
        (b"", "line 1"),
        (b"10 5 0 0\n", "no nodes"),
        (b"\xff\x00", "not a text vocabulary"),
    ):
        path.write_bytes(content)
        with pytest.raises(VocabularyError, match=problem):
            load_vocabulary(path)
    with pytest.raises(OSError, match="missing"):
        load_vocabulary(tmp_path / "missing.txt")


def test_scores_of_given_vectors() -> None:
    first = BowVector(np.array([1, 5]), np.array([0.25, 0.75]))
    second = BowVector(np.array([0, 5]), np.array([0.5, 0.5]))
    assert first.score(second) == second.score(first) == 0.5


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(3):
        cv2.imwrite(str(photos / f"{seed}.png"), textured(seed=seed))
    (photos / "broken.png").write_bytes(b"no")
    cv2.imwrite(str(tmp_path / "again.png"), shifted(textured(seed=2), 6, 3))
    out = tmp_path / "v.txt"
    train = ["vocab", "train", str(photos), "-o", str(out), "-k", "6", "-L", "2"]
    assert main([*train, "--n-kpts", "100"]) == 0
    printed = capsys.readouterr()
    assert re.search(r"v.txt: \d+ words from 2\d\d codes of 3 images, k 6, L 2\n", printed.out)
    assert "skipped" in printed.err
    assert "fewer than 10 codes a word" in printed.err
    assert main([*train[:-4], "-k", "3", "-L", "1", "--n-kpts", "100"]) == 0
    assert "codes a word" not in capsys.readouterr().err
    assert main([*train, "--n-kpts", "100"]) == 0
    capsys.readouterr()
    query = ["vocab", "query", str(out), str(tmp_path / "again.png"), str(photos), "--top", "2"]
    assert main([*query, "--n-kpts", "100"]) == 0
    best, _ = capsys.readouterr().out.splitlines()
    assert best.endswith("2.png")
    assert main(["vocab", "query", str(out), str(photos), str(photos), "--n-kpts", "100"]) == 2
    assert "expected one image, it holds 3" in capsys.readouterr().err


def test_train_reads_what_extract_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("h5py")
    detector = bindesc.create(nfeatures=60)
    named = {f"{seed}.png": detector.extract(textured(seed=seed)) for seed in range(2)}
    (tmp_path / "npz").mkdir()
    for name, features in named.items():
        save_features_npz(tmp_path / "npz" / f"{name}.npz", features)
    (tmp_path / "npz" / ".c.png.0123456789abcdef.tmp.npz").write_bytes(b"of a killed run")
    save_features(tmp_path / "f.h5", named.items())
    written = []
    for source in ("npz", "f.h5"):
        out = tmp_path / "v.txt"
        assert main(["vocab", "train", str(tmp_path / source), "-o", str(out), "-L", "2"]) == 0
        written.append(out.read_text())
    assert written[0] == written[1]


def test_sources_of_all_kinds_come_in_their_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = bindesc.create(nfeatures=60)
    folder = tmp_path / "photos"
    folder.mkdir()
    images = [folder / "a.png", folder / "b.png", tmp_path / "c.png", tmp_path / "d.png"]
    expected = {}
    for seed, path in enumerate(images):
        cv2.imwrite(str(path), textured(seed=seed))
        expected[str(path)] = detector.extract(textured(seed=seed)).descriptors
    (folder / "broken.png").write_bytes(b"no")
    stored, broken = tmp_path / "stored.npz", tmp_path / "broken.png"
    save_features_npz(stored, detector.extract(textured(seed=0)))
    expected[str(stored)] = expected[str(images[0])]
    broken.write_bytes(b"no")

    read = read_codes([images[3], folder, stored, images[2], broken], lambda: detector)
    for path in (images[3], *images[:2], stored, images[2]):
        name, codes = next(read)
        assert name == str(path)
        assert (codes == expected[name]).all()
    with pytest.raises(ImageError, match="broken"):
        next(read)
    assert str(folder / "broken.png") in capsys.readouterr().err


def test_photos_beside_other_files_are_read(tmp_path: Path) -> None:
    for seed in range(2):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), textured(seed=seed))
    np.savez(tmp_path / "intrinsics.npz", k=np.eye(3))
    names = [name for name, _ in read_codes([tmp_path], bindesc.create)]
    assert names == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]


def test_commands_refuse_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04")
    out = tmp_path / "v.txt"
    for source, problem in (
        ("empty", "no images"),
        ("missing", "missing"),
        ("damaged.npz", "not features"),
    ):
        assert main(["vocab", "train", str(tmp_path / source), "-o", str(out)]) == 2
        assert problem in capsys.readouterr().err
    assert not out.exists()
    assert main(["vocab", "train", str(tmp_path), "-o", str(tmp_path / "no" / "v.txt")]) == 2
    assert "is not a folder" in capsys.readouterr().err
