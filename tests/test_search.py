from __future__ import annotations

import json
import os
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from pictures import textured

from bindesc import search_cli
from bindesc.cli import main
from bindesc.code_index import CodeIndex, create_index
from bindesc.faiss_index import KINDS, from_faiss, to_faiss
from bindesc.image import ImageError
from bindesc.image_search import components, read_small
from bindesc.index_format import IndexHeader
from bindesc.models.retrieval import RetrievalConfig, RetrievalDiscriminator
from bindesc.retrieval import encode_images
from bindesc.weights import save_model

NAMES = ["a.png", "sub/b 1.png", "sub/c & <i>#'.png", "ü.jpg"]


class Encoder:
    """Stands in for a model: is a 2 x 4 block of one channel brighter than the image's median?"""

    seen = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert images.shape[1:] == (32, 32, 3) and images.dtype == np.uint8
        self.seen += len(images)
        means = images[..., 0].reshape(-1, 8, 4, 8, 4).mean((2, 4)).reshape(-1, 64)
        return np.packbits(means > np.median(means, axis=1, keepdims=True), axis=1)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Encoder:
    encoder = Encoder()

    def load(model: str) -> tuple[Encoder, IndexHeader]:
        return encoder, IndexHeader(64, model, model)

    monkeypatch.setattr(search_cli, "load_encoder", load)
    return encoder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        save(folder / name, textured(seed=seed))
    return folder


def save(path: Path, image: np.ndarray) -> None:
    cv2.imencode(path.suffix, image)[1].tofile(path)


def build(folder: Path, index: Path, model: str = "m") -> int:
    return main(["index", "build", str(folder), "-o", str(index), "--model", model])


def names(index: Path) -> list[str]:
    with CodeIndex(index) as opened:
        return sorted(opened.names)


def test_small_images_are_rgb_means(tmp_path: Path) -> None:
    image = np.zeros((64, 128, 3), np.uint8)
    image[:2, :4] = (10, 20, 30)  # BGR
    image[:1, :4] += 2
    save(tmp_path / "a.png", image)
    small = read_small(tmp_path / "a.png")
    assert small.shape == (32, 32, 3) and small[0, 0].tolist() == [31, 21, 11]
    assert not small[1:].any()
    save(tmp_path / "g.png", np.full((50, 40), 7, np.uint8))
    assert (read_small(tmp_path / "g.png") == 7).all()
    with pytest.raises(ImageError):
        read_small(tmp_path / "none.png")


