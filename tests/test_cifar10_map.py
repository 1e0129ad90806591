import json
from itertools import permutations

import cv2
import numpy as np
import pytest
from numpy.random import default_rng

from benchmarks import cifar10_map, common
from benchmarks.cifar10_map import main, read_data
from benchmarks.image_codes import itq_rotation, pca_itq, pixels, random_projections
from benchmarks.ranking import average_precision, distance_histogram
from bindesc.models.retrieval import RetrievalConfig, RetrievalDiscriminator
from bindesc.packing import pack_bits
from bindesc.reference import hamming
from bindesc.training.cifar10 import CLASSES
from bindesc.weights import save_model

SMALL = RetrievalConfig(narrow=4, wide=4)


def write_cifar10(folder, per_batch=20):
    """Binary batches; each class has a colour of its own, with noise."""
    rng = default_rng(0)
    colours = rng.integers(40, 216, (len(CLASSES), 3))
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        labels = np.arange(per_batch) % len(CLASSES)
        images = colours[labels][:, :, None] + rng.normal(0, 20, (per_batch, 3, 1024))
        rows = np.column_stack([labels, images.clip(0, 255).reshape(per_batch, -1)])
        (folder / f"{name}.bin").write_bytes(rows.astype(np.uint8).tobytes())
    return folder


def one_by_one(order, right, place):
    """Sum of the precisions at right ones among the first, and their number."""
    total, found = 0.0, 0
    for rank, index in enumerate(order[:place], start=1):
        if right[index]:
            found += 1
            total += found / rank
    return total, found


# The score.


def test_lowest_index_equals_brute_force():
    rng = default_rng(1)
    queries, database = (
        rng.integers(0, 256, (300, 2), np.uint8),
        rng.integers(0, 256, (90, 2), np.uint8),
    )
    query_labels, labels = rng.integers(0, 4, 300), rng.integers(0, 4, 90)
    places = (1, 10, 90, 1000)
    got = average_precision(queries, query_labels, database, labels, places).lowest
    distance = hamming(queries, database)
    for q in range(0, 300, 7):
        order = sorted(range(90), key=lambda i: (distance[q, i], i))
        for column, place in enumerate(places):
            total, found = one_by_one(order, labels == query_labels[q], place)
            assert got[q, column] == pytest.approx(total / max(found, 1))


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, 6, 7, 100])
def test_mean_of_ties_equals_all_orders(place):
    """Groups of 3, 1 and 3 tied images, cut by the place or not."""
    query = np.array([[0]], np.uint8)
    database = np.array([[1], [2], [4], [3], [7], [11], [13]], np.uint8)
    distance = hamming(query, database)[0]
    assert distance.tolist() == [1, 1, 1, 2, 3, 3, 3]
    for code in range(2**7):
        right = np.array([code >> i & 1 for i in range(7)], bool)
        outcomes = [
            one_by_one([*first, 3, *last], right, place)
            for first in permutations([0, 1, 2])
            for last in permutations([4, 5, 6])
        ]
        total, found = np.mean(outcomes, 0)
        labels = right.astype(np.int64)
        got = average_precision(query, np.array([1]), database, labels, [place]).mean
        assert got[0, 0] == pytest.approx(total / found if found else 0.0)


def test_without_ties_both_rules_agree():
    database = pack_bits(np.tri(16, dtype=np.uint8))
    labels = default_rng(2).integers(0, 2, 16)
    scores = average_precision(np.zeros((1, 2), np.uint8), np.array([1]), database, labels, [5, 16])
    assert scores.mean == pytest.approx(scores.lowest)


def test_perfect_and_meaningless_codes():
    labels = default_rng(3).integers(0, 10, 3000)
    perfect = pack_bits((labels[:, None] == np.arange(16)).astype(np.uint8))
    good = average_precision(perfect[:100], labels[:100], perfect, labels, [100])
    assert (good.mean == pytest.approx(1.0)) and (good.lowest == pytest.approx(1.0))
    noise = default_rng(4).integers(0, 256, (3000, 8), np.uint8)
    bad = average_precision(noise[:500], default_rng(5).integers(0, 10, 500), noise, labels, [1000])
    assert bad.mean.mean() == pytest.approx(0.1, abs=0.02)
    assert bad.lowest.mean() == pytest.approx(0.1, abs=0.02)


def test_the_histogram_counts_pairs():
    rng = default_rng(8)
    queries, database = (rng.integers(0, 256, (n, 2), np.uint8) for n in (300, 40))
    query_labels, labels = rng.integers(0, 3, 300), rng.integers(0, 3, 40)
    histogram = distance_histogram(queries, query_labels, database, labels)
    distance = hamming(queries, database)
    right = query_labels[:, None] == labels
    assert histogram.shape == (2, 17)
    assert (histogram[0] == np.bincount(distance[~right], minlength=17)).all()
    assert (histogram[1] == np.bincount(distance[right], minlength=17)).all()


