from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import textured
from scene import save_views

from bindesc.collection import Collection, Rules, match_features, shrinkage, verify
from bindesc.export import save_features_npz
from bindesc.folder import Shard
from bindesc.image import read_image
from bindesc.opencv_descriptors import OpenCVFeatures
from bindesc.pair import match_pair
from bindesc.types import Features


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Features]:
    """Three views of one scene, and two pictures that show nothing of it."""
    folder = tmp_path_factory.mktemp("views")
    images = {name: read_image(folder / name) for name in save_views(folder, 3)}
    images |= {f"other{seed}.png": textured(360, 480, 50 + seed) for seed in (0, 1)}
    orb = OpenCVFeatures("orb", "orb", 500)
    return {name: orb.extract(image) for name, image in images.items()}


@pytest.fixture
def collection(tmp_path: Path, views: dict[str, Features]) -> Collection:
    (tmp_path / "features").mkdir()
    for name, features in views.items():
        save_features_npz(tmp_path / "features" / f"{name}.npz", features)
    names = list(views)
    partners = {name: names[i + 1 :] for i, name in enumerate(names[:-1])}
    return Collection(tmp_path, names, partners)


def test_only_views_of_one_scene_are_related(collection: Collection) -> None:
    collection.match(Rules())
    pairs = list(collection.verified())
    assert [(p.name0, p.name1) for p in pairs] == [
        (first, second) for first, others in collection.partners.items() for second in others
    ]
    for pair in pairs:
        related = pair.name0.startswith("view") and pair.name1.startswith("view")
        assert (pair.geometry.model is not None) == related
        assert len(pair.pairs) > 20
        assert len(pair.geometry.inliers) == len(pair.pairs)
        assert pair.geometry.inliers.sum() > 100 if related else not pair.geometry.inliers.any()


def test_what_is_kept_is_what_was_found(collection: Collection, views: dict[str, Features]) -> None:
    collection.match(Rules())
    found = {(pair.name0, pair.name1): pair for pair in collection.verified()}
    pair = found["view0.png", "view1.png"]
    features = [(views["view0.png"], views["view1.png"])]
    (matches,) = match_features(features, Rules())
    (geometry,) = verify(features, [matches], Rules())
    np.testing.assert_array_equal(pair.pairs, matches.pairs)
    np.testing.assert_array_equal(pair.geometry.model, geometry.model)
    np.testing.assert_array_equal(pair.geometry.inliers, geometry.inliers)


def test_shares_are_disjoint_and_complete(collection: Collection) -> None:
    collection.match(Rules(), shard=Shard(1, 2))
    assert collection.unmatched() == ["view1.png", "other0.png"]
    assert collection.unmatched(Shard(1, 2)) == []
    collection.match(Rules(), shard=Shard(2, 2))
    assert collection.unmatched() == []


def test_other_partners_are_matched_again(collection: Collection) -> None:
    collection.match(Rules())
    digest = collection.digest()
    partners = {**collection.partners, "view0.png": ["view2.png"]}
    changed = Collection(collection.folder, collection.names, partners)
    assert changed.unmatched() == ["view0.png"]
    changed.match(Rules())
    assert changed.unmatched() == []
    assert [p.name1 for p in changed.verified() if p.name0 == "view0.png"] == ["view2.png"]
    assert changed.digest() != digest


def test_other_features_are_matched_again(
    collection: Collection, views: dict[str, Features]
) -> None:
    collection.match(Rules())
    path = collection.folder / "features" / "view2.png.npz"
    save_features_npz(path, views["other0.png"])
    again = Collection(collection.folder, collection.names, collection.partners)
    assert again.unmatched() == ["view0.png", "view1.png", "view2.png"]


def test_damaged_matches_are_made_again(collection: Collection) -> None:
    collection.match(Rules())
    digest = collection.digest()
    for name, content in (("view0.png", b""), ("view1.png", b"PK\x03\x04")):
        (collection.folder / "matches" / f"{name}.npz").write_bytes(content)
    assert collection.unmatched() == ["view0.png", "view1.png"]
    collection.match(Rules())
    assert collection.digest() == digest


def test_sift_is_matched_by_euclidean_distance(tmp_path: Path) -> None:
    names = save_views(tmp_path, 2)
    sift = OpenCVFeatures("sift", "sift", 300)
    first, second = (sift.extract(read_image(tmp_path / name)) for name in names)
    rules = Rules(norm="l2", ratio=0.8)
    (matches,) = match_features([(first, second)], rules)
    expected = match_pair(first, second, "l2", kind=None).matches
    assert 0 < len(matches) < len(expected)
    (geometry,) = verify([(first, second)], [matches], rules)
    assert geometry.inliers.mean() > 0.8


def test_threshold_follows_the_shrinkage(views: dict[str, Features]) -> None:
    features = views["view0.png"]  # 480 pixels wide
    assert shrinkage(features, None) == shrinkage(features, 600) == 1
    assert shrinkage(features, 240) == 2
    noise = np.random.default_rng(0).normal(0, 1.5, features.xy.shape).astype(np.float32)
    pair = [(replace(features, xy=features.xy + noise), views["view1.png"])]
    matches = match_features(pair, Rules())
    fine = verify(pair, matches, Rules(threshold=1.0))
    coarse = verify(pair, matches, Rules(threshold=1.0, long_side=120))
    assert coarse[0].inliers.sum() > 1.2 * fine[0].inliers.sum()


def test_unusable_ratio_is_refused() -> None:
    with pytest.raises(ValueError, match="ratio: expected above 0"):
        Rules(ratio=1.5)
