from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from bindesc import colmap
from bindesc.collection import VerifiedPair
from bindesc.geometry import Geometry
from bindesc.types import Features

pycolmap = pytest.importorskip("pycolmap")


def features(count: int, size: tuple[int, int] = (120, 90), seed: int = 0) -> Features:
    random = np.random.default_rng(seed)
    xy = random.uniform(0, 80, (count, 2)).astype(np.float32)
    ones = np.full(count, 31, np.float32)
    codes = random.integers(0, 256, (count, 32)).astype(np.uint8)
    return Features(xy, ones, 0 * ones, ones, codes, size)


def fundamental(seed: int = 0) -> np.ndarray:
    model = np.random.default_rng(seed).normal(size=(3, 3))
    u, s, v = np.linalg.svd(model)
    return u @ np.diag([s[0], s[1], 0]) @ v


IMAGES = [
    ("a.jpg", features(20), None),
    ("sub/b c.jpg", features(10, seed=1), None),
    ("wide.jpg", features(0, (200, 90)), 150.0),
]
PAIRS = np.array([[0, 1], [3, 2], [5, 5]], np.int32)
INLIERS = np.array([True, False, True])


def verified() -> list[VerifiedPair]:
    nothing = Geometry(None, np.zeros(0, np.bool_))
    return [
        VerifiedPair("a.jpg", "sub/b c.jpg", PAIRS, Geometry(fundamental(), INLIERS)),
        VerifiedPair("a.jpg", "wide.jpg", np.zeros((0, 2), np.int32), nothing),
    ]


def test_database_holds_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "database.db"
    colmap.save_database(path, IMAGES, verified())
    assert [p.name for p in tmp_path.iterdir()] == ["database.db"]
    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        assert sorted(ids) == sorted(name for name, _, _ in IMAGES)
        for name, written, _ in IMAGES:
            keypoints = database.read_keypoints(ids[name])
            np.testing.assert_array_equal(keypoints[:, :2], written.xy + np.float32(0.5))
            stored = database.read_descriptors(ids[name]).data
            np.testing.assert_array_equal(stored, written.descriptors)
        pair = ids["a.jpg"], ids["sub/b c.jpg"]
        np.testing.assert_array_equal(database.read_matches(*pair), PAIRS)
        geometry = database.read_two_view_geometry(*pair)
        np.testing.assert_array_equal(geometry.inlier_matches, PAIRS[INLIERS])
        assert database.num_matched_image_pairs() == 2
        assert (
            len(database.read_two_view_geometry(ids["a.jpg"], ids["wide.jpg"]).inlier_matches) == 0
        )


def test_fundamental_matrix_is_moved_with_the_points(tmp_path: Path) -> None:
    colmap.save_database(tmp_path / "d.db", IMAGES, verified())
    with pycolmap.Database.open(tmp_path / "d.db") as database:
        stored = database.read_two_view_geometry(1, 2).F
    first, second = np.array([3.0, 4, 1]), np.array([7.0, 1, 1])
    shift = np.array([0.5, 0.5, 0])
    expected = second @ fundamental() @ first
    assert (second + shift) @ stored @ (first + shift) == pytest.approx(expected)


@pytest.mark.parametrize(("shared", "count"), [(True, 2), (False, 3)])
def test_cameras(tmp_path: Path, shared: bool, count: int) -> None:
    path = tmp_path / "d.db"
    colmap.save_database(path, IMAGES, [], shared_camera=shared, camera_model="PINHOLE")
    with pycolmap.Database.open(path) as database:
        cameras = {c.camera_id: c for c in database.read_all_cameras()}
        of_image = {i.name: cameras[i.camera_id] for i in database.read_all_images()}
    assert len(cameras) == count
    assert {c.model_name for c in cameras.values()} == {"PINHOLE"}
    small, wide = of_image["a.jpg"], of_image["wide.jpg"]
    assert (small.width, small.height, wide.width, wide.height) == (120, 90, 200, 90)
    assert (small.focal_length_x, small.has_prior_focal_length) == (pytest.approx(144), False)
    assert (wide.focal_length_x, wide.has_prior_focal_length) == (150, True)


def test_failure_leaves_the_old_database(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    colmap.save_database(path, IMAGES, [])
    before = path.read_bytes()

    def images() -> object:
        yield IMAGES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        colmap.save_database(path, images(), [])  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["d.db"]


def test_focal_length_comes_from_exif(tmp_path: Path) -> None:
    image = np.zeros((90, 120, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / "plain.jpg"), image)
    assert cv2.imwrite(str(tmp_path / "plain.webp"), image)
    assert colmap.focal_from_exif(tmp_path / "plain.jpg") is None
    assert colmap.focal_from_exif(tmp_path / "plain.webp") is None
    data = (tmp_path / "plain.jpg").read_bytes()
    (tmp_path / "exif.jpg").write_bytes(data[:2] + exif_segment(focal_35mm=50) + data[2:])
    focal = colmap.focal_from_exif(tmp_path / "exif.jpg")
    # The diagonal of a 35 mm film frame is 43.27 mm, that of the image 150 pixels.
    assert focal == pytest.approx(50 / 43.2666 * 150, rel=0.01)


def exif_segment(focal_35mm: int) -> bytes:
    """An APP1 segment whose EXIF data holds FocalLengthIn35mmFilm alone."""
    header = b"II*\0" + (8).to_bytes(4, "little")
    pointer = entry(0x8769, 4, 26)
    film = entry(0xA405, 3, focal_35mm)
    directory = (1).to_bytes(2, "little")
    tiff = header + directory + pointer + bytes(4) + directory + film + bytes(4)
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def entry(tag: int, kind: int, value: int) -> bytes:
    fields = ((tag, 2), (kind, 2), (1, 4), (value, 4))
    return b"".join(number.to_bytes(size, "little") for number, size in fields)


def test_missing_pycolmap_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install bindesc\[sfm\]"):
        colmap.save_database(tmp_path / "d.db", IMAGES, [])
    assert not list(tmp_path.iterdir())