# The codes.


def test_itq_finds_the_rotation_of_a_cube():
    rng = default_rng(6)
    corners = rng.choice([-1.0, 1.0], (500, 4)).astype(np.float32)
    turned = corners @ np.linalg.qr(rng.standard_normal((4, 4)))[0].astype(np.float32)
    rotation = itq_rotation(turned)
    assert np.allclose(rotation @ rotation.T, np.eye(4), atol=1e-5)
    assert np.abs(np.abs(turned @ rotation) - 1).max() < 1e-3


@pytest.mark.parametrize("learn", [random_projections, pca_itq])
def test_codes_of_pixels(learn):
    images = default_rng(7).integers(0, 256, (200, 32, 32, 3), np.uint8)
    encode = learn(lambda images: pixels(images)[:, :48], images, 16)
    codes = encode(images)
    assert codes.shape == (200, 2)
    assert (encode(images[50:60]) == codes[50:60]).all()
    share = np.unpackbits(codes, axis=1).mean(0)
    assert share.min() > 0.2 and share.max() < 0.8


# The command.


def test_the_order_is_random_and_labels_follow(tmp_path):
    data = read_data(write_cifar10(tmp_path))
    assert data.database.shape == (100, 32, 32, 3)
    assert (np.sort(data.labels) == np.repeat(np.arange(10), 10)).all()
    assert (data.labels != np.tile(np.arange(10), 10)).any()
    for label in range(10):
        means = data.database[data.labels == label].mean((1, 2))
        assert np.ptp(means, axis=0).max() < 10
    limited = read_data(tmp_path, limit=4)
    assert (len(limited.database), len(limited.queries)) == (20, 4)
    assert (limited.queries == data.queries[:4]).all()


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path / "results")
    (tmp_path / "data").mkdir()
    path = tmp_path / "m.safetensors"
    save_model(path, RetrievalDiscriminator(SMALL))
    work = tmp_path / "work"
    command = ["--data", str(write_cifar10(tmp_path / "data")), "--work", str(work)]
    command += ["--bits", "16", "--model", f"mine={path}", "--rows"]
    assert main([*command, *cifar10_map.ROWS, "--save"], SMALL) == 0
    output = capsys.readouterr().out
    assert "| BinGAN, published" in output

    saved = json.loads((tmp_path / "results" / "cifar10_map.json").read_text())
    names = [(row["row"], row["bits"]) for row in saved["rows"]]
    assert names == [
        ("random projections of pixels", 16),
        ("PCA + ITQ of pixels", 16),
        ("PCA + ITQ of HOG", 16),
        ("bindesc images", 16),
        ("BinGAN untrained", 16),
        ("mine", 64),
    ]
    # The classes have colours of their own, which pixels tell.
    assert saved["rows"][1]["map_1000"] > 0.5
    cell = f"{100 * saved['rows'][1]['map_1000']:.2f}"
    assert saved["table"]["rows"][1] == ["PCA + ITQ of pixels", cell, "-", "-"]
    for picture in (tmp_path / "results" / "cifar10_map.png", work / "queries.png"):
        assert cv2.imread(str(picture)).std() > 5

    # What is there is not measured again; a changed model is.
    encoded = []
    monkeypatch.setattr(cifar10_map, "run_row", lambda *given: encoded.append(given[0]) or kept[0])
    kept = [(k.row, k.arrays) for k in cifar10_map.kept_rows(work) if k.row.row == "mine"]
    assert main([*command, "itq"], SMALL) == 0
    assert encoded == [] and "| PCA + ITQ of HOG" in capsys.readouterr().out
    save_model(path, RetrievalDiscriminator(SMALL))
    assert main(command, SMALL) == 0
    assert encoded == ["mine"]


def test_unusable_input(tmp_path, capsys):
    assert main(["--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 2
    assert "no CIFAR-10 train images" in capsys.readouterr().err
    write_cifar10(tmp_path)
    work = ["--work", str(tmp_path / "work"), "--rows"]
    assert main(["--data", str(tmp_path), *work, "--model", "compact"]) == 2
    assert "wanted one for images" in capsys.readouterr().err
    for options in (["--limit", "3", "--save"], ["--limit", "0"]):
        with pytest.raises(SystemExit):
            main(["--data", str(tmp_path), *options])
        assert "--limit" in capsys.readouterr().err
