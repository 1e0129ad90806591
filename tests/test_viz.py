from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bindesc.viz import MAX_WIDTH, draw_matches, save_picture

GREY = 128
INLIERS = np.array([True, False])
XY0 = np.array([[20, 30], [50, 10]], np.float32)
XY1 = np.array([[40, 30], [30, 60]], np.float32)


def panel(height: int, width: int) -> np.ndarray:
    return np.full((height, width), GREY, np.uint8)


def test_images_of_different_heights_stand_side_by_side() -> None:
    picture = draw_matches(panel(80, 100), XY0, panel(140, 120), XY1, INLIERS, "two")
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 100 + 8 + 120
    assert picture.shape[0] > 140
    assert (picture[70, 90] == GREY).all()
    assert (picture[110, 50] == 255).all()  # below the shorter image
    assert (picture[135, 150] == GREY).all()


def test_inliers_are_green_and_outliers_faint_red() -> None:
    picture = draw_matches(panel(80, 100), XY0, panel(80, 120), XY1, INLIERS, "").astype(int)
    blue, green, red = picture[30, 60]  # on the inlier's level line
    assert green > GREY + 30
    assert max(blue, red) < GREY
    blue, green, red = picture[35, 94]  # on the outlier, halfway from (50, 10) to (138, 60)
    assert GREY < red < GREY + 60
    assert max(blue, green) < GREY
    # A mark at both ends of the inlier.
    for x in (20, 108 + 40):
        assert (picture[26:35, x - 4 : x + 5, 1] > GREY + 60).sum() > 5


def test_large_pictures_are_scaled_down_with_their_points() -> None:
    large = draw_matches(
        panel(3000, 4000), XY0 * 40, panel(2000, 4000), XY1 * 40, np.ones(2, np.bool_), "large"
    )
    assert MAX_WIDTH - 2 <= large.shape[1] <= MAX_WIDTH
    scale = (MAX_WIDTH - 8) / 8000
    x, y = (XY0[0] * 40 * scale).astype(int)
    marks = large[y - 5 : y + 6, x - 5 : x + 6].astype(int)
    assert (marks[:, :, 1] > GREY + 60).any()


def test_colour_and_no_matches() -> None:
    color = np.full((50, 60, 3), (10, 20, 30), np.uint8)
    none = np.zeros((0, 2), np.float32)
    picture = draw_matches(color, none, panel(50, 60), none, np.zeros(0, np.bool_), "nothing")
    np.testing.assert_array_equal(picture[:50, :60], color)
    assert (picture[:50, 68:] == GREY).all()


def test_caption_fits_a_narrow_picture() -> None:
    none = np.zeros((0, 2), np.float32)
    text = "a caption that is much longer than this narrow picture is wide"
    picture = draw_matches(panel(20, 60), none, panel(20, 60), none, np.zeros(0, np.bool_), text)
    caption = picture[20:].min(axis=2)
    assert caption.min() < 100
    assert (caption[:, :4] == 255).all()
    assert (caption[:, -4:] == 255).all()


def test_save(tmp_path: Path) -> None:
    picture = draw_matches(panel(80, 100), XY0, panel(80, 120), XY1, INLIERS, "saved")
    save_picture(tmp_path / "a.png", picture)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png")), picture)
    with pytest.raises(ValueError, match=r"a\.xyz: no image format has this suffix"):
        save_picture(tmp_path / "a.xyz", picture)
    with pytest.raises(OSError, match="is not a folder"):
        save_picture(tmp_path / "no" / "a.png", picture)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
