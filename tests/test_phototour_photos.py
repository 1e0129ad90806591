import cv2
import numpy as np
import pytest
from pictures import textured
from scene import write_model

from bindesc.cli import main
from bindesc.training.brown import open_brown
from bindesc.training.phototour_photos import build_from_photos

pytest.importorskip("pycolmap")

SIZE = (480, 360)
# Photos of a plane: what maps pixels of the first one to those of each.
MAPS = {
    "a.png": np.float64([[1, 0, 0], [0, 1, 0]]),
    "b.png": np.float64([[0.9, -0.2, 60], [0.2, 0.95, -20]]),
    "c.png": np.float64([[0.0, 1.1, 20], [-1.1, 0.0, 420]]),
}


def to_photo(name, xy):
    return xy @ MAPS[name][:, :2].T + MAPS[name][:, 2]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two places of three photos, and the models that a reconstruction would give."""
    root = tmp_path_factory.mktemp("places")
    points = np.stack(np.meshgrid(np.arange(0.0, 480, 16), np.arange(0.0, 360, 16)), -1)
    points = points.reshape(-1, 2)
    models = []
    for seed, place in enumerate(("hall", "wall")):
        (root / "photos" / place).mkdir(parents=True)
        plane = textured(360, 480, seed)
        for name, affine in MAPS.items():
            photo = cv2.warpAffine(plane, affine, SIZE, borderMode=cv2.BORDER_REFLECT)
            cv2.imwrite(str(root / "photos" / place / name), photo)
        seen = {f"{place}/{name}": to_photo(name, points) for name in MAPS}
        models.append(root / place)
        write_model(models[-1], seen, SIZE)
    return root / "photos", models


def test_the_patches_of_a_point_show_the_same(places, tmp_path):
    folder, models = places
    made = build_from_photos(folder, tmp_path / "out", models, keypoints=500, support=1.5)
    read = open_brown(tmp_path / "out")
    count = np.bincount(read.point)
    assert len(count) == made.points > 150
    assert made.patches == count.sum()
    assert count.min() == 2
    assert count.max() == 3
    index, same = read.read_pairs(f"m50_{made.pairs}_{made.pairs}_0.txt")
    assert same.sum() == (~same).sum() == made.pairs

    patches = read.read_patches().astype(float)
    patches -= patches.mean((1, 2), keepdims=True)
    patches /= patches.std((1, 2), keepdims=True)
    likeness = (patches[index[:, 0]] * patches[index[:, 1]]).mean((1, 2))
    assert np.median(likeness[same]) > 0.6 > 0.3 > np.median(likeness[~same])


def test_the_interest_points_of_a_point_lie_together(places, tmp_path):
    folder, models = places
    build_from_photos(folder, tmp_path / "out", models, keypoints=500)
    read = open_brown(tmp_path / "out")
    image, x, y, angle, scale = read.read_interest().T
    assert set(image) == set(range(6))
    # Back into the pixels of each place's first photo.
    place, xy, turn = image // 3, np.stack([x, y], 1), np.empty(len(x))
    for number, (name, affine) in enumerate(MAPS.items()):
        mine = image % 3 == number
        xy[mine] = np.linalg.solve(affine[:, :2], (xy[mine] - to_photo(name, 0 * xy[mine])).T).T
        turn[mine] = angle[mine] - np.arctan2(affine[1, 0], affine[0, 0])
    last, this = np.arange(len(x) - 1), np.arange(1, len(x))
    paired = read.point[last] == read.point[this]
    last, this = last[paired], this[paired]
    assert (place[last] == place[this]).all()
    assert (image[last] < image[this]).all()
    # Each lies within the tolerance of the track's reference.
    assert (np.linalg.norm(xy[last] - xy[this], axis=1) < 2 * 0.09 * 2 ** scale[this]).all()
    assert (np.cos(turn[last] - turn[this]) > np.cos(np.radians(2 * 35 + 5))).all()


def test_the_command_gives_the_same_bytes_again(places, tmp_path, capsys):
    folder, models = places
    command = ["patches", "build", str(folder), "--format", "phototour", "--seed", "3"]
    command += ["--partners", "1", *(f"--colmap={model}" for model in models)]
    for name in ("first", "second"):
        assert main([*command, "--out", str(tmp_path / name)]) == 0
    assert "patches of" in capsys.readouterr().out
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("first", "second")
    )
    assert first == second
    assert {"info.txt", "interest.txt", "patches0000.png"} < set(first)


def refuse(tmp_path, capsys, folder, model):
    command = ["patches", "build", str(folder), "--format", "phototour", "--colmap", str(model)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    (line,) = [s for s in capsys.readouterr().err.splitlines() if s.startswith("bindesc:")]
    return line


def test_photos_that_are_not_there_are_named(places, tmp_path, capsys):
    folder, models = places
    line = refuse(tmp_path, capsys, folder / "wall", models[0])
    assert "of its 3 photos 3 are not there, such as hall/a.png" in line


def test_photos_of_another_size_are_refused(places, tmp_path, capsys):
    folder, _ = places
    points = {f"wall/{name}": np.random.default_rng(0).random((80, 2)) * 200 for name in MAPS}
    write_model(tmp_path / "small", points, (240, 180))
    line = refuse(tmp_path, capsys, folder, tmp_path / "small")
    assert "a.png: 480x360 pixels, but the COLMAP model was made at 240x180" in line


def test_photos_without_common_points_are_refused(places, tmp_path, capsys):
    folder, _ = places
    few = {f"wall/{name}": np.random.default_rng(0).random((9, 2)) * 200 for name in MAPS}
    write_model(tmp_path / "few", few, SIZE)
    assert "no two photos share 60 points" in refuse(tmp_path, capsys, folder, tmp_path / "few")


def test_points_without_keypoints_are_refused(tmp_path, capsys):
    for name in ("a.png", "b.png"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "photos" / name), np.zeros((360, 480), np.uint8))
    points = np.random.default_rng(0).random((80, 2)) * 300
    write_model(tmp_path / "flat", {"a.png": points, "b.png": points}, SIZE)
    line = refuse(tmp_path, capsys, tmp_path / "photos", tmp_path / "flat")
    assert "fewer than two keypoints" in line


def test_what_is_no_folder_of_photos_or_model_is_refused(places, tmp_path, capsys):
    folder, models = places
    (tmp_path / "empty").mkdir()
    assert "no images" in refuse(tmp_path, capsys, tmp_path / "empty", models[0])
    assert "not a COLMAP model" in refuse(tmp_path, capsys, folder, tmp_path / "empty")
