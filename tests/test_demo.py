from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from bindesc.demo import corner_error, load_photo, run_demo, second_view
from bindesc.opencv_descriptors import OpenCVFeatures

pytest.importorskip("skimage")


def test_second_view_is_the_photo_under_the_homography() -> None:
    photo = load_photo()
    assert photo.shape == (500, 741, 3)
    view, truth = second_view(photo)
    again, _ = second_view(photo)
    np.testing.assert_array_equal(view, again)
    assert truth[2, 2] == 1
    assert view.mean() < 0.6 * photo.mean()
    size = (photo.shape[1], photo.shape[0])
    back = cv2.warpPerspective(view, np.linalg.inv(truth), size)
    seen = cv2.warpPerspective(np.full(photo.shape[:2], 255, np.uint8), truth, size)
    inside = cv2.warpPerspective(seen, np.linalg.inv(truth), size) == 255
    grey = [cv2.GaussianBlur(image, (0, 0), 2).mean(axis=2)[inside] for image in (photo, back)]
    assert inside.mean() > 0.6
    assert np.corrcoef(*grey)[0, 1] > 0.95


def test_corner_error() -> None:
    truth = np.array([[1, 0, 3], [0, 1, 4], [0, 0, 1]], np.float64)
    assert corner_error(truth, truth, (100, 80)) == 0
    assert corner_error(np.eye(3), truth, (100, 80)) == pytest.approx(5)
    assert corner_error(None, truth, (100, 80)) == float("inf")


def test_demo_matches_and_writes_its_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "demo"
    results = run_demo(folder, {"orb": lambda: OpenCVFeatures("orb")})
    assert [result.name for result in results] == ["orb"]
    assert results[0].pair.geometry.inliers.sum() > 200
    assert results[0].corner_error < 2
    assert {path.name for path in folder.iterdir()} == {"demo.png", "view0.png", "view1.png"}
    picture = cv2.imread(str(folder / "demo.png"))
    assert picture.shape[1] == 741 + 8 + 741
    np.testing.assert_array_equal(cv2.imread(str(folder / "view0.png")), load_photo())


def test_missing_scikit_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install bindesc\[viz\]"):
        run_demo(tmp_path / "demo", {})
    assert not list(tmp_path.iterdir())
