from __future__ import annotations

import numpy as np
import pytest

from bindesc.image_pairs import PairChoice, similar_pairs


def no_codes(name: str) -> np.ndarray:
    raise AssertionError("only 'similar' looks at descriptors")


@pytest.mark.parametrize(
    ("text", "choice", "shown"),
    [
        ("exhaustive", PairChoice("exhaustive"), "exhaustive"),
        ("sequential", PairChoice("sequential", 10), "sequential:10"),
        ("sequential:3", PairChoice("sequential", 3), "sequential:3"),
        ("similar:7", PairChoice("similar", 7), "similar:7"),
    ],
)
def test_rules_are_read(text: str, choice: PairChoice, shown: str) -> None:
    assert PairChoice.parse(text) == choice
    assert str(choice) == shown


@pytest.mark.parametrize(
    "text", ["", "all", "exhaustive:3", "similar:0", "similar:x", "sequential:"]
)
def test_other_rules_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"pairs: .* is none of exhaustive, sequential"):
        PairChoice.parse(text)


def test_exhaustive_and_sequential() -> None:
    names = ["a", "b", "c", "d"]
    every = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert PairChoice("exhaustive").choose(names, no_codes) == every
    assert PairChoice("sequential", 2).choose(names, no_codes) == [p for p in every if p != (0, 3)]
    assert PairChoice("sequential", 9).choose(names, no_codes) == every


def places(images: int, count: int) -> dict[str, np.ndarray]:
    """Images of three places in turn; those of a place share their codes, but for noise."""
    random = np.random.default_rng(0)
    of_place = random.integers(0, 256, (3, count, 32)).astype(np.uint8)
    codes = {}
    for number in range(images):
        shown = of_place[number % 3][random.random(count) < 0.7]
        noise = np.packbits(random.random((len(shown), 256)) < 0.05, axis=1)
        codes[f"{number}.jpg"] = shown ^ noise
    return codes


def test_similar_images_are_those_of_one_place() -> None:
    codes = places(12, 150)
    pairs = similar_pairs(list(codes), codes.__getitem__, 3)
    assert pairs == [(i, j) for i in range(12) for j in range(i + 1, 12) if (j - i) % 3 == 0]
    assert similar_pairs(list(codes), codes.__getitem__, 3) == pairs


def test_similar_takes_images_without_keypoints() -> None:
    codes = {"a": np.zeros((0, 32), np.uint8), **places(3, 20)}
    pairs = similar_pairs(list(codes), codes.__getitem__, 5)
    assert pairs == [(i, j) for i in range(4) for j in range(i + 1, 4)]
    nothing = dict.fromkeys("xyz", codes["a"])
    assert len(similar_pairs(list(nothing), nothing.__getitem__, 2)) == 3
