import shutil
import sys

import cv2
import numpy as np
import pytest
from pictures import textured
from scene import write_model

from bindesc.training.multiview import Photo, carry_by_points, read_photos, shared_points
from bindesc.training.pairs import PairSettings, build_pairs, open_pairs
from bindesc.training.views import find_partners

AFFINE = np.array([[1.1, -0.2], [0.3, 0.9]])
OFFSET = np.array([30.0, -12.0])


def grid(step=12, side=240):
    line = np.arange(0.0, side, step)
    return np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)


def test_an_affine_map_is_carried_exactly():
    here = grid()
    carried = carry_by_points(here, here @ AFFINE.T + OFFSET, np.float32([[50.5, 61], [120, 9]]))
    assert np.allclose(carried.xy, np.array([[50.5, 61], [120, 9]]) @ AFFINE.T + OFFSET)
    assert np.allclose(carried.jacobian, AFFINE, atol=1e-6)


def test_places_far_from_all_points_are_unknown():
    here = grid()
    assert np.isnan(carry_by_points(here, here, np.float32([[400, 400]])).xy).all()


def test_places_on_a_depth_edge_are_unknown():
    here = grid()
    there = here + np.where(here[:, :1] < 120, 0, 25)
    carried = carry_by_points(here, there, np.float32([[40, 100], [116, 100], [200, 100]]))
    assert np.isnan(carried.xy[:, 0]).tolist() == [False, True, False]


def test_points_on_a_line_say_nothing():
    here = np.stack([np.arange(0.0, 80, 4), np.zeros(20)], 1)
    assert np.isnan(carry_by_points(here, here, np.float32([[40, 0]])).xy).all()


def test_shared_points_stand_in_one_order():
    first = Photo("a", np.array([[1.0, 1], [2, 2], [3, 3]]), np.array([4, 7, 9]), (9, 9))
    second = Photo("b", np.array([[9.0, 9], [8, 8]]), np.array([7, 9]), (9, 9))
    here, there = shared_points(first, second)
    assert here.tolist() == [[2, 2], [3, 3]]
    assert there.tolist() == [[9, 9], [8, 8]]


def test_without_pycolmap_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pycolmap"):
        read_photos(tmp_path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two photos of a textured plane, and the COLMAP model that a reconstruction would give."""
    pycolmap = pytest.importorskip("pycolmap")
    root = tmp_path_factory.mktemp("place")
    photos, model = root / "photos" / "wall", root / "model"
    photos.mkdir(parents=True)
    first = textured(480, 640, seed=3)
    affine = np.array([[0.9, -0.15, 60.0], [0.1, 0.95, 10.0]])
    second = cv2.warpAffine(first, affine, (640, 480), borderMode=cv2.BORDER_REFLECT)
    cv2.imwrite(str(photos / "a.png"), first)
    cv2.imwrite(str(photos / "b.png"), second)
    cv2.imwrite(str(photos / "c.png"), textured(480, 640, seed=4))

    here = grid(24, 480)[:400]
    seen = {"a.png": here, "b.png": here @ affine[:, :2].T + affine[:, 2]}
    write_model(model, seen, (640, 480))
    assert pycolmap.Reconstruction(str(model)).num_points3D() == len(here)
    return root / "photos", model


def test_a_model_is_read_with_its_half_pixel(place):
    _, model = place
    photos = read_photos(model)
    assert [photo.name for photo in photos] == ["a.png", "b.png"]
    assert photos[0].xy[1].tolist() == [24, 0]


def test_a_photo_of_another_size_is_skipped(place, tmp_path):
    folder, model = place
    for path in folder.rglob("*.png"):
        cv2.imwrite(str(tmp_path / path.name), cv2.imread(str(path))[::2, ::2])
    settings = PairSettings(views=1, min_pairs=1, keypoints=300)
    summary = build_pairs(tmp_path, tmp_path / "set", settings, models=[model], workers=1)
    assert [group["photo"] for group in summary["groups"]] == ["c.png"]
    assert "320x240 pixels, but the COLMAP model was made at 640x480" in summary["skipped"]["a.png"]


def test_a_damaged_photo_takes_only_its_own_pairs_away(place, tmp_path):
    folder, model = place
    shutil.copytree(folder, tmp_path / "photos")
    damaged = tmp_path / "photos" / "wall" / "b.png"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    settings = PairSettings(views=1, min_pairs=1, keypoints=300)
    summary = build_pairs(
        tmp_path / "photos", tmp_path / "set", settings, models=[model], workers=1
    )
    assert [group["photo"] for group in summary["groups"]] == ["wall/a.png", "wall/c.png"]
    assert list(summary["skipped"]) == ["wall/b.png"]


def test_a_folder_without_a_model_is_refused(tmp_path):
    pytest.importorskip("pycolmap")
    with pytest.raises(ValueError, match="not a COLMAP model"):
        read_photos(tmp_path)


def test_photos_of_one_place_become_pairs(place, tmp_path):
    folder, model = place
    photos = sorted(folder.rglob("*.png"))
    partners = find_partners(photos, [model], count=3, seed=0)
    assert {p.name: [q.path.name for q in found] for p, found in partners.items()} == {
        "a.png": ["b.png"],
        "b.png": ["a.png"],
    }
    settings = PairSettings(views=0, partners=3, min_pairs=8, keypoints=500)
    summary = build_pairs(folder, tmp_path / "set", settings, models=[model], workers=1)
    assert [(g["photo"], g["partner"]) for g in summary["groups"]] == [
        ("wall/a.png", "wall/b.png"),
        ("wall/b.png", "wall/a.png"),
    ]
    data = open_pairs(tmp_path / "set")
    patches = data.patches.astype(float).reshape(len(data.patches), 2, -1)
    patches -= patches.mean(2, keepdims=True)
    patches /= np.linalg.norm(patches, axis=2, keepdims=True) + 1e-6
    assert np.median((patches[:, 0] * patches[:, 1]).sum(1)) > 0.7
