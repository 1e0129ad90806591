import cv2
import numpy as np
import pytest
from pictures import textured_gray

from bindesc.cli import main
from bindesc.image import ImageError
from bindesc.training.brown import open_brown
from bindesc.training.phototour import build_phototour

TURNED = np.array([[0.0, -1.1, 400], [1.1, 0.0, 10], [0, 0, 1]])


@pytest.fixture
def sequences(tmp_path):
    """Two of three images: the original, one turned by 90 degrees, one darker."""
    for seed in range(2):
        folder = tmp_path / "sequences" / f"s{seed}"
        folder.mkdir(parents=True)
        image = textured_gray(300, 340, seed)
        views = [image, cv2.warpPerspective(image, TURNED, (420, 420)), image // 2]
        for number, view in enumerate(views, 1):
            cv2.imwrite(str(folder / f"img{number}.png"), view)
        np.savetxt(folder / "H1to2p", TURNED)
        np.savetxt(folder / "H1to3p", np.eye(3))
    return tmp_path / "sequences"


def test_the_patches_of_a_point_show_the_same(sequences, tmp_path):
    made = build_phototour(sequences, tmp_path / "out", support=1.5)
    read = open_brown(tmp_path / "out")
    assert made.patches == len(read) == len(read.read_patches())
    assert made.points == len(np.unique(read.point)) > 100
    assert (np.bincount(read.point) >= 2).all()
    assert (np.diff(read.point) >= 0).all()
    index, same = read.read_pairs(f"m50_{made.pairs}_{made.pairs}_0.txt")
    assert same.sum() == (~same).sum() == made.pairs
    assert len(np.unique(np.sort(index[same], 1), axis=0)) == made.pairs

    patches = read.read_patches().astype(float)
    patches -= patches.mean((1, 2), keepdims=True)
    patches /= patches.std((1, 2), keepdims=True)
    likeness = (patches[index[:, 0]] * patches[index[:, 1]]).mean((1, 2))
    assert np.median(likeness[same]) > 0.6 > 0.3 > np.median(likeness[~same])


def test_the_interest_points_lie_where_the_homography_says(sequences, tmp_path):
    build_phototour(sequences / "s0", tmp_path / "out")
    read = open_brown(tmp_path / "out")
    image, x, y, angle, scale = read.read_interest().T
    assert set(image) == {0, 1, 2}
    frame = np.stack([x, y, angle, scale], 1)
    first, second = (
        dict(zip(read.point[image == k], frame[image == k], strict=True)) for k in (0, 1)
    )
    shared = sorted(first.keys() & second.keys())
    assert len(shared) > 20
    for point in shared:
        expected = TURNED @ [*first[point][:2], 1]
        assert np.linalg.norm(second[point][:2] - expected[:2]) < 0.08 * 2 ** second[point][3] + 0.1
        turn = np.degrees(second[point][2] - first[point][2] - np.pi / 2)
        assert abs((turn + 180) % 360 - 180) <= 35


def test_the_command_writes_a_folder(sequences, tmp_path, capsys):
    command = ["patches", "build", str(sequences), "--format", "phototour"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "patches of" in capsys.readouterr().out
    assert (tmp_path / "out" / "interest.txt").is_file()
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "exists already" in capsys.readouterr().err


def test_what_is_no_sequence_is_refused(sequences, tmp_path):
    with pytest.raises(ImageError, match="no image sequence"):
        build_phototour(tmp_path / "nothing", tmp_path / "out")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number in (1, 2):
        cv2.imwrite(str(flat / f"img{number}.png"), np.zeros((90, 90), np.uint8))
    np.savetxt(flat / "H1to2p", np.eye(3))
    with pytest.raises(ValueError, match="fewer than two keypoints"):
        build_phototour(flat, tmp_path / "out")
    (sequences / "s0" / "H1to2p").write_text("1 2 3")
    with pytest.raises(ValueError, match="H1to2p: expected an invertible"):
        build_phototour(sequences, tmp_path / "out")
    (sequences / "s0" / "img3.png").unlink()
    with pytest.raises(ImageError, match="img3"):
        build_phototour(sequences, tmp_path / "out")
    assert not (tmp_path / "out").exists()
