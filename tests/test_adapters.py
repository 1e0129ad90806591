from __future__ import annotations

import pickle
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from pictures import shifted, textured_gray

import bindesc
from bindesc.adapters import PatchDescriptor, hamming_matrix
from bindesc.packing import unit_vectors
from bindesc.reference import hamming
from bindesc.types import Features


@pytest.fixture(scope="module")
def pair() -> tuple[Features, Features]:
    detector = bindesc.create(nfeatures=200)
    image = textured_gray()
    first, second = detector.extract_batch([image, shifted(image, 9, 4)])
    return first, second


def test_kornia_cuts_and_describes_the_same_patches(pair: tuple[Features, Features]) -> None:
    kornia = pytest.importorskip("kornia")
    features = pair[0]
    descriptor = PatchDescriptor(packed=True)
    image = torch.from_numpy(textured_gray()).float()[None, None] / 255
    # kornia repeats the border and bindesc mirrors it: compare inside.
    inside = (np.abs(features.xy - [160, 120]) < [160, 120] - 1.1 * features.size[:, None]).all(1)
    lafs = descriptor.lafs(features, gray=textured_gray())
    cut = partial(kornia.feature.LAFDescriptor, descriptor, patch_size=64)
    codes = cut()(image, lafs)[0]
    distance = np.diagonal(hamming(codes.numpy(), features.descriptors))[inside]
    assert inside.sum() > 50
    # Another pyramid, another rounding, and a log-polar patch is sampled from a square one.
    assert np.median(distance) <= 16
    turned = lafs.clone()
    turned[..., 0, 1], turned[..., 1, 0] = turned[..., 1, 0].clone(), turned[..., 0, 1].clone()
    wrong = cut()(image, turned)[0]
    assert np.median(np.diagonal(hamming(wrong.numpy(), features.descriptors))[inside]) > 40


def test_kornia_matches_as_bindesc_does(pair: tuple[Features, Features]) -> None:
    kornia = pytest.importorskip("kornia")
    first, second = (features.descriptors for features in pair)
    packed = torch.from_numpy(first), torch.from_numpy(second)
    floats = torch.from_numpy(unit_vectors(first)), torch.from_numpy(unit_vectors(second))
    expected = bindesc.match(first, second)
    for descriptors in (packed, floats):
        matrix = hamming_matrix(*descriptors)
        np.testing.assert_array_equal(matrix.numpy(), hamming(first, second))
        distance, index = kornia.feature.match_mnn(*descriptors, dm=matrix)
        mine = dict(zip(map(tuple, expected.pairs.tolist()), expected.distance, strict=True))
        theirs = dict(zip(map(tuple, index.tolist()), distance[:, 0].tolist(), strict=True))
        common = mine.keys() & theirs.keys()  # they differ where two are equally near
        assert len(common) > 0.95 * max(len(mine), len(theirs))
        assert all(mine[key] == theirs[key] for key in common)
        _, ratio_index = kornia.feature.match_smnn(*descriptors, th=0.8, dm=matrix)
        assert 0 < len(ratio_index) < len(index)


def test_patch_descriptor_gives_unit_vectors_in_the_inputs_dtype() -> None:
    patches = torch.rand(3, 1, 32, 32, dtype=torch.float64, generator=torch.manual_seed(0))
    vectors = PatchDescriptor()(patches)
    assert vectors.shape == (3, 256)
    assert vectors.dtype == torch.float64
    assert set(vectors.abs().unique().tolist()) == {1 / 16}
    codes = PatchDescriptor(packed=True)(patches)
    np.testing.assert_array_equal(np.packbits(vectors.numpy() > 0, axis=1), codes.numpy())
    copy = pickle.loads(pickle.dumps(PatchDescriptor()))  # as workers of a DataLoader get it
    assert torch.equal(copy(patches), vectors)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"S from 16 to 128, got \(2, 8, 8\)"):
        PatchDescriptor()(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"expected \(B, 1, S, S\), got \(2, 3, 32, 32\)"):
        PatchDescriptor()(torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"expected \(N, 32, 32\) uint8, got \(2, 16, 16\)"):
        PatchDescriptor("bingan-256")(torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="descriptors2"):
        hamming_matrix(torch.zeros(2, 32, dtype=torch.uint8), torch.zeros(2, 256))


def test_scikit_image_matches_unpacked_bits(pair: tuple[Features, Features]) -> None:
    feature = pytest.importorskip("skimage.feature")
    first, second = (f.descriptors for f in pair)
    bits = [np.unpackbits(codes, axis=1).astype(bool) for codes in (first, second)]
    found = set(map(tuple, feature.match_descriptors(*bits, cross_check=True).tolist()))
    expected = set(map(tuple, bindesc.match(first, second).pairs.tolist()))
    assert len(found & expected) > 0.95 * max(len(found), len(expected))


def test_faiss_finds_the_same_distances(pair: tuple[Features, Features]) -> None:
    faiss = pytest.importorskip("faiss")
    first, second = (f.descriptors for f in pair)
    index = faiss.IndexBinaryFlat(8 * second.shape[1])
    index.add(second)
    distance, found = index.search(first, 1)
    expected = bindesc.match(first, second, mutual=False)
    np.testing.assert_array_equal(distance[:, 0], expected.distance)
    same = found[:, 0] == expected.pairs[:, 1]
    assert (hamming(first, second)[np.arange(len(first)), found[:, 0]] == expected.distance).all()
    assert same.mean() > 0.95


def test_opencv_lsh_finds_most_neighbours(pair: tuple[Features, Features]) -> None:
    if not hasattr(cv2, "FlannBasedMatcher"):
        pytest.skip("this OpenCV has no FLANN")
    first, second = (f.descriptors for f in pair)
    lsh = {"algorithm": 6, "table_number": 12, "key_size": 12, "multi_probe_level": 1}
    matcher = cv2.FlannBasedMatcher(lsh, {})
    found = {(m.queryIdx, m.distance) for m in matcher.match(np.asarray(first), np.asarray(second))}
    exact = bindesc.match(first, second, mutual=False)
    near = [(int(i), float(d)) for (i, _), d in zip(exact.pairs, exact.distance) if d <= 60]  # noqa: B905
    assert len(near) > 100
    assert sum(entry in found for entry in near) > 0.9 * len(near)


def test_detect_and_compute_serves_pyslam() -> None:
    """It filters, sorts and converts keypoints and descriptors with OpenCV's functions."""
    keypoints, codes = bindesc.create(nfeatures=100).detectAndCompute(textured_gray(), None)
    order = sorted(range(len(keypoints)), key=lambda i: -keypoints[i].response)
    best = [keypoints[i] for i in order[:50]]
    assert cv2.KeyPoint.convert(best).shape == (50, 2)
    assert np.array(codes)[order[:50]].shape == (50, 32)


def test_unit_vectors_keep_distances() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (20, 32), np.uint8)
    vectors = unit_vectors(codes)
    assert vectors.dtype == np.float32
    squared = ((vectors[:, None] - vectors) ** 2).sum(2)
    np.testing.assert_allclose(squared * 64, hamming(codes, codes), atol=1e-4)