def test_build_again_does_only_what_changed(
    photos: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "x.idx"
    (photos / "bad.jpg").write_bytes(b"no image")
    assert build(photos, index) == 0
    out, err = capsys.readouterr()
    assert "4 images (4 new or changed, 0 deleted, 1 skipped)" in out
    assert err.startswith("skipped ") and "bad.jpg" in err
    assert names(index) == sorted(NAMES) and encoder.seen == 4

    before = index.read_bytes()
    assert build(photos, index) == 0
    assert encoder.seen == 4 and index.read_bytes() == before

    (photos / NAMES[0]).unlink()
    save(photos / NAMES[1], textured(seed=50))
    (photos / NAMES[3]).write_bytes(b"damaged since")
    save(photos / "new.png", textured(seed=51))
    capsys.readouterr()
    assert build(photos, index) == 0
    assert "3 images (2 new or changed, 2 deleted, 2 skipped)" in capsys.readouterr().out
    assert encoder.seen == 6 and names(index) == ["new.png", "sub/b 1.png", NAMES[2]]
    with CodeIndex(index) as opened:
        small = read_small(photos / NAMES[1])
        row = opened.names.index(NAMES[1])
        np.testing.assert_array_equal(opened.codes[row], Encoder()(small[None])[0])


def test_an_unfinished_write_is_reported(
    photos: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "x.idx"
    assert build(photos, index) == 0
    index.write_bytes(index.read_bytes()[:-1])
    assert main(["search", str(index), str(photos / NAMES[0]), "--model", "m"]) == 3
    assert "unfinished write" in capsys.readouterr().err
    assert build(photos, index) == 0
    assert "unfinished write" in capsys.readouterr().err
    assert names(index) == sorted(NAMES)


def test_shipped_models_need_no_option(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Search takes the model of the index; so does a build that brings one up to date."""
    photo = str(photos / NAMES[0])
    for bits, options in ((64, []), (16, ["--bits", "16"])):
        index = tmp_path / f"{bits}.idx"
        command = ["index", "build", str(photos), "-o", str(index)]
        assert main([*command, *options]) == 0
        assert main(command) == 0
        assert "4 images (0 new or changed" in capsys.readouterr().out
        with CodeIndex(index) as opened:
            assert (opened.header.bits, opened.header.model) == (bits, f"images-{bits}")
        assert main(["search", str(index), photo]) == 0
        assert capsys.readouterr().out.splitlines()[0].split() == ["0", "bits", NAMES[0]]
    save(photos / "z.jpg", textured(seed=0))
    assert main(["dedup", str(photos)]) == 0
    assert f"{NAMES[0]}\nz.jpg\n" in capsys.readouterr().out
    assert main([*command, "--bits", "32"]) == 2
    assert "has codes of 16 bits, expected 32" in capsys.readouterr().err


def test_an_index_of_another_model_needs_it(
    photos: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "x.idx"
    assert build(photos, index) == 0
    for command in (["search", str(index), str(photos / NAMES[0])],
                    ["index", "build", str(photos), "-o", str(index)]):  # fmt: skip
        capsys.readouterr()
        assert main(command) == 2
        assert "made with the model m (m), which does not come with" in capsys.readouterr().err
    index.write_bytes(index.read_bytes()[:30])
    assert main(command) == 2
    assert "header is damaged" in capsys.readouterr().err


def test_the_encoder_of_a_model_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "images.safetensors"
    manifest = save_model(path, RetrievalDiscriminator(RetrievalConfig(narrow=8, wide=8, bits=32)))
    encode, header = search_cli.load_encoder(str(path))
    assert header == IndexHeader(32, "images", manifest.sha256)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert (encode(images) == encode_images(images, model=path)).all()
    assert main(["dedup", str(tmp_path), "--max-dist", "2", "--model", "compact"]) == 2
    assert "is a compact model for patches" in capsys.readouterr().err


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.text = ""
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_search_and_its_page(
    photos: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index, query = tmp_path / "x.idx", tmp_path / "query.png"
    page = tmp_path / "pages" / "out.html"
    page.parent.mkdir()
    assert build(photos, index) == 0
    save(query, cv2.resize(textured(seed=2), None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA))
    capsys.readouterr()
    arguments = ["search", str(index), str(query), "--model", "m", "--top", "3"]
    assert main([*arguments, "--html", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].endswith("bits  " + NAMES[2])
    distances = [int(line.split()[0]) for line in lines]
    assert distances == sorted(distances) and distances[0] <= 4 < distances[1]

    shown = Page(page.read_text("utf-8"))
    assert "i" not in shown.tags and NAMES[2] in shown.text
    files = [(page.parent / unquote(link)).resolve() for link in shown.images]
    assert files[:2] == [query.resolve(), (photos / NAMES[2]).resolve()] and len(files) == 4
    assert all(file.is_file() for file in files)


def test_an_index_behind_a_link(photos: Path, tmp_path: Path, encoder: Encoder) -> None:
    link, index = tmp_path / "links" / "l.idx", tmp_path / "x.idx"
    link.parent.mkdir()
    link.symlink_to("../x.idx")
    assert build(photos, index) == 0
    query, page = photos / NAMES[2], tmp_path / "links" / "out.html"
    assert main(["search", str(link), str(query), "--model", "m", "--html", str(page)]) == 0
    shown = Page(page.read_text("utf-8"))
    assert all((page.parent / unquote(source)).is_file() for source in shown.images)
    for name in NAMES[:3]:
        (photos / name).unlink()
    assert build(photos, link) == 0  # most is gone: it is written anew
    assert link.is_symlink()
    assert build(photos, index) == 0


def test_index_and_folder_move_together(photos: Path, tmp_path: Path, encoder: Encoder) -> None:
    assert build(photos, tmp_path / "x.idx") == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(photos, elsewhere / "photos")
    shutil.move(tmp_path / "x.idx", elsewhere / "x.idx")
    assert build(elsewhere / "photos", elsewhere / "x.idx") == 0
    assert encoder.seen == 4


def test_exit_codes(
    photos: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    index, text, empty = tmp_path / "x.idx", tmp_path / "a.txt", tmp_path / "empty"
    empty.mkdir()
    text.write_text("no image")
    assert build(photos, index) == 0
    photo = str(photos / NAMES[0])
    dedup = ["dedup", "--model", "m", "--max-dist"]
    for arguments, error in (
        (["index", "build", str(empty), "-o", str(index), "--model", "m"], "no images"),
        (["index", "build", str(photos), "-o", str(index), "--model", "n"], "not with n"),
        (["index", "build", str(photos / "sub"), "-o", str(index), "--model", "m"], "not of"),
        (["index", "build", str(photos), "-o", str(empty / "no" / "x"), "--model", "m"], "no"),
        (["search", str(index), str(text), "--model", "m"], "a.txt"),
        (["search", str(index), photo, "--model", "n"], "made with the model m"),
        (["search", str(index), photo, "--model", "m", "--top", "0"], "k: "),
        (["search", photo, photo, "--model", "m"], "is not a bindesc index"),
        ([*dedup, "4", str(empty)], "no images"),
        ([*dedup, "-1", str(photos)], "max_distance"),
    ):
        capsys.readouterr()
        assert main(arguments) == 2, arguments
        assert error in capsys.readouterr().err
    assert names(index) == sorted(NAMES)
    bare = tmp_path / "bare.idx"
    create_index(bare, IndexHeader(64, "m", "m"))
    assert main(["search", str(bare), photo, "--model", "m"]) == 3


def test_dedup(photos: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(photos / NAMES[1], photos / "z.png")
    save(photos / "half.jpg", cv2.resize(textured(seed=1), (160, 120)))
    (photos / "bad.png").write_bytes(b"")
    command = ["dedup", str(photos), "--max-dist", "4", "--model", "m"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["groups"] == [["half.jpg", "sub/b 1.png", "z.png"]]
    assert len(found["skipped"]) == 1 and found["max_distance"] == 4
    assert main(command) == 0
    assert capsys.readouterr().out == "half.jpg\nsub/b 1.png\nz.png\n\n1 groups, 3 images\n"


def test_a_folder_without_a_readable_image_is_bad_input(
    tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("no image")
    for command in (
        ["index", "build", "-o", str(tmp_path / "x.idx")],
        ["dedup", "--max-dist", "4"],
    ):
        assert main([*command, str(tmp_path / "photos"), "--model", "m"]) == 2
        assert "no image could be read" in capsys.readouterr().err


def test_components_are_chains() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 3], [0, 7], [0xFF, 0xFF], [0, 0]], np.uint8)
    assert len(set(components(codes, 1)[[0, 1, 2, 3, 5]])) == 1
    assert components(codes, 1)[4] != components(codes, 1)[0]
    assert len(set(components(codes, 0))) == 5
    many = np.random.default_rng(0).integers(0, 256, (150, 2), np.uint8)
    labels = components(many, 2)
    near = (np.unpackbits(many[:, None] ^ many[None], axis=2).sum(2) <= 2).astype(np.float32)
    for _ in range(8):  # paths of up to 2^8 steps
        near = np.minimum(near @ near, 1)
    np.testing.assert_array_equal(labels[:, None] == labels[None], near > 0)
    assert 2 < len(set(labels)) < 150


@pytest.mark.parametrize("kind", KINDS)
def test_faiss(kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    codes = np.random.default_rng(0).integers(0, 256, (3000, 8), np.uint8)
    index = to_faiss(codes, kind)
    np.testing.assert_array_equal(from_faiss(index), codes)
    for _ in range(5):  # of an index that nothing else keeps
        np.testing.assert_array_equal(from_faiss(to_faiss(codes[:10], kind)), codes[:10])
    distance, found = index.search(codes[:20], 1)
    if kind == "flat":
        assert found[:, 0].tolist() == list(range(20))
    assert (distance == 0).mean() > 0.9
    with pytest.raises(ValueError, match="kind: expected one of flat, ivf, hnsw"):
        to_faiss(codes, "pq")
    with pytest.raises(TypeError, match="expected a binary index of faiss, got int"):
        from_faiss(1)


def test_faiss_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install bindesc\[faiss\]"):
        to_faiss(np.zeros((1, 8), np.uint8))


@pytest.mark.skipif(os.name == "nt", reason="file names are UTF-16")
def test_a_name_that_is_no_utf8_is_skipped(
    photos: Path, tmp_path: Path, encoder: Encoder, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = os.fsencode(photos) + b"/\xff.png"
    try:
        shutil.copy(photos / NAMES[0], bad)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    assert build(photos, tmp_path / "x.idx") == 0
    assert "the name is no UTF-8" in capsys.readouterr().err
    assert names(tmp_path / "x.idx") == sorted(NAMES)
